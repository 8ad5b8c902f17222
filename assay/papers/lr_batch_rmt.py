"""Learning Rates as a Function of Batch Size: A Random Matrix Theory Approach to Neural Network Training."""

from typing import TYPE_CHECKING

from assay.claims.card import Claim, Paper, Scale

if TYPE_CHECKING:
    from torch import nn

    from assay.claims.check import Check
    from assay.trials.result import TrialResult


def trial(check: "Check") -> "TrialResult":
    """Adam's and SGD's largest rates, carried from batches of 16 by either rule and by none."""
    from assay.engine import Recipe
    from assay.methods.batch_scaling import BatchScaling
    from assay.trials import Arm

    adam = Recipe(optimizer="adam", lr=0.2, batch_size=128)
    sgd = Recipe(optimizer="sgd", lr=1.0, momentum=0.0, batch_size=128)
    rules = {"linear": [BatchScaling("linear", 16)], "square root": [BatchScaling("sqrt", 16)], "unscaled": []}
    arms = [
        Arm(f"{name}, {rule}", recipe.with_methods(methods))
        for name, recipe in (("adam", adam), ("sgd", sgd))
        for rule, methods in rules.items()
    ]
    return check.compare(
        arms,
        quick_task="stable-rates:octaves=1",
        quick_budget="1steps",
        vary=("init", "order", "split"),
        equal_flops=False,
        evaluations=1,
    )


def wide_resnet() -> "nn.Module":
    from assay.models.wide_resnet import WideResNet

    return WideResNet(28, 10, 100)


PAPER = Paper(
    slug="lr-batch-rmt",
    title="Learning Rates as a Function of Batch Size: A Random Matrix Theory Approach to Neural Network Training",
    authors=("Diego Granziol", "Stefan Zohren", "Stephen Roberts"),
    year=2022,
    venue="JMLR",
    family="optimisers, batch size, memory",
    summary="Model the mini-batch Hessian as the full one plus a random matrix that shrinks with the batch. The "
    "largest stable learning rate then grows linearly with the batch for SGD and as its square root for Adam.",
    arxiv="2006.09092",
    added="2026-11-22",
    objects=(
        "assay.analysis.curvature.Curvature",
        "assay.analysis.lanczos.lanczos",
        "assay.analysis.spectral_density.spectral_density",
        "assay.analysis.batch_spectrum.WignerNoise",
        "assay.analysis.batch_spectrum.MarchenkoPasturNoise",
        "assay.analysis.batch_spectrum.hessian_variance",
        "assay.analysis.batch_spectrum.measure",
        "assay.optim.batch_rates.max_learning_rate",
        "assay.optim.batch_rates.scale_learning_rate",
        "assay.optim.curvature_rate.CurvatureRate",
        "assay.optim.curvature_rate.optimal_heavy_ball",
    ),
    method="assay.methods.curvature_rate.CurvatureRate",
    example="digits --with lr-batch-rmt:every=2",
    claim=Claim(
        statement="Adam's largest learning rate that trains, carried from batches of 16 to batches of 2 to 128, is "
        "foretold better by the square-root rule than by the linear one: the log-log slope that is left is nearer to 0 "
        "by at least 0.2",
        task="stable-rates",
        arms={
            "adam, linear": "Adam at 0.2 times the batch over 16, times 2^-5 to 2^5",
            "adam, square root": "the same with the root of the batch over 16",
            "adam, unscaled": "the same with neither, so that the slope left is the whole slope",
            "sgd, linear": "SGD without momentum at 1 times the batch over 16, likewise",
            "sgd, square root": "the same with the root",
            "sgd, unscaled": "the same with neither",
        },
        metric="misfit",
        direction="lower",
        smallest_effect=0.2,
        seeds=10,
        budget="200steps",
        decides=("adam, square root", "adam, linear"),
        tuning="none: each run tries all multiples of its rate from 2^-5 to 2^5, two an octave, at each of four batch "
        "sizes, and `censored` says how often the largest that trains was not among them. Weights are equal at the "
        "start, there is no normalisation and no warm-up, and what trains is decided on unseen digits, by a loss below "
        "that of a guess; `misfit_half` asks for half of it instead",
        power="Fixed before any run of it. Where noise dominates theory foretells a difference of 0.5. A position on "
        "the grid of half octaves moves a slope by about 0.08; with differences of 0.15 between seeds, 10 seeds and "
        "five comparisons a difference of about 0.4 is found four times in five. A pilot of 60 steps at seed 901, none "
        "of the claim's, gave the cost; Adam's whole slope was 0.68 there, which was seen after the margin was chosen. "
        "A run takes some 12 seconds of a core, from those 60 timed steps.",
        trial=trial,
    ),
    paper_scale="CIFAR-100, VGG-16 and WideResNet-28-10, batch 128 to 8192, 300 epochs",
    caveat="The estimate is above the margin, the lower end of its interval is not: seeds have most of their pictures "
    "in common, for which it allows. Adam's largest rate went as the batch to the power of 0.63; that of SGD, for "
    "which theory has 1, to that of 0.44.",
    scales=(
        Scale(
            "CIFAR-100, WideResNet-28-10, 300 epochs: one run",
            samples=300 * 50_000,
            network=wide_resnet,
            sample=(3, 32, 32),
            batch=128,
        ),
    ),
)
