"""Learning Rates as a Function of Batch Size: A Random Matrix Theory Approach to Neural Network Training."""

from assay.claims.card import Paper

PAPER = Paper(
    slug="lr-batch-rmt",
    title="Learning Rates as a Function of Batch Size: A Random Matrix Theory Approach to Neural Network Training",
    authors=("Diego Granziol", "Stefan Zohren", "Stephen Roberts"),
    year=2022,
    venue="JMLR",
    family="optimisers, batch size, memory",
    summary="Model the mini-batch Hessian as the full one plus a random matrix that shrinks with the batch. The "
    "largest stable learning rate then grows linearly with the batch for SGD and as its square root for Adam.",
    arxiv="2006.09092",
    paper_scale="CIFAR-100, VGG-16 and WideResNet-28-10, batch 128 to 8192, 300 epochs",
)
