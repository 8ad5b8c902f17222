"""More is Better in Modern Machine Learning."""

from assay.claims.card import Paper

PAPER = Paper(
    slug="rf-more-is-better",
    title="More is Better in Modern Machine Learning: when Infinite Overparameterization is Optimal and Overfitting "
    "is Obligatory",
    authors=("Simon", "Karkada", "Ghosh", "Belkin"),
    year=2024,
    venue="ICLR",
    family="analysis, scaling, theory, data",
    summary="Give closed equations for the train and test error of random-feature ridge regression. With a tuned "
    "ridge, more samples or features never hurt; on power-law tasks the best ridge leaves training error far below "
    "test error.",
    arxiv="2311.14646",
    code="dkarkada/more-is-better",
    paper_scale="CIFAR-10, neural tangent kernel of Myrtle-10, up to 50k samples, a sweep of ridges",
)
