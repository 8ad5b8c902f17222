"""Machine Learning Workflow to Explain Black-box Models for Early Alzheimer's Disease Classification."""

from assay.claims.card import Paper

PAPER = Paper(
    slug="alzheimer-shapley",
    title="Machine Learning Workflow to Explain Black-box Models for Early Alzheimer's Disease Classification "
    "Evaluated for Multiple Datasets",
    authors=("Bloch", "Friedrich"),
    year=2022,
    venue="SN Computer Science",
    family="analysis, scaling, theory, data",
    summary="A tabular workflow: select features, tune classifiers by Bayesian optimisation, evaluate them on other "
    "cohorts and explain them by Shapley values, with correlated features grouped and compared with importances.",
    arxiv="2205.05907",
    code="LouiseBloch/AlzheimerExplainableMLCorrelations",
    paper_scale="ADNI, AIBL and OASIS tables, six classifiers, 10 times 10-fold cross-validation, 25 optimisation "
    "steps",
)
