"""Layer Normalization."""

from assay.claims.card import Headline, Paper

PAPER = Paper(
    slug="layernorm",
    title="Layer Normalization",
    authors=("Jimmy Lei Ba", "Jamie Ryan Kiros", "Geoffrey E. Hinton"),
    year=2016,
    venue="arXiv",
    family="normalisation, regularisation, adaptation",
    summary="Normalise the summed inputs of a layer over its neurons, for each example and time step alone, so that "
    "training and test compute the same thing and nothing depends on the batch; made above all for recurrent nets.",
    arxiv="1607.06450",
    code="ryankiros/layer-norm",
    headline=(
        Headline("MSCOCO retrieval, order-embeddings, GRU: time to converge, share of the baseline's", {"LN-GRU": 0.6}),
    ),
)
