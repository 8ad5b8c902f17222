"""FRUGAL: Memory-Efficient Optimization by Reducing State Overhead for Scalable Training."""

from assay.claims.card import Paper

PAPER = Paper(
    slug="frugal",
    title="FRUGAL: Memory-Efficient Optimization by Reducing State Overhead for Scalable Training",
    authors=("Philip Zmushko", "Aleksandr Beznosikov", "Martin Takáč", "Samuel Horváth"),
    year=2025,
    venue="ICML",
    family="optimisers, batch size, memory",
    summary="Give optimiser state, such as Adam's, to a small and changing part of every weight matrix and update the "
    "rest by a stateless rule, such as signSGD: low memory with updates of full rank.",
    arxiv="2411.07837",
    code="fzmushko/FRUGAL",
    paper_scale="C4, 130M LLaMA, 200k steps, batch 512",
)
