"""Cross-Entropy Loss Functions: Theoretical Analysis and Applications."""

from assay.claims.card import Paper

PAPER = Paper(
    slug="comp-sum",
    title="Cross-Entropy Loss Functions: Theoretical Analysis and Applications",
    authors=("Anqi Mao", "Mehryar Mohri", "Yutao Zhong"),
    year=2023,
    venue="ICML",
    family="objectives and representations",
    summary="Bound the zero-one error by the error of a surrogate, without asymptotics, for a one-parameter family of "
    "losses that holds cross-entropy and MAE. A smooth adversarial version of the family trains robust classifiers.",
    arxiv="2304.07288",
    paper_scale="CIFAR-10, ResNet-34 and WRN-34-10, robustness by AutoAttack",
)
