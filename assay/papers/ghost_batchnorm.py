"""Train longer, generalize better: closing the generalization gap in large batch training of neural networks."""

from typing import TYPE_CHECKING

from assay.claims.card import Claim, Headline, Paper

if TYPE_CHECKING:
    from assay.claims.check import Check
    from assay.trials.result import TrialResult

SMALL, LARGE = 32, 256


def trial(check: "Check") -> "TrialResult":
    """The paper's ladder: small batch, large batch, and the remedies one on top of the other."""
    from assay.engine import Recipe
    from assay.methods.ghost_batch_norm import GhostBatchNorm
    from assay.methods.weight_distance import WeightDistance
    from assay.optim.large_batch import adapt_regime, sqrt_scaled_lr
    from assay.trials import Arm

    small = Recipe(
        lr=0.05,
        momentum=0.9,
        weight_decay=1e-4,
        schedule="cosine",
        batch_size=8 if check.quick else SMALL,
        clip_norm=5.0,
        methods=(WeightDistance(),),  # changes no run; its fits are the paper's second finding
    )
    large = small.with_settings({"batch_size": 64 if check.quick else LARGE})
    scaled = large.with_settings({"lr": sqrt_scaled_lr(small.lr, small.batch_size, large.batch_size)})
    ghost = scaled.with_methods([GhostBatchNorm(small.batch_size, scale_lr=False), *small.methods])
    epochs = 1 if check.quick else 12
    longer = adapt_regime((), epochs, small.batch_size, large.batch_size).epochs
    return check.compare(
        [
            Arm("large batch", large),
            Arm("small batch", small, against="large batch"),
            Arm("sqrt rate", scaled, against="large batch"),
            Arm("sqrt rate, ghost", ghost, against="sqrt rate"),
            Arm("sqrt rate, ghost, longer", ghost, budget=f"{longer}epochs", against="small batch"),
        ],
        quick_task="digits",
        quick_budget="1epochs",
        vary=("init", "order", "split"),
        tune={"lr": [0.02, 0.05, 0.15, 0.4, 1.0, 2.5]},
        equal_flops=False,
    )


PAPER = Paper(
    slug="ghost-batchnorm",
    title="Train longer, generalize better: closing the generalization gap in large batch training of neural networks",
    authors=("Elad Hoffer", "Itay Hubara", "Daniel Soudry"),
    year=2017,
    venue="NIPS",
    family="optimisers, batch size, memory",
    summary="Why large batches generalise worse, and four remedies used together: a rate scaled by the root "
    "of the batch, batch-norm statistics over small ghost batches, clipping, and as many updates as the small batch.",
    arxiv="1705.08741",
    code="eladhoffer/bigBatch",
    objects=(
        "assay.nn.ghost_batch_norm.GhostBatchNorm",
        "assay.nn.ghost_batch_norm.to_ghost_batch_norm",
        "assay.optim.large_batch.sqrt_scaled_lr",
        "assay.optim.large_batch.adapt_regime",
        "assay.optim.large_batch.clip_at_high_lr",
        "assay.optim.regime.SGDRegime",
        "assay.optim.gradient_noise.noisy_mean",
        "assay.analysis.weight_distance.WeightDistance",
        "assay.models.large_batch.f1",
        "assay.models.large_batch.resnet44",
        "assay.models.large_batch.wresnet16_4",
        "assay.models.large_batch.shallow_cifar",
        "assay.models.large_batch.alexnet_bn",
    ),
    method="assay.methods.ghost_batch_norm.GhostBatchNorm",
    example="digits --with ghost-batchnorm:ghost_batch_size=16 --set batch_size=128",
    headline=(
        Headline(
            "CIFAR-10, ResNet-44, batch 4096 against 128, validation accuracy (%)",
            {
                "small batch": 92.83,
                "large batch": 86.10,
                "+ learning rate": 89.30,
                "+ ghost batch norm": 90.50,
                "+ regime adaptation": 93.07,
            },
        ),
        Headline(
            "MNIST, F1, batch 4096 against 128, validation accuracy (%)",
            {
                "small batch": 98.27,
                "large batch": 97.05,
                "+ learning rate": 97.55,
                "+ ghost batch norm": 97.60,
                "+ regime adaptation": 98.53,
            },
        ),
    ),
    claim=Claim(
        statement="On top of the square-root learning-rate rule, batch-norm statistics over ghost batches of 32 raise "
        "the test accuracy reached with batches of 256",
        task="fashion-mnist:train_size=1024",
        arms={
            "large batch": "batch 256",
            "small batch": "batch 32, as many epochs",
            "sqrt rate": "batch 256, learning rate times sqrt(8), then tuned: all arms being tried at the same rates, "
            "the large batch once more",
            "sqrt rate, ghost": "batch 256 with ghost batches of 32",
            "sqrt rate, ghost, longer": "the same, 8 times as many epochs: as many updates as the small batch",
        },
        metric="accuracy",
        direction="higher",
        smallest_effect=0.002,
        seeds=12,
        budget="12epochs",
        decides=("sqrt rate, ghost", "sqrt rate"),
        tuning="learning rate 0.02, 0.05, 0.15, 0.4, 1 or 2.5, or one that an arm came with (0.05, 0.141), for every "
        "arm, by validation accuracy from one seed. The grid of the first check ended at 0.4, and every arm with a "
        "batch of 256 was best at that edge, so it was not fair to the baseline (it gave +0.25 points, from -0.08 to "
        "0.58, inconclusive). For this one the grid was widened; seeds, smallest effect and metric are those of the "
        "first. Tuned alike, `sqrt rate` and `large batch` differ in nothing but which rate is tried first",
        power="Fixed before any run. With differences of 0.8 points between seeds, 12 seeds and four comparisons an "
        "effect of about 1.2 points is found four times in five; the ladder of a pilot on digits had steps of 1 to 3. "
        "What a check costs was estimated from runs at seed 777, of which no accuracy was read.",
        trial=trial,
    ),
    paper_scale="CIFAR-10, ResNet-44, batch 2048 to 4096, ghost batch 128, 100 to 200 epochs, lr 0.1 sqrt(B / 128), "
    "weight decay 1e-4, clip 5",
    caveat="The gain hangs on the rates that tuning found. One tuning seed put the baseline at 1, by 0.1 points of "
    "validation accuracy over 0.4; at 0.4, where the first check had both arms, the same seeds gave +0.25 points, from "
    "-0.08 to 0.58. What the choice of a rate from one seed adds to the uncertainty is not in the interval.",
)
