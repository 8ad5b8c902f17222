"""Training BatchNorm and Only BatchNorm: On the Expressive Power of Random Features in CNNs."""

from assay.claims.card import Headline, Paper

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
    headline=(
        Headline("CIFAR-10, ResNet-866, top-1 accuracy (%)", {"only BatchNorm": 82}),
        Headline("ImageNet, ResNet-200, top-5 accuracy (%)", {"only BatchNorm": 32}),
    ),
    paper_scale="CIFAR-10, ResNet-14 to ResNet-866, SGD 0.1, batch 128, 160 epochs, 5 seeds",
)
