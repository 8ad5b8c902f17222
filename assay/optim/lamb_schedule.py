"""LAMB's learning rate without tuning: by the batch size alone, with warm-up and polynomial decay.

    lr(B) = lr(B0) sqrt(B / B0)     W(B) / T = W(B0) / T  B / B0
    lr_t  = lr (t + 1) / W          for t < W
    lr_t  = lr (1 - t / T)^power    from W on

Source: You et al., "Large Batch Optimization for Deep Learning: Training BERT in 76 minutes" (2020), section 4 and
tables of untuned settings.
"""

import math
from functools import partial
from typing import NamedTuple

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

LARGEST = 32768  # the batch from which the paper's tables go down


class Untuned(NamedTuple):
    """A setting that the batch size alone decides.

    Attributes:
        lr: peak learning rate.
        warmup: share of the run over which the rate rises.
    """

    lr: float
    warmup: float


REFERENCES = {"bert": Untuned(0.005, 0.2), "resnet50": Untuned(0.04, 20 / 90)}  # at batch 32768


def untuned_lamb(batch_size: int, reference: str = "bert") -> Untuned:
    """The paper's LAMB settings, found at one batch size and carried to the others by rule.

    The rate goes with the root of the batch, the warm-up with the batch: BERT, 5 / (2^(k/2) 1000) and a fifth of the
    run at 32768 / 2^k samples; ResNet-50 on ImageNet, 4 / (2^(k/2) 100) and 20 epochs of 90.

    Args:
        batch_size: samples a step, positive; the paper's are 512 to 32768.
        reference: `bert` or `resnet50`.

    Raises:
        ValueError: the reference is unknown, the batch size not positive, or so large that the run is all warm-up.
    """
    if reference not in REFERENCES:
        raise ValueError(f"reference must be one of {', '.join(REFERENCES)}, got {reference!r}")
    known = REFERENCES[reference]
    limit = LARGEST / known.warmup
    if not 0 < batch_size < limit:
        raise ValueError(f"batch_size must lie between 0 and {limit:.0f} for {reference!r}, got {batch_size}")
    return Untuned(known.lr * math.sqrt(batch_size / LARGEST), known.warmup * batch_size / LARGEST)


def warmup_polynomial(optimizer: Optimizer, total_steps: int, warmup_steps: int = 0, power: float = 1.0) -> LambdaLR:
    """A scheduler: linear warm-up, then polynomial decay to 0 at `total_steps`; call its `step()` after every step.

    As in the paper and in BERT's code the decay counts from the first step, so the rate falls by `W / T` of its peak
    where the warm-up ends. A second phase that warms up anew (BERT's, at sequence length 512) is a second scheduler:
    `SequentialLR(optimizer, [warmup_polynomial(...), warmup_polynomial(...)], milestones=[steps_of_the_first])`.

    Args:
        optimizer: its groups' learning rates are the peaks.
        total_steps: T, positive.
        warmup_steps: W, from 0 to `total_steps`.
        power: exponent of the decay, positive.

    Raises:
        ValueError: a number lies outside its range.
    """
    if total_steps <= 0:
        raise ValueError(f"total_steps must be positive, got {total_steps}")
    if not 0 <= warmup_steps <= total_steps:
        raise ValueError(f"warmup_steps must lie in [0, {total_steps}], got {warmup_steps}")
    if not power > 0:
        raise ValueError(f"power must be positive, got {power}")
    return LambdaLR(optimizer, partial(_factor, total_steps=total_steps, warmup_steps=warmup_steps, power=power))


def _factor(step: int, total_steps: int, warmup_steps: int, power: float) -> float:
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    return float(max(1 - step / total_steps, 0.0) ** power)
