"""FRUGAL: Memory-Efficient Optimization by Reducing State Overhead for Scalable Training."""

from typing import TYPE_CHECKING

from assay.claims.card import Claim, Paper

if TYPE_CHECKING:
    from assay.claims.check import Check
    from assay.trials.result import TrialResult


def trial(check: "Check") -> "TrialResult":
    """AdamW, what saves its memory by leaving a part of the weights alone, and FRUGAL, each at its own best rate."""
    from assay.engine import Recipe
    from assay.methods.frugal import FRUGAL
    from assay.methods.lora import LoRA
    from assay.trials import Arm

    recipe = Recipe(optimizer="adamw", beta2=0.999, schedule="cosine", warmup=0.1, batch_size=16, clip_norm=1.0)
    gap = 2 if check.quick else 25
    galore = FRUGAL(projection="svd", state_free="none", reset_statistics=False, update_gap=gap)
    badam = FRUGAL(state_free="none", block_order="descending", update_gap=gap)
    return check.compare(
        [
            Arm("adamw", recipe),
            Arm("galore", recipe.with_methods([galore])),
            Arm("badam", recipe.with_methods([badam])),
            Arm("lora", recipe.with_methods([LoRA(4 if check.quick else 32)])),
            Arm("frugal", recipe.with_methods([FRUGAL(block_order="descending", update_gap=gap)]), against="galore"),
            Arm("no state", recipe.with_methods([FRUGAL(0.0, update_gap=gap)])),
        ],
        quick_task="text:context=16,width=16,depth=1,heads=2",
        quick_budget="5steps",
        tune={"lr": [0.0003, 0.001, 0.003, 0.01, 0.03]},
        equal_flops=False,
        evaluations=1,
    )


PAPER = Paper(
    slug="frugal",
    title="FRUGAL: Memory-Efficient Optimization by Reducing State Overhead for Scalable Training",
    authors=("Philip Zmushko", "Aleksandr Beznosikov", "Martin Takáč", "Samuel Horváth"),
    year=2025,
    venue="ICML",
    family="optimisers, batch size, memory",
    summary="Give optimiser state, such as Adam's, to a small and changing part of every weight matrix and update the "
    "rest by a stateless rule, such as signSGD: low memory with updates of full rank.",
    arxiv="2411.07837",
    code="fzmushko/FRUGAL",
    added="2026-11-22",
    objects=(
        "assay.optim.frugal.FRUGAL",
        "assay.optim.frugal.frugal_groups",
        "assay.optim.state_bytes.state_bytes",
        "assay.nn.lora.to_lora",
    ),
    method="assay.methods.frugal.FRUGAL",
    example="text --with frugal:density=0.25",
    claim=Claim(
        statement="After the same 250 steps and with a quarter of Adam's state, on average, for the weights of hidden "
        "layers, a transformer has a lower test loss with FRUGAL than with GaLore, by at least 0.02 bits per byte",
        task="text",
        arms={
            "adamw": "torch's AdamW: all state",
            "galore": "Adam along the leading quarter of the gradient's singular vectors, state kept over refreshes; "
            "nothing else of these weights moves",
            "badam": "Adam on two of the eight weight matrices, in turns, which are a sixth or a third of the weights; "
            "the others stay",
            "lora": "corrections of rank 32, a quarter of the width, to weights frozen at their random start",
            "frugal": "Adam on the same two matrices; sign steps on the rest; set against galore",
            "no state": "sign steps on all these weights: a control",
        },
        metric="bits_per_byte",
        direction="lower",
        smallest_effect=0.02,
        seeds=5,
        budget="250steps",
        decides=("frugal", "galore"),
        tuning="learning rate 0.0003, 0.001, 0.003, 0.01 or 0.03 for every arm, by validation loss from one seed, as "
        "a sign step is longer than Adam's at the same rate. Embeddings, positions, norms, biases and readout have "
        "Adam in all arms; no weight decay; betas, warm-up, cosine and clipping are alike; the part with state changes "
        "every 25 steps, ten times a run. GaLore's scale of 0.25 is left to the rate",
        power="Fixed before any run of the claim. With differences of 0.02 bits per byte between seeds, 5 seeds and "
        "five comparisons find a gain of 0.07 four times in five, where the margin of 0.02 is counted in. A pilot at "
        "seed 77, none of the claim's, gave the cost and the ends of the grid: frugal and no state did worse at 0.0003 "
        "than at 0.001, galore and badam at 0.03 than at 0.01. Nothing was changed after it.",
        trial=trial,
    ),
    caveat="250 steps are few beside the paper's 200,000, and the sign steps' rate is tied to Adam's, the paper's "
    "default. Sign steps without any state end as low as FRUGAL (3.57 and 3.56 bits), AdamW at 3.49, GaLore at 3.42.",
    paper_scale="C4, 130M LLaMA, 200k steps, batch 512",
)
