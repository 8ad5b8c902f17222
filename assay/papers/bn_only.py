"""Training BatchNorm and Only BatchNorm: On the Expressive Power of Random Features in CNNs."""

from typing import TYPE_CHECKING

from assay.claims.card import Claim, Headline, Paper

if TYPE_CHECKING:
    from assay.claims.check import Check
    from assay.trials.result import TrialResult


def trial(check: "Check") -> "TrialResult":
    """Batch norm alone against as many random weights, and the readout alone against batch norm."""
    from assay.engine import Recipe
    from assay.methods.bn_only import BatchNormOnly
    from assay.trials import Arm

    recipe = Recipe(lr=0.1, momentum=0.9, schedule="cosine", batch_size=64)

    def training(part: str) -> Recipe:
        return recipe.with_methods([BatchNormOnly(train=part)])

    return check.compare(
        [
            Arm("random weights", training("random")),
            Arm("batch norm", training("batchnorm")),
            Arm("readout", training("output"), against="batch norm"),
        ],
        quick_task="digits:model=resnet8",
        quick_budget="10steps",
        vary=("init", "order", "split"),
        tune={"lr": [0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0], "weight_decay": [0.0, 1e-4, 1e-3]},
    )


PAPER = Paper(
    slug="bn-only",
    title="Training BatchNorm and Only BatchNorm: On the Expressive Power of Random Features in CNNs",
    authors=("Jonathan Frankle", "David J. Schwab", "Ari S. Morcos"),
    year=2021,
    venue="ICLR",
    family="normalisation, regularisation, adaptation",
    summary="Leave all weights of a ResNet at their random start and train only the scales and shifts of its batch "
    "normalisations: deep nets become surprisingly accurate, and switch off part of their random features.",
    arxiv="2003.00152",
    code="facebookresearch/open_lth",
    objects=(
        "assay.nn.trainable.trainable_only",
        "assay.nn.trainable.freeze",
        "assay.nn.affine.affine_parameters",
        "assay.nn.affine.init_batchnorm_",
        "assay.nn.random_features.init_weights_",
        "assay.nn.random_weights.add_random_weights",
        "assay.nn.random_weights.merge_random_weights",
        "assay.models.resnet.cifar_resnet",
        "assay.optim.step_schedule.warmup_milestones",
        "assay.analysis.disabled_features.disabled_features",
        "assay.analysis.disabled_features.zeroed_features",
        "assay.analysis.relu_activity.relu_frequencies",
    ),
    method="assay.methods.bn_only.BatchNormOnly",
    example="digits:model=resnet14 --with bn-only",
    headline=(
        Headline("CIFAR-10, ResNet-866, top-1 accuracy (%)", {"only BatchNorm": 82}),
        Headline("ImageNet, ResNet-200, top-5 accuracy (%)", {"only BatchNorm": 32}),
    ),
    claim=Claim(
        statement="After the same 220 steps, a ResNet-14 of which the 1120 scales and shifts of batch norm are trained "
        "has a higher test accuracy than one of which 1120 random convolution weights are, by at least ten points",
        task="digits:model=resnet14",
        arms={
            "random weights": "two random weights of each output channel of each convolution; batch norm, readout and "
            "all other weights stay as they start",
            "batch norm": "scales and shifts of all batch norms; all else stays as it starts",
            "readout": "the linear readout alone, 650 numbers on random features: a control, set against batch norm",
        },
        metric="accuracy",
        direction="higher",
        smallest_effect=0.1,
        seeds=16,
        budget="220steps",
        decides=("batch norm", "random weights"),
        tuning="learning rate 0.1, 0.3, 1, 3, 10, 30 or 100 and weight decay 0, 1e-4 or 1e-3 for every arm, by "
        "validation accuracy from one seed. The ends of the grid are from a pilot with a seed that the trial does not "
        "use, in which the random weights did best at a rate of 30 and a decay of 1e-4, the readout at 0.3",
        power="Seeds and margin were fixed before any run of the trial, the margin before the pilot as well. With "
        "differences of 5 points between seeds, 16 seeds, splits that overlap and two comparisons, an effect of about "
        "19 points is found four times in five.",
        trial=trial,
    ),
    paper_scale="CIFAR-10, ResNet-14 to ResNet-866, SGD 0.1, batch 128, 160 epochs, 5 seeds",
)
