"""Towards Exact Computation of Inductive Bias."""

from assay.claims.card import Paper

PAPER = Paper(
    slug="inductive-bias",
    title="Towards Exact Computation of Inductive Bias",
    authors=("Boopathy", "Yue", "Hwang", "Iyer", "Fiete"),
    year=2024,
    venue="IJCAI",
    family="analysis, scaling, theory, data",
    summary="Measure the inductive bias that a task needs as the information it takes to pick a hypothesis that "
    "generalises among those that fit the training data, with the tail of a fitted distribution in place of sampling.",
    arxiv="2406.15941",
    code="FieteLab/Exact-Inductive-Bias",
    paper_scale="MNIST and CIFAR-10, kernel solutions by 10,000 epochs of Adam, 10,000 samples; hundreds of trained "
    "networks",
)
