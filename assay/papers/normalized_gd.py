"""From Logistic Regression to the Perceptron Algorithm: Exploring Gradient Descent with Large Step Sizes."""

from typing import TYPE_CHECKING

from assay.claims.card import Claim, Paper

if TYPE_CHECKING:
    from assay.claims.check import Check
    from assay.trials.result import TrialResult


def trial(check: "Check") -> "TrialResult":
    """Gradient descent on the logistic loss against the normalised one, each at the best of the same step sizes."""
    from assay.methods.normalized_gd import NormalizedGD
    from assay.tasks.separation import Separation
    from assay.trials import Arm

    recipe = Separation.recipe
    return check.compare(
        [Arm("logistic", recipe), Arm("normalised", recipe.with_methods([NormalizedGD()]))],
        quick_task="separation:data=hard",
        quick_budget="300steps",
        vary=("init", "order", "split"),
        tune={"lr": [0.1, 1.0, 10.0, 100.0, 1e3, 1e4, 1e5, 1e6]},
        tune_seeds=2,
        evaluations=1,
    )


PAPER = Paper(
    slug="normalized-gd",
    title="From Logistic Regression to the Perceptron Algorithm: Exploring Gradient Descent with Large Step Sizes",
    authors=("Alexander Tyurin",),
    year=2024,
    venue="arXiv",
    family="optimisers, batch size, memory",
    summary="On separable data, gradient descent on the logistic loss turns into a batch perceptron as its step "
    "grows: the loss rises, yet fewer iterations reach zero training error. A normalised variant drops a factor n "
    "from the iteration bound.",
    arxiv="2412.08424",
    added="2026-11-22",
    objects=(
        "assay.optim.separation.separate",
        "assay.optim.separation.normalized_logistic_gradient",
        "assay.losses.normalized_logistic.normalized_logistic_loss",
        "assay.analysis.separability.separable_margin",
        "assay.analysis.separability.iteration_bound",
        "assay.analysis.separability.hard_family",
        "assay.tasks.separation.Separation",
    ),
    method="assay.methods.normalized_gd.NormalizedGD",
    example="separation:data=hard --with normalized-gd",
    claim=Claim(
        statement="To separate 1000 sandals and sneakers of Fashion-MNIST by a hyperplane, normalised gradient "
        "descent on the logistic loss takes fewer iterations than plain gradient descent, each at its best step size, "
        "by a factor of at least the root of two",
        task="separation:first=5,second=7,samples=1000",
        arms={
            "logistic": "full-batch gradient descent from zero: for large steps the batch perceptron",
            "normalised": "the same divided by the mean probability of being wrong: for large steps the normalised "
            "perceptron, whose bound is smaller by a factor of 1000, the number of samples",
        },
        metric="log2_iterations",
        direction="lower",
        smallest_effect=0.5,
        seeds=20,
        budget="1500steps",
        decides=("normalised", "logistic"),
        tuning="step size 0.1, 1, ... 10^6 for both arms, by the iterations on images of two other seeds; n / R^2 is "
        "about 3, so that most are the large steps that the paper is about. On pairs of digits the normalised rule was "
        "best at 0.06 to 7 times n / R^2, which lies within. Nothing else can be set",
        power="Fixed before any run of the normalised arm. With differences of 0.4 between seeds, 20 of them find an "
        "effect 0.3 above the smallest four times in five. A pilot of the plain rule alone at seed 900 took 456 to 540 "
        "iterations at step sizes 10, 10^3 and 10^5, hence the budget, and showed that the images can be separated, by "
        "a margin of 0.13. 200 steps at that seed took 7 ms of a busy core each: 32 runs to tune and 40 to judge are "
        "some 7 minutes of two cores.",
        trial=trial,
    ),
    paper_scale="real image data reduced to two classes",
)
