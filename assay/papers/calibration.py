"""A Benchmark Study on Calibration."""

from typing import TYPE_CHECKING

from assay.claims.card import Claim, Paper

if TYPE_CHECKING:
    from assay.claims.check import Check
    from assay.trials.result import TrialResult


def trial(check: "Check") -> "TrialResult":
    """The same networks with and without a temperature, and how far their order hangs on the number of bins."""
    from assay.methods.calibration import Calibration
    from assay.tasks.network_space import NetworkSpace
    from assay.trials import Arm

    recipe = NetworkSpace.recipe
    return check.compare(
        [Arm("temperature", recipe.with_methods([Calibration()])), Arm("as trained", recipe)],
        quick_task="network-space:networks=3,data=digits",
        quick_budget="5steps",
        vary=("init", "order", "split"),
        equal_flops=False,
        evaluations=1,
    )


PAPER = Paper(
    slug="calibration",
    title="A Benchmark Study on Calibration",
    authors=("Linwei Tao", "Younan Zhu", "Haolan Guo", "Minjing Dong", "Chang Xu"),
    year=2024,
    venue="ICLR",
    family="objectives and representations",
    summary="Measure the calibration of 117,702 networks of an architecture-search benchmark in about a hundred ways, "
    "before and after temperature scaling. An architecture's calibration does not carry over between data sets.",
    arxiv="2308.11838",
    code="Linwei94/calibration-study",
    added="2026-11-22",
    objects=(
        "assay.metrics.calibration.bins.expected_calibration_error",
        "assay.metrics.calibration.bins.max_calibration_error",
        "assay.metrics.calibration.bins.classwise_calibration_error",
        "assay.metrics.calibration.bins.ks_calibration_error",
        "assay.metrics.calibration.kde.kde_calibration_error",
        "assay.metrics.calibration.kde.dirichlet_calibration_error",
        "assay.metrics.calibration.mmce.mmce",
        "assay.metrics.calibration.scores.negative_log_likelihood",
        "assay.metrics.calibration.scores.brier_score",
        "assay.metrics.calibration.scores.harmonic_calibration_score",
        "assay.metrics.calibration.scores.ood_auroc",
        "assay.metrics.calibration.report.calibration_report",
        "assay.metrics.calibration.accumulate.Accumulated",
        "assay.metrics.calibration.accumulate.BinnedCalibration",
        "assay.metrics.calibration.reliability.reliability",
        "assay.nn.logit_scaling.TemperatureScaling",
        "assay.nn.logit_scaling.VectorScaling",
        "assay.nn.logit_scaling.MatrixScaling",
        "assay.nn.probability_maps.IsotonicCalibration",
        "assay.nn.probability_maps.HistogramBinning",
        "assay.analysis.calibration_study.study",
        "assay.tasks.network_space.NetworkSpace",
    ),
    method="assay.methods.calibration.Calibration",
    example="digits:model=mlp --with calibration:how=temperature",
    claim=Claim(
        statement="Fifty networks ranked by their expected calibration error keep more of their order between 15 and "
        "500 bins as they were trained than after temperature scaling: Kendall's tau is higher by at least 0.1",
        task="network-space:networks=50,train_size=1000",
        arms={
            "temperature": "50 perceptrons of a space of 160, each with a temperature fitted on 5000 validation images",
            "as trained": "the same networks without one",
        },
        metric="agreement",
        direction="higher",
        smallest_effect=0.1,
        seeds=12,
        budget="20epochs",
        decides=("as trained", "temperature"),
        tuning="none: both arms are the same trained networks, at settings chosen once; a seed draws networks, "
        "weights, order and the training and validation images. The temperature never sees the 10,000 test images, "
        "which are as many as CIFAR's, and changes no prediction, so that accuracy cannot tell the arms apart",
        power="Fixed before any run of it. A tau of 50 networks has a standard error of about 0.1; with differences "
        "between seeds of 0.15, 12 seeds and one comparison an effect 0.13 above the smallest is found four times in "
        "five. A pilot with 8 networks at seed 901, for the length of training, was read for accuracy and temperatures "
        "alone: the median temperature was 1.3, so the networks are overconfident, as they should be. The cost, 48 "
        "seconds of a busy core a run, is from 20 timed steps at seed 902.",
        trial=trial,
    ),
    paper_scale="NATS-Bench, three data sets, 117k networks, inference only",
)
