"""Beyond neural scaling laws: beating power law scaling via data pruning."""

from assay.claims.card import Paper

PAPER = Paper(
    slug="data-pruning",
    title="Beyond neural scaling laws: beating power law scaling via data pruning",
    authors=("Sorscher", "Geirhos", "Shekhar", "Ganguli", "Morcos"),
    year=2022,
    venue="NeurIPS",
    family="analysis, scaling, theory, data",
    summary="Keep the right examples and the error can fall faster than a power of the data size: the hard ones where "
    "data abound, the easy ones where they are few. Distance to k-means prototypes in a self-supervised space ranks "
    "them cheaply.",
    arxiv="2206.14486",
    code="rgeirhos/dataset-pruning-metrics",
    paper_scale="ImageNet, ResNet-50, SwAV features, 1000 clusters, 80 % kept",
)
