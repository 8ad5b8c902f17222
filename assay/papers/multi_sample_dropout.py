"""Multi-Sample Dropout for Accelerated Training and Better Generalization."""

from typing import Any

from assay.claims.card import Paper

PAPER = Paper(
    slug="multi-sample-dropout",
    title="Multi-Sample Dropout for Accelerated Training and Better Generalization",
    authors=("Hiroshi Inoue",),
    year=2019,
    venue="arXiv",
    family="normalisation, regularisation, adaptation",
    summary="Draw several dropout masks on the same features in each step, run the small head on each and average the "
    "losses: fewer iterations for little extra cost, and nothing changes at inference.",
    arxiv="1905.09788",
    objects=(
        "assay.nn.multi_sample_dropout.MultiSampleDropout",
        "assay.methods.multi_sample_dropout.MultiSampleDropout",
    ),
    paper_scale="ImageNet, VGG16; CIFAR-10 and CIFAR-100, convolutional nets; 8 masks",
)


def method(num_samples: int = 8, layer: str = "") -> Any:
    """The head runs on M dropped copies of the features, and the loss is the mean of theirs; evaluation is ordinary."""
    from assay.methods.multi_sample_dropout import MultiSampleDropout

    return MultiSampleDropout(num_samples, layer)
