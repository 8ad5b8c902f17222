"""Rules that carry a small batch's training over to a large batch.

    eta_L = sqrt(B_L / B_S) eta_S          keeps the covariance of an update, which goes as eta^2 / B
    epochs, milestones x ceil(B_L / B_S)   keeps the number of updates ("regime adaptation")
    clip the gradient's norm while the learning rate is high

Source: Hoffer, Hubara, Soudry, "Train longer, generalize better" (NIPS 2017), sections 4 and 5.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer


def sqrt_scaled_lr(base_lr: float, base_batch_size: int, batch_size: int) -> float:
    """The learning rate for `batch_size` whose updates have the covariance that `base_lr` gives at `base_batch_size`.

    Args:
        base_lr: tuned at `base_batch_size`.
        base_batch_size: samples a step there (the authors' code takes the ghost batch size).
        batch_size: samples a step now.

    Raises:
        ValueError: a batch size is not positive.

    Source: Hoffer et al. 2017, eq. 7.
    """
    return base_lr * math.sqrt(_ratio(base_batch_size, batch_size))


class Regime(NamedTuple):
    """Length and milestones of a schedule, in epochs."""

    epochs: int
    milestones: tuple[int, ...]


def adapt_regime(milestones: Sequence[int], epochs: int, base_batch_size: int, batch_size: int) -> Regime:
    """Stretch a schedule so that a large batch makes as many updates as the small one did.

    Args:
        milestones: epochs at which the learning rate changes at `base_batch_size`.
        epochs: length of the training there.
        base_batch_size: samples a step there.
        batch_size: samples a step now.

    Returns:
        epochs and milestones times ceil(batch_size / base_batch_size).

    Raises:
        ValueError: a batch size is not positive.

    Source: Hoffer et al. 2017, section 5.
    """
    factor = math.ceil(_ratio(base_batch_size, batch_size))
    return Regime(epochs * factor, tuple(milestone * factor for milestone in milestones))


def clip_at_high_lr(optimizer: Optimizer, max_norm: float = 5.0, *, min_lr: float = 0.0) -> Tensor | None:
    """Clip the gradients' joint 2-norm while the learning rate is high; between backward and the optimizer's step.

    Args:
        optimizer: whose gradients; its rate is the highest of its groups'.
        max_norm: largest norm; 5 in the authors' code.
        min_lr: the lowest rate at which to clip. 0, at every step, is the authors' code; the paper clips in the first
            phase, so give the rate that it starts from.

    Returns:
        the norm before clipping, a scalar; `None` where the rate is low and nothing was done.

    Raises:
        ValueError: `max_norm` is not positive.

    Source: Hoffer et al. 2017, section 4.
    """
    if not max_norm > 0:
        raise ValueError(f"max_norm must be positive, got {max_norm}")
    if max(float(group["lr"]) for group in optimizer.param_groups) < min_lr:
        return None
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    return torch.nn.utils.clip_grad_norm_(parameters, max_norm)


def _ratio(base_batch_size: int, batch_size: int) -> float:
    for name, size in (("base_batch_size", base_batch_size), ("batch_size", batch_size)):
        if size < 1:
            raise ValueError(f"{name} must be positive, got {size}")
    return batch_size / base_batch_size
