"""Adaptive Sparse Allocation with Mutual Choice & Feature Choice Sparse Autoencoders."""

from assay.claims.card import Paper

PAPER = Paper(
    slug="sparse-autoencoders",
    title="Adaptive Sparse Allocation with Mutual Choice & Feature Choice Sparse Autoencoders",
    authors=("Ayonrinde",),
    year=2024,
    venue="arXiv",
    family="analysis, scaling, theory, data",
    summary="Treat the activations of a sparse autoencoder as a matching of tokens and features under a budget: the "
    "best pairs of the whole batch, or a set number of tokens for every feature, so that no feature dies.",
    arxiv="2411.02124",
    paper_scale="GPT-2 small and Pythia activations on OpenWebText, 1e9 tokens, 16 to 64 times overcomplete, batch "
    "4096",
)
