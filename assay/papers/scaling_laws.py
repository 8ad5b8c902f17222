"""Scaling Laws for Autoregressive Generative Modeling."""

from assay.claims.card import Headline, Paper

PAPER = Paper(
    slug="scaling-laws",
    title="Scaling Laws for Autoregressive Generative Modeling",
    authors=("Henighan", "Kaplan", "Katz"),
    year=2020,
    venue="arXiv",
    family="analysis, scaling, theory, data",
    summary="The test loss of autoregressive Transformers on images, video, text with images and mathematics is a "
    "power law of model size and compute plus a constant, read as the entropy of the data.",
    arxiv="2010.14701",
    headline=(
        Headline(
            "exponent of the loss in model size",
            {
                "language": 0.07,
                "image 8x8": 0.24,
                "image 16x16": 0.22,
                "image 32x32": 0.13,
                "video": 0.24,
                "mathematics": 0.16,
            },
        ),
        Headline(
            "exponent of the loss in compute",
            {
                "language": 0.048,
                "image 8x8": 0.19,
                "image 16x16": 0.16,
                "image 32x32": 0.1,
                "video": 0.14,
                "mathematics": 0.17,
            },
        ),
        Headline(
            "exponent of the best model size in compute",
            {
                "language": 0.73,
                "image 8x8": 0.64,
                "image 16x16": 0.75,
                "image 32x32": 0.65,
                "video": 0.71,
                "mathematics": 0.69,
            },
        ),
    ),
    paper_scale="YFCC100M at 8, 16 and 32 pixels, 1e4 to 1e9 parameters, 1e-8 to 1e2 PF-days",
)
