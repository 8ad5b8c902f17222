"""Fits of simple laws to measured points."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float


class Line(NamedTuple):
    """y = slope x + intercept, with the share of y's variance that it explains."""

    slope: float
    intercept: float
    r2: float


def fit_line(x: Float[np.ndarray, " points"], y: Float[np.ndarray, " points"]) -> Line:
    """The straight line of least squares.

    Args:
        x: at least two different values.
        y: the values there; where they are all equal, r2 is 1 (the line is exact).

    Raises:
        ValueError: lengths differ, fewer than two different x, or a value is not finite.
    """
    if x.shape != y.shape:
        raise ValueError(f"x and y must have equal lengths, got {len(x)} and {len(y)}")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError("x and y must be finite, got NaN or infinity")
    if len(np.unique(x)) < 2:
        raise ValueError(f"x must hold at least two different values, got {len(np.unique(x))}")
    dx, dy = x - x.mean(), y - y.mean()
    slope = float(dx @ dy / (dx @ dx))
    left = dy - slope * dx
    total = float(dy @ dy)
    return Line(slope, float(y.mean() - slope * x.mean()), 1 - float(left @ left) / total if total else 1.0)
