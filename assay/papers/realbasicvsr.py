"""Investigating Tradeoffs in Real-World Video Super-Resolution."""

from assay.claims.card import Headline, Paper

PAPER = Paper(
    slug="realbasicvsr",
    title="Investigating Tradeoffs in Real-World Video Super-Resolution",
    authors=("Kelvin C.K. Chan", "Shangchen Zhou", "Xiangyu Xu", "Chen Change Loy"),
    year=2022,
    venue="CVPR",
    family="restoration and reconstruction",
    summary="Clean the frames of real-world video before a recurrent super-resolution net can spread their artefacts. "
    "Random walks of the degradations shorten training, and longer sequences serve better than larger batches.",
    arxiv="2111.12704",
    code="ckkelvinchan/RealBasicVSR",
    headline=(
        Headline(
            "VideoLQ, Y channel, RealBasicVSR",
            {"NRQM (higher is better)": 6.0477, "NIQE": 3.7662, "PI": 3.8593, "BRISQUE": 29.03},
        ),
    ),
    paper_scale="REDS, 300k + 150k iterations, batch 16 and 8, 15 frames mirrored to 30, 8 GPUs of 32 GB",
)
