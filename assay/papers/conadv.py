"""Concurrent Adversarial Learning for Large-Batch Training."""

from assay.claims.card import Headline, Paper

PAPER = Paper(
    slug="conadv",
    title="Concurrent Adversarial Learning for Large-Batch Training",
    authors=("Yong Liu", "Xiangning Chen", "Minhao Cheng", "Cho-Jui Hsieh", "Yang You"),
    year=2022,
    venue="ICLR",
    family="optimisers, batch size, memory",
    summary="Train large batches with adversarial examples as the regulariser, and craft those examples with weights "
    "that are some steps old, so that attack and update can run at the same time.",
    arxiv="2106.00221",
    code="conadv/ConAdv",
    headline=(
        Headline(
            "ImageNet, ResNet-50, batch 96K, top-1 accuracy (%)", {"ConAdv": 75.3, "ConAdv + data augmentation": 76.2}
        ),
    ),
    paper_scale="ImageNet, ResNet-50, batch 98304, LARS, 100 epochs of which 41 warm-up",
)
