"""Can we learn better with hard samples?"""

from typing import TYPE_CHECKING

from assay.claims.card import Claim, Headline, Paper, Scale

if TYPE_CHECKING:
    from assay.claims.check import Check
    from assay.trials.result import TrialResult


def trial(check: "Check") -> "TrialResult":
    """All of the fixed batches against the hardest half and fifth of them, and that half against shuffled batches."""
    from assay.engine import Recipe
    from assay.methods.hard_minibatch import HardMiniBatch
    from assay.trials import Arm

    recipe = Recipe(lr=0.1, momentum=0.9, schedule="cosine", batch_size=64)
    return check.compare(
        [
            Arm("fixed", recipe.with_methods([HardMiniBatch(1.0)])),
            Arm("hard half", recipe.with_methods([HardMiniBatch(0.5)])),
            Arm("hard fifth", recipe.with_methods([HardMiniBatch(0.2)])),
            Arm("shuffled", recipe, against="hard half"),
        ],
        quick_task="digits:model=mlp",
        quick_budget="3epochs",
        vary=("init", "order", "split"),
        tune={"lr": [0.01, 0.03, 0.1, 0.3, 1.0]},
        tune_seeds=2,
    )


PAPER = Paper(
    slug="hard-minibatch",
    title="Can we learn better with hard samples?",
    authors=("Subin Sahayam", "John Zakkam", "Umarani Jayaraman"),
    year=2023,
    venue="arXiv",
    family="optimisers, batch size, memory",
    summary="After one ordinary pass, revisit only those mini-batches whose last loss was highest, within the same "
    "number of optimiser steps.",
    arxiv="2304.03486",
    code="imjohnzakkam/DyBAT",
    added="2026-11-22",
    objects=("assay.data.hard_minibatch.HardMiniBatchSampler",),
    method="assay.methods.hard_minibatch.HardMiniBatch",
    example="digits:model=mlp --with hard-minibatch:delta=0.5",
    headline=(
        Headline(
            "CIFAR-10, test top-1 accuracy (%)",
            {
                "ResNet-18, all batches": 69.6,
                "ResNet-18, half": 69.2,
                "ResNet-50, all batches": 63.1,
                "ResNet-50, half": 64.6,
            },
        ),
        Headline("CIFAR-100, ResNet-18, gain in top-1 accuracy (points)", {"hard batches": 7.26}),
        Headline("STL-10, EfficientNet-B4, fewer epochs to generalise (%)", {"hard batches": 26.47}),
    ),
    claim=Claim(
        statement="In as many steps, which are as many FLOPs, visiting only the half of fixed batches that had the "
        "highest losses gives a higher test accuracy than visiting all of them, by at least a point",
        task="fashion-mnist:model=cnn,train_size=2560",
        arms={
            "fixed": "40 fixed batches of 64, all of them in the same order every epoch: the paper's baseline",
            "hard half": "the same batches, all in the first pass, then in each pass the 20 of highest last loss",
            "hard fifth": "likewise the 8 of highest last loss",
            "shuffled": "other batches every epoch, as is usual; set against the hard half",
        },
        metric="accuracy",
        direction="higher",
        smallest_effect=0.01,
        seeds=10,
        budget="12epochs",
        decides=("hard half", "fixed"),
        tuning="learning rate 0.01, 0.03, 0.1, 0.3 or 1 for every arm, by validation accuracy, the mean of two seeds. "
        "As in the paper no weight decay and no augmentation; but the rate falls to 0 by a cosine, where the paper "
        "keeps it: five runs of the fixed arm at seed 950, one a rate, went up and down by four points with a constant "
        "rate, which would hide any effect, and not with the cosine",
        power="Fixed before any run of another arm. With differences of 0.7 points between seeds, the test set's own "
        "error and three comparisons, 10 seeds find an effect about a point above the smallest four times in five. No "
        "forward pass is made for the ranking, so that equal steps are equal FLOPs; were they not, a baseline at equal "
        "FLOPs would run by itself. A run took 13 seconds of a busy core at seed 950: 40 to tune and 40 to judge are 9 "
        "minutes of two cores.",
        trial=trial,
    ),
    paper_scale="CIFAR-100, ResNet-18, batch 64 to 512, SGD, 100 epoch equivalents, half of the batches, 5 seeds",
    caveat="Of a small network, 2,560 pictures, 12 epochs and a cosine; the paper's gains are of ResNets and larger, "
    "100 epochs and a constant rate. New batches every epoch were 0.58 points above the hard half (0.29 to 0.87).",
    scales=(
        Scale(
            "CIFAR-100, ResNet-18, 100 epoch equivalents: one run",
            samples=100 * 50_000,
            flops=6 * 1.8e9 * (128 / 224) ** 2,
            note="from the 1.8e9 multiply-adds of a forward pass at 224 pixels (He et al. 2016), at 128 pixels, "
            "backward twice that; the ranking costs nothing",
        ),
    ),
)
