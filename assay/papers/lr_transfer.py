"""Why do Learning Rates Transfer? Reconciling Optimization and Scaling Limits for Deep Learning."""

from assay.claims.card import Paper

PAPER = Paper(
    slug="lr-transfer",
    title="Why do Learning Rates Transfer? Reconciling Optimization and Scaling Limits for Deep Learning",
    authors=("Noci", "Meterez", "Hofmann", "Orvieto"),
    year=2024,
    venue='NeurIPS, as "Super Consistency of Neural Network Landscapes and Learning Rate Transfer"',
    family="analysis, scaling, theory, data",
    summary="Under muP the sharpness of the loss follows one curve at every width and settles at the edge of "
    "stability, which is why the best learning rate stays put; under NTK parameterisation the curve depends on the "
    "width.",
    arxiv="2402.17457",
    paper_scale="CIFAR-10, ResNet and ConvNet, width 256 to 4096, SGD, batch 256, 20 epochs or more; GPT-2 blocks on "
    "WikiText-103",
)
