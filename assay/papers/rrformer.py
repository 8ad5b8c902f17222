"""Benchmarking Ultra-High-Definition Image Reflection Removal."""

from assay.claims.card import Paper

PAPER = Paper(
    slug="rrformer",
    title="Benchmarking Ultra-High-Definition Image Reflection Removal",
    authors=("Zhenyuan Zhang", "Zhenbo Song", "Kaihao Zhang", "Wenhan Luo", "Zhaoxin Fan", "Jianfeng Lu"),
    year=2023,
    venue="arXiv",
    family="restoration and reconstruction",
    summary="Two synthetic sets of 4K and 8K images with reflections, and RRFormer, a network for them: features of a "
    "fixed VGG, a trunk of Swin Transformer blocks, and pyramid pooling.",
    arxiv="2308.00265",
    code="Liar-zzy/Benchmarking-Ultra-High-Definition-Single-Image-Reflection-Removal",
    paper_scale="UHDRR4K, 2,999 training images, crops of 256, batch 1, 100 epochs, one GPU of 24 GB",
)
