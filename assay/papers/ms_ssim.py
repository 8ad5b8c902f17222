"""Learning to Generate Images with Perceptual Similarity Metrics."""

from assay.claims.card import Paper

PAPER = Paper(
    slug="ms-ssim",
    title="Learning to Generate Images with Perceptual Similarity Metrics",
    authors=("Jake Snell", "Karl Ridgeway", "Renjie Liao", "Brett D. Roads", "Michael C. Mozer", "Richard S. Zemel"),
    year=2017,
    venue="ICIP",
    family="restoration and reconstruction",
    summary="Train networks that generate images to maximise multi-scale structural similarity instead of a "
    "pixel-wise error: people prefer the reconstructions, and super-resolution gains in perceptual quality.",
    arxiv="1511.06409",
    paper_scale="autoencoders on images of 32 x 32 and STL-10, judged by people between two",
)
