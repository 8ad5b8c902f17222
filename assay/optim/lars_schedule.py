"""The learning rate of LARS for ImageNet at very large batches: linear warm-up, then polynomial decay.

    lr(t) = lr t / W                              for t < W
    lr(t) = lr (1 - (t - W) / (T - W))^power      from W on

Source: Liu et al., "Concurrent Adversarial Learning for Large-Batch Training" (ICLR 2022), the authors' code.
"""

from functools import partial
from typing import NamedTuple

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


class Peak(NamedTuple):
    """A setting by batch size.

    Attributes:
        lr: peak learning rate of LARS in the form of 2017, with a trust coefficient of 0.001.
        warmup: epochs over which the rate rises.
    """

    lr: float
    warmup: int


PEAKS = ((16_384, Peak(10.0, 5)), (32_768, Peak(25.0, 5)), (65_536, Peak(31.2, 25)))  # below these batches
LARGEST = Peak(43.0, 41)  # at 98304


def imagenet_lars(batch_size: int) -> Peak:
    """Peak rate and warm-up of ResNet-50 on ImageNet in some 90 to 100 epochs; momentum 0.92, weight decay 5e-5.

    Args:
        batch_size: samples a step, positive.

    Raises:
        ValueError: the batch size is not positive.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be positive, got {batch_size}")
    return next((peak for below, peak in PEAKS if batch_size < below), LARGEST)


def warmup_then_polynomial(
    optimizer: Optimizer, total_steps: int, warmup_steps: int = 0, power: float = 1.6
) -> LambdaLR:
    """A scheduler; call its `step()` after every step.

    Unlike `assay.optim.lamb_schedule.warmup_polynomial` it starts from 0, and the decay begins where the warm-up ends.

    Args:
        optimizer: its groups' learning rates are the peaks.
        total_steps: T, where the rate is 0.
        warmup_steps: W, from 0 and below `total_steps`.
        power: exponent of the decay, positive.

    Raises:
        ValueError: a number lies outside its range.
    """
    if not 0 <= warmup_steps < total_steps:
        raise ValueError(f"warmup_steps must lie in [0, {total_steps}), got {warmup_steps}")
    if not power > 0:
        raise ValueError(f"power must be positive, got {power}")
    return LambdaLR(optimizer, partial(_factor, total=total_steps, warmup=warmup_steps, power=power))


def _factor(step: int, total: int, warmup: int, power: float) -> float:
    if step < warmup:
        return step / warmup
    return float(max(1 - (step - warmup) / (total - warmup), 0.0) ** power)
