"""CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features."""

from typing import Any

from assay.claims.card import Headline, Paper

PAPER = Paper(
    slug="cutmix",
    title="CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features",
    authors=("Sangdoo Yun", "Dongyoon Han", "Seong Joon Oh", "Sanghyuk Chun", "Junsuk Choe", "Youngjoon Yoo"),
    year=2019,
    venue="ICCV",
    family="normalisation, regularisation, adaptation",
    summary="Paste a random rectangle of one training image onto another and mix the two labels in proportion to the "
    "areas.",
    arxiv="1905.04899",
    code="clovaai/CutMix-PyTorch",
    objects=("assay.data.mixing.CutMix", "assay.methods.cutmix.CutMix"),
    headline=(
        Headline(
            "CIFAR-100, PyramidNet-200, top-1 error (%)",
            {"baseline": 16.45, "Mixup": 15.63, "Cutout": 16.53, "CutMix": 14.23},
        ),
        Headline(
            "ImageNet, ResNet-50, top-1 error (%)", {"baseline": 23.68, "Mixup": 22.58, "Cutout": 22.93, "CutMix": 21.4}
        ),
        Headline(
            "CUB200, weakly supervised localisation accuracy (%)",
            {"baseline": 49.41, "Mixup": 49.3, "Cutout": 52.78, "CutMix": 54.81},
        ),
        Headline("Pascal, SSD, mAP", {"baseline": 76.7, "Mixup": 76.6, "Cutout": 76.8, "CutMix": 77.6}),
    ),
    paper_scale="CIFAR-100, PyramidNet-200, batch 64, probability 0.5; ImageNet, ResNet-50, batch 256, probability 1; "
    "300 epochs each",
)


def method(alpha: float = 1.0, prob: float = 1.0) -> Any:
    """Each training batch is cut and mixed, and its loss is that of the mixed labels; evaluation is ordinary."""
    from assay.methods.cutmix import CutMix

    return CutMix(alpha, prob)
