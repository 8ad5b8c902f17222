"""Efficient Dataset Distillation through Alignment with Smooth and High-Quality Expert Trajectories."""

from assay.claims.card import Paper

PAPER = Paper(
    slug="dataset-distillation",
    title="Efficient Dataset Distillation through Alignment with Smooth and High-Quality Expert Trajectories",
    authors=("Shen", "Yang", "Lam"),
    year=2023,
    venue="arXiv",
    family="analysis, scaling, theory, data",
    summary="Distil a data set by matching training trajectories, with experts made smoother by clipping and a "
    "gradient penalty and a student made steadier by k-means initialisation, a balanced loss and intermediate "
    "matching.",
    arxiv="2310.10541",
    code="shenjiyuan123/AST-Alignment-with-Smooth-Expert",
    paper_scale="CIFAR-100, 100 expert trajectories, one or two GPUs of 24 GB",
)
