"""The stepwise learning rate of ResNet recipes: linear warm-up from zero, then a drop at each milestone.

    lr_t = lr factor^(number of milestones <= t) min(1, t / W)

Source: Frankle, Schwab, Morcos, "Training BatchNorm and Only BatchNorm" (ICLR 2021), section 3, as the authors' code
counts: with a warm-up the very first step has the rate 0.
"""

from collections.abc import Sequence
from functools import partial

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def warmup_milestones(
    optimizer: Optimizer, milestones: Sequence[int], factor: float = 0.1, warmup_steps: int = 0
) -> LambdaLR:
    """A scheduler; call its `step()` after every step.

    The paper's: CIFAR-10, 160 epochs, drops at 80 and 120; ImageNet, 90 epochs of which 5 warm up, drops at 30, 60, 80.

    Args:
        optimizer: its groups' learning rates are the peaks.
        milestones: steps at which the rate drops, not negative.
        factor: by which it drops, positive.
        warmup_steps: W; 0 for no warm-up.

    Raises:
        ValueError: a number lies outside its range.
    """
    if min(milestones, default=0) < 0:
        raise ValueError(f"milestones must not be negative, got {list(milestones)}")
    if not factor > 0:
        raise ValueError(f"factor must be positive, got {factor}")
    if warmup_steps < 0:
        raise ValueError(f"warmup_steps must not be negative, got {warmup_steps}")
    share = partial(_share, milestones=tuple(milestones), factor=factor, warmup_steps=warmup_steps)
    return LambdaLR(optimizer, share)


def _share(step: int, milestones: tuple[int, ...], factor: float, warmup_steps: int) -> float:
    warm = min(1.0, step / warmup_steps) if warmup_steps else 1.0
    return warm * factor ** sum(milestone <= step for milestone in milestones)
