"""BT^2: Backward-compatible Training with Basis Transformation."""

from assay.claims.card import Headline, Paper

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
    paper_scale="CIFAR-100 and ImageNet, ResNet-50, Adam, batch 128 and 256, 100 epochs",
)
