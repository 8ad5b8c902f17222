"""QuantNAS for super resolution."""

from assay.claims.card import Paper

PAPER = Paper(
    slug="quantnas",
    title="QuantNAS for super resolution: searching for efficient quantization-friendly architectures against "
    "quantization noise",
    authors=(
        "Egor Shvetsov",
        "Dmitry Osin",
        "Ivan Koryakovskiy",
        "Valentin Buchnev",
        "Evgeny Burnaev",
        "Alexey Zaytsev",
    ),
    year=2024,
    venue="IEEE Access",
    family="compression and architecture search",
    summary="Search the operation and the bit width of every layer of a super-resolution network together, with noise "
    "standing in for quantisation during the search and an entropy penalty that drives each choice to one option.",
    arxiv="2208.14839",
    code="On-Point-RND/QuantNAS",
    paper_scale="DIV2K x4, 4 or 8 bits, five weights of the penalty on operations, 30 final epochs",
)
