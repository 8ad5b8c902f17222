"""Bootstrap Masked Visual Modeling via Hard Patches Mining."""

from assay.claims.card import Headline, Paper

PAPER = Paper(
    slug="hard-patches",
    title="Bootstrap Masked Visual Modeling via Hard Patches Mining",
    authors=("Haochen Wang",),
    year=2023,
    venue="arXiv, TPAMI",
    family="segmentation, localisation, medical",
    summary="A masked autoencoder that also predicts, by rank, which patches it will reconstruct worst; a "
    "moving-average teacher then masks a growing share of just those.",
    arxiv="2312.13714",
    code="Haochen-Wang409/HPM",
    headline=(
        Headline("ImageNet, ViT-B/16, 200 epochs, top-1 accuracy (%)", {"MAE": 82.2, "HPM": 83.0}),
        Headline("ADE20K, ViT-B/16, 200 epochs, mIoU (%)", {"MAE": 40.5, "HPM": 42.1}),
        Headline("ImageNet, ViT-B/16, top-1 accuracy (%)", {"MAE, 1600 epochs": 83.6, "HPM, 800 epochs": 84.2}),
        Headline("ImageNet, ViT-L/16, top-1 accuracy (%)", {"MAE, 1600 epochs": 85.1, "HPM, 800 epochs": 85.8}),
    ),
    paper_scale="ImageNet, ViT-B/16, 200 epochs, batch 2048 on 8 GPUs",
)
