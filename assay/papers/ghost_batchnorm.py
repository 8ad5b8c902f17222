"""Train longer, generalize better: closing the generalization gap in large batch training of neural networks."""

from typing import Any, Literal

from assay.claims.card import Headline, Paper

PAPER = Paper(
    slug="ghost-batchnorm",
    title="Train longer, generalize better: closing the generalization gap in large batch training of neural networks",
    authors=("Elad Hoffer", "Itay Hubara", "Daniel Soudry"),
    year=2017,
    venue="NIPS",
    family="optimisers, batch size, memory",
    summary="Large batches generalise worse chiefly because they make too few updates. A square-root learning-rate "
    "rule, batch statistics over small parts of the batch, clipping and a longer schedule close the gap.",
    arxiv="1705.08741",
    code="eladhoffer/bigBatch",
    objects=(
        "assay.nn.ghost_batch_norm.GhostBatchNorm",
        "assay.optim.large_batch.sqrt_scaled_lr",
        "assay.optim.large_batch.adapt_regime",
        "assay.optim.large_batch.clip_at_high_lr",
        "assay.analysis.weight_distance.WeightDistance",
        "assay.methods.ghost_batch_norm.GhostBatchNorm",
    ),
    headline=(
        Headline(
            "CIFAR-10, ResNet-44, validation accuracy (%), batch 4096 against 128",
            {
                "small batch": 92.83,
                "large batch": 86.1,
                "+ learning rate": 89.3,
                "+ ghost batch norm": 90.5,
                "+ regime adaptation": 93.07,
            },
        ),
        Headline(
            "CIFAR-100, WResnet16-4, validation accuracy (%), batch 1024 against 128",
            {
                "small batch": 73.7,
                "large batch": 68.15,
                "+ learning rate": 69.05,
                "+ ghost batch norm": 71.2,
                "+ regime adaptation": 73.57,
            },
        ),
    ),
    paper_scale="CIFAR-10, ResNet-44, batch 2048, ghost batches of 128 to 256, 100 to 200 epochs",
)


def method(
    ghost_batch_size: int = 32,
    scale_lr: bool = True,
    statistics: Literal["sequential", "deviation", "per_step"] = "sequential",
) -> Any:
    """Ghost batch normalisation in place of every BatchNorm, and the square-root learning-rate rule."""
    from assay.methods.ghost_batch_norm import GhostBatchNorm

    return GhostBatchNorm(ghost_batch_size, scale_lr, statistics)
