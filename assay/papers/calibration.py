"""A Benchmark Study on Calibration."""

from assay.claims.card import Paper

PAPER = Paper(
    slug="calibration",
    title="A Benchmark Study on Calibration",
    authors=("Tao", "Zhu", "Guo", "Dong", "Xu"),
    year=2024,
    venue="ICLR",
    family="objectives and representations",
    summary="Measure the calibration of 117,702 networks of an architecture-search benchmark in about a hundred ways, "
    "before and after temperature scaling. An architecture's calibration does not carry over between data sets.",
    arxiv="2308.11838",
    code="Linwei94/calibration-study",
    paper_scale="NATS-Bench, three data sets, 117k networks, inference only",
)
