"""Small-scale proxies for large-scale Transformer training instabilities."""

from assay.claims.card import Paper

PAPER = Paper(
    slug="instability-proxies",
    title="Small-scale proxies for large-scale Transformer training instabilities",
    authors=("Wortsman", "Liu", "Xiao", "Everett"),
    year=2024,
    venue="ICLR",
    family="analysis, scaling, theory, data",
    summary="Two instabilities of very large Transformers, growing attention logits and diverging output logits, "
    "appear in small ones at high learning rates, yield to the same cures, and can be foretold from how a statistic "
    "scales.",
    arxiv="2309.14322",
    paper_scale="C4, width 256 to 4096, 1e5 steps, batch 256 of 512 tokens, a sweep of learning rates",
)
