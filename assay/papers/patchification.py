"""Scaling Laws in Patchification: An Image Is Worth 50,176 Tokens And More."""

from assay.claims.card import Headline, Paper

PAPER = Paper(
    slug="patchification",
    title="Scaling Laws in Patchification: An Image Is Worth 50,176 Tokens And More",
    authors=("Wang", "Yu", "Wei", "Shao", "Zhou", "Yuille", "Xie"),
    year=2025,
    venue="ICML",
    family="analysis, scaling, theory, data",
    summary="At a fixed image size, smaller patches lower the test loss of vision Transformers and Mamba nets all the "
    "way down to single pixels, for classification, segmentation and detection.",
    arxiv="2502.03738",
    code="wangf3014/Patch_Scaling",
    headline=(
        Headline(
            "ImageNet, DeiT-B, 64 pixels, top-1 accuracy (%) by patch size",
            {"16": 68.2, "8": 76.9, "4": 80.1, "2": 80.8, "1": 81.3},
        ),
        Headline(
            "ImageNet, Adventurer-B, 128 pixels, top-1 accuracy (%) by patch size",
            {"16": 79.0, "8": 81.5, "4": 81.8, "2": 82.2, "1": 82.4},
        ),
        Headline(
            "ImageNet, Adventurer-B, 224 pixels, top-1 accuracy (%) by patch size",
            {"16": 82.6, "8": 83.9, "4": 84.3, "2": 84.5, "1": 84.6},
        ),
    ),
    paper_scale="ImageNet, patch 16 down to 1, 300 + 100 + 20 epochs, 8 or more A100 nodes",
)
