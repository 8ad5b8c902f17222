"""Spatial-Aware Token for Weakly Supervised Object Localization."""

from assay.claims.card import Headline, Paper

PAPER = Paper(
    slug="sat",
    title="Spatial-Aware Token for Weakly Supervised Object Localization",
    authors=("Pingyu Wu", "Wei Zhai", "Yang Cao", "Jiebo Luo", "Zheng-Jun Zha"),
    year=2023,
    venue="ICCV",
    family="segmentation, localisation, medical",
    summary="Add a learnt token to a vision Transformer whose attention in the last blocks becomes a foreground map "
    "that gates them, so that the classification loss must keep the object; the map itself is the localisation.",
    code="wpy1999/SAT",
    headline=(
        Headline("CUB-200, DeiT-S, localisation accuracy (%)", {"top-1": 80.96, "top-5": 94.13, "GT-known": 98.45}),
        Headline("ImageNet, DeiT-S, localisation accuracy (%)", {"top-1": 60.15, "top-5": 70.52, "GT-known": 73.13}),
    ),
    paper_scale="CUB-200-2011, pretrained DeiT-S, 224 pixels, batch 256, 30 epochs; ImageNet, batch 512, 1 epoch",
)
