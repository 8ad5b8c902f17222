"""To prune, or not to prune: exploring the efficacy of pruning for model compression."""

from assay.claims.card import Paper

PAPER = Paper(
    slug="gradual-pruning",
    title="To prune, or not to prune: exploring the efficacy of pruning for model compression",
    authors=("Michael Zhu", "Suyog Gupta"),
    year=2018,
    venue="ICLR workshop",
    family="compression and architecture search",
    summary="Mask the smallest weights during one ordinary training run, along a cubic rise of sparsity. With as many "
    "non-zero parameters, a large pruned network beats a small dense one.",
    arxiv="1710.01878",
    code="tensorflow/tensorflow",
    paper_scale="ImageNet, MobileNet-v1, sparsity 0.5, 0.75, 0.9 and 0.95, pruned during most of a standard schedule",
)
