"""Large Batch Optimization for Deep Learning: Training BERT in 76 minutes."""

from typing import TYPE_CHECKING

from assay.claims.card import Claim, Headline, Paper

if TYPE_CHECKING:
    from assay.claims.check import Check
    from assay.trials.result import TrialResult


def trial(check: "Check") -> "TrialResult":
    """AdamW against LAMB and LARS at a large batch, the rate of each tuned on a grid of its own scale."""
    from assay.engine import Recipe
    from assay.methods.lamb import LAMB
    from assay.trials import Arm

    recipe = Recipe(
        optimizer="adamw",
        lr=3e-3,
        beta2=0.999,
        weight_decay=0.01,
        schedule="linear",
        warmup=0.1,
        batch_size=16 if check.quick else 256,
    )
    return check.compare(
        [
            Arm("adamw", recipe),
            Arm("lamb", recipe.with_methods([LAMB()])),
            Arm("lars", recipe.with_methods([LAMB(optimizer="lars-2020")])),
        ],
        quick_task="text:context=16,width=16,depth=1,heads=2",
        quick_budget="10steps",
        tune={"lr": [0.001, 0.003, 0.01, 0.03, 0.1]},
    )


PAPER = Paper(
    slug="lamb",
    title="Large Batch Optimization for Deep Learning: Training BERT in 76 minutes",
    authors=(
        "Yang You",
        "Jing Li",
        "Sashank Reddi",
        "Jonathan Hseu",
        "Sanjiv Kumar",
        "Srinadh Bhojanapalli",
        "Xiaodan Song",
        "James Demmel",
        "Kurt Keutzer",
        "Cho-Jui Hsieh",
    ),
    year=2020,
    venue="ICLR",
    family="optimisers, batch size, memory",
    summary="For very large batches, normalise each layer's update and rescale it to the norm of the layer's weights: "
    "with momentum as its base this is LARS, with Adam and decoupled weight decay LAMB.",
    arxiv="1904.00962",
    code="tensorflow/addons",
    objects=(
        "assay.optim.lamb.LAMB",
        "assay.optim.lars.LARS",
        "assay.optim.roles.decay_groups",
    ),
    method="assay.methods.lamb.LAMB",
    example="digits --with lamb:lr=0.02 --set batch_size=300",
    headline=(
        Headline("BERT-Large, SQuAD F1, batch 512", {"AdamW": 90.395, "LAMB": 91.752}),
        Headline("BERT-Large, SQuAD F1, LAMB by batch", {"4k": 91.137, "32k": 91.475, "64k/32k": 90.584}),
        Headline("BERT-Large, LAMB, training time (minutes) by batch", {"4k": 693.6, "32k": 101.2, "64k/32k": 76.2}),
    ),
    claim=Claim(
        statement="With batches of 256 sequences and 60 steps, a transformer reaches a lower test loss with LAMB than "
        "with AdamW, each at its best learning rate, by at least 0.02 bits per byte",
        task="text",
        arms={
            "adamw": "torch's AdamW",
            "lamb": "LAMB, vectors and normalisation neither decayed nor adapted",
            "lars": "LARS in the form analysed beside LAMB, with the same exclusions",
        },
        metric="bits_per_byte",
        direction="lower",
        smallest_effect=0.02,
        seeds=6,
        budget="60steps",
        decides=("lamb", "adamw"),
        tuning="learning rate 0.001, 0.003, 0.01, 0.03 or 0.1 for every optimizer, by validation loss from one "
        "seed; weight decay, betas, warm-up of a tenth and linear decay alike",
        power="Fixed before any run. Losses of seeds at one setting differ by about 0.02 bits per byte; 6 seeds and "
        "two comparisons find a gain of about 0.06 four times in five, where the margin of 0.02 is counted in.",
        trial=trial,
    ),
    paper_scale="BERT-Large on Wikipedia and Books, sequences of 128 then 512, batch 32k, lr 0.005, warm-up 0.2, "
    "weight decay 0.01, 15,625 steps; ResNet-50 on ImageNet, batch 32k, lr 0.04, 90 epochs",
    caveat="AdamW was best at 0.001, the lowest rate of the grid, so it may gain from lower ones.",
)
