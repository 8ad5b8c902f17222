"""From Logistic Regression to the Perceptron Algorithm: Exploring Gradient Descent with Large Step Sizes."""

from assay.claims.card import Paper

PAPER = Paper(
    slug="normalized-gd",
    title="From Logistic Regression to the Perceptron Algorithm: Exploring Gradient Descent with Large Step Sizes",
    authors=("Alexander Tyurin",),
    year=2024,
    venue="arXiv",
    family="optimisers, batch size, memory",
    summary="On separable data, gradient descent on the logistic loss turns into a batch perceptron as its step "
    "grows: the loss rises, yet fewer iterations reach zero training error. A normalised variant drops a factor n "
    "from the iteration bound.",
    arxiv="2412.08424",
    paper_scale="real image data reduced to two classes",
)
