"""AdAdaGrad: Adaptive Batch Size Schemes for Adaptive Gradient Methods."""

from assay.claims.card import Paper

PAPER = Paper(
    slug="adadagrad",
    title="AdAdaGrad: Adaptive Batch Size Schemes for Adaptive Gradient Methods",
    authors=("Tim Tsz-Kit Lau", "Han Liu", "Mladen Kolar"),
    year=2024,
    venue="arXiv",
    family="optimisers, batch size, memory",
    summary="Let the batch grow during training whenever a test on the per-sample gradients says that the current one "
    "is too noisy, with AdaGrad or AdaGrad-Norm making the updates.",
    arxiv="2402.11215",
    code="timlautk/AdAdaGrad",
    added="2026-11-23",
    objects=("assay.optim.adagrad_norm.AdaGradNorm",),
    method="assay.methods.adadagrad.AdAdaGrad",
    example="digits --with adadagrad:test=norm,eta=0.5 --set batch_size=8",
    paper_scale="CIFAR-10, ResNet-18, AdaGrad, batch from 8 upwards, 10M samples, 4 GPUs",
)
