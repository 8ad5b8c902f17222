"""Restoring Images in Adverse Weather Conditions via Histogram Transformer."""

from assay.claims.card import Paper

PAPER = Paper(
    slug="histoformer",
    title="Restoring Images in Adverse Weather Conditions via Histogram Transformer",
    authors=("Shangquan Sun", "Wenqi Ren", "Xinwei Gao", "Rui Wang", "Xiaochun Cao"),
    year=2024,
    venue="ECCV",
    family="restoration and reconstruction",
    summary="One Transformer for snow, rain, fog and raindrops whose attention groups pixels by intensity instead of "
    "place, with rows and columns sorted before convolution and a loss on correlation besides L1.",
    arxiv="2407.10172",
    code="sunshangquan/Histoformer",
    paper_scale="one set of snow, rain and raindrops for all, 4 GPUs of 24 GB",
)
