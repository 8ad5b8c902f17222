"""BT^2: Backward-compatible Training with Basis Transformation."""

from typing import TYPE_CHECKING

from assay.claims.card import Claim, Headline, Paper

if TYPE_CHECKING:
    from assay.claims.check import Check
    from assay.trials.result import TrialResult


def trial(check: "Check") -> "TrialResult":
    """BCT against BT^2 and against what is left of BT^2 without its bases; and a model that knows of no old one."""
    from assay.engine import Recipe
    from assay.methods.bt2 import BT2
    from assay.trials import Arm

    recipe = Recipe(optimizer="adam", lr=2e-3, schedule="cosine", batch_size=64)
    return check.compare(
        [
            Arm("bct", recipe.with_methods([BT2(mode="bct", old=0.0, added_dim=0)])),
            Arm("bt2", recipe.with_methods([BT2()])),
            Arm("bct, matched", recipe.with_methods([BT2(mode="bct")]), against="bt2"),
            Arm("independent", recipe),
        ],
        quick_task="retrieval",
        quick_budget="20steps",
        vary=("init", "order", "split"),
        tune={"lr": [0.0005, 0.001, 0.002, 0.005, 0.01], "bt2.influence": [1.0, 3.0, 10.0]},
        tune_seeds=3,
    )


PAPER = Paper(
    slug="bt2",
    title="BT^2: Backward-compatible Training with Basis Transformation",
    authors=(
        "Yifei Zhou",
        "Zilu Li",
        "Abhinav Shrivastava",
        "Hengshuang Zhao",
        "Antonio Torralba",
        "Taipeng Tian",
        "Ser-Nam Lim",
    ),
    year=2023,
    venue="ICCV",
    family="objectives and representations",
    summary="Let a new embedding model search a gallery that an old one made. A few extra dimensions and learnt "
    "orthonormal changes of basis put a part comparable with the old space beside all that an independent new model "
    "knows.",
    arxiv="2211.03989",
    code="YifeiZhou02/BT-2",
    added="2026-11-22",
    objects=(
        "assay.nn.basis_transformation.BasisTransformation",
        "assay.nn.basis_transformation.BT2Head",
        "assay.losses.backward_compatible.BT2Loss",
        "assay.losses.backward_compatible.BCTLoss",
        "assay.losses.backward_compatible.pseudo_classifier",
        "assay.metrics.retrieval.retrieval",
        "assay.metrics.retrieval.truncated_distance",
        "assay.models.embedder.BT2Embedder",
    ),
    method="assay.methods.bt2.BT2",
    example="retrieval --with bt2",
    headline=(
        Headline(
            "CIFAR-100, 50 to 100 classes, new query on old gallery, top-1 (%)",
            {"old on old": 33.6, "independent": 0.8, "BCT": 25.0, "BT^2": 38.7},
        ),
        Headline(
            "CIFAR-100, 50 to 100 classes, new on new, top-1 (%)", {"independent": 62.7, "BCT": 60.0, "BT^2": 62.4}
        ),
        Headline(
            "ImageNet, 500 to 1000 classes, new query on old gallery, top-1 (%)",
            {"old on old": 40.9, "independent": 0.1, "BCT": 44.3, "BT^2": 44.4},
        ),
        Headline(
            "ImageNet, 500 to 1000 classes, new on new, top-1 (%)", {"independent": 67.9, "BCT": 65.3, "BT^2": 66.6}
        ),
    ),
    claim=Claim(
        statement="When an old model knew five of ten classes, a new model's queries find their class in the old "
        "gallery more often with BT^2 than with backward-compatible training, by at least five points",
        task="retrieval",
        arms={
            "bct": "influence loss alone, no added dimensions: backward-compatible training",
            "bt2": "four added dimensions, two learnt bases, influence loss, and pulls to the old and to an "
            "independent new model's features",
            "bct, matched": "BT^2 without its bases: four added dimensions, influence loss and the pull to the old "
            "features; set against BT^2",
            "independent": "a new model that knows of no old one",
        },
        metric="new_on_old",
        direction="higher",
        smallest_effect=0.05,
        seeds=16,
        budget="30epochs",
        decides=("bt2", "bct"),
        tuning="learning rate 0.0005, 0.001, 0.002, 0.005 or 0.01 for every arm, and weight of the influence loss 1, "
        "3 or 10 where there is one, by validation queries on the old gallery, the mean of three seeds",
        power="Fixed before any run of the trial, after a pilot of each arm at seed 900 for its cost, whose figures "
        "were seen: 63% for BCT, 74% for BT^2, 78% for the matched arm. With differences of 10 points between seeds, "
        "16 seeds and four comparisons an effect of about 15 points is found four times in five.",
        trial=trial,
    ),
    caveat="The pull to the old model's features gives as much without the bases, and backward-compatible training as "
    "much at BT^2's FLOPs, which count the independent model it follows. Three arms were best at the highest rate "
    "tried. New queries on new items are right 97% of the time in every arm.",
    paper_scale="CIFAR-100 and ImageNet, ResNet-50, Adam, batch 128 and 256, 100 epochs",
)
