"""Learning rates by the largest eigenvalue of a batch's curvature, and so by the batch size.

    alpha_max = 2 (1 + rho) / lambda'(B)                       SGD with heavy-ball momentum rho
    alpha(B)  = alpha(B0) (lambda'(B0) / lambda'(B))^power     power 1: linear rule, SGD; 1/2: square-root rule, Adam

Where noise dominates lambda' goes as 1 / B and the rules read alpha ~ B and alpha ~ sqrt B, the latter because Adam's
preconditioner, one over the root of a second moment of gradient noise, takes up half of the power; its damping must be
small, or Adam scales as SGD does. Above the crossover lambda' no longer falls and rates stay where they are.

Source: Granziol, Zohren, Roberts, "Learning Rates as a Function of Batch Size: A Random Matrix Theory Approach to
Neural Network Training" (JMLR 2022). The square-root rule off the noise-dominated regime is our reading: one power for
the whole curve.
"""

import math
from collections.abc import Callable
from typing import Literal

POWERS = {"linear": 1.0, "sqrt": 0.5}


def max_learning_rate(largest: float, *, momentum: float = 0.0) -> float:
    """The rate above which (heavy-ball) SGD diverges on a quadratic; infinite where the curvature is not positive.

    Args:
        largest: eigenvalue of the curvature, of a batch where gradients are those of batches: measured, or
            `BatchSpectrum.largest_at`. Weight decay adds its constant.
        momentum: rho, in [0, 1).

    Raises:
        ValueError: `momentum` is out of range, or `largest` not a number.
    """
    if not 0 <= momentum < 1:
        raise ValueError(f"momentum must lie in [0, 1), got {momentum}")
    if math.isnan(largest):
        raise ValueError("largest must be a number, got NaN")
    return 2 * (1 + momentum) / largest if largest > 0 else math.inf


def scale_learning_rate(
    lr: float,
    base_batch: int,
    batch: int,
    rule: Literal["linear", "sqrt"] = "linear",
    *,
    largest_at: Callable[[int], float] | None = None,
) -> float:
    """Carry a learning rate over to another batch size.

    Args:
        lr: the rate at `base_batch`.
        base_batch: samples a step there.
        batch: samples a step now.
        rule: `linear`, for SGD; `sqrt`, for Adam and its like.
        largest_at: the largest eigenvalue by batch size, such as `BatchSpectrum.largest_at` of a measured spectrum,
            with which rates level off where it does; by default it goes as one over the batch.

    Raises:
        ValueError: the rule is unknown, a batch size is not positive, or an eigenvalue not positive.
    """
    if rule not in POWERS:
        raise ValueError(f"rule must be linear or sqrt, got {rule!r}")
    for name, size in (("base_batch", base_batch), ("batch", batch)):
        if size < 1:
            raise ValueError(f"{name} must be positive, got {size}")
    ratio = batch / base_batch
    if largest_at is not None:
        base, now = largest_at(base_batch), largest_at(batch)
        if not (base > 0 and now > 0):
            raise ValueError(f"largest_at must give positive eigenvalues, got {base} and {now}")
        ratio = base / now
    return float(lr * ratio ** POWERS[rule])
