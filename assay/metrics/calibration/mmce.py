"""MMCE: maximum mean calibration error, of a Laplace kernel, in the time of a sort.

    MMCE^2 = sum_ij u_i u_j exp(-|c_i - c_j| / w),    u_i = (a_i - c_i) / n
    weighted:                                         u_i = (1 - c_i) / m if correct, else -c_i / (n - m)

with m examples correct. With confidences rising, exp(-(c_i - c_j) / w) is a product of two factors for all j before i,
so that prefix sums stand in for the n^2 pairs.

Source: Kumar, Sarawagi, Jain, "Trainable Calibration Measures for Neural Networks from Kernel Mean Embeddings" (ICML
2018), eq. 4 and section 3.3.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from assay.metrics.calibration.predictions import TopLabel, checked, top_label

NARROWEST = 0.002  # exp(1 / width) has to fit float64


def mmce(
    predictions: Tensor,
    target: Tensor,
    *,
    width: float = 0.4,
    weighted: bool = False,
    root: bool = True,
    reference: bool = False,
    probabilities: bool = False,
    ignore_index: int | None = None,
) -> Float[Tensor, ""]:
    """MMCE of the predicted classes' confidences; as a loss, give `root=False`, whose gradient is finite at 0.

    Args:
        predictions: logits, float [n, classes, *places].
        target: classes, whole numbers [n, *places].
        width: of the kernel, at least 0.002.
        weighted: correct and wrong examples count as much as each other, however many there are of each; 0 where there
            are none of one kind.
        root: the square root, as the measure is defined.
        reference: of the weighted form, what focal_calibration's code gives: the mean over each kind of pairs divided
            by their number (and 1e-5) once more, and 1e-10 added under the root.
        probabilities: `predictions` are probabilities.
        ignore_index: class of places that do not count.

    Returns:
        at least 0, float64, a scalar.

    Raises:
        TypeError, ValueError: as `assay.metrics.calibration.predictions.checked`; or `width` is too small, or
            `reference` is asked of the form without weights, which is the same there.
    """
    if not width >= NARROWEST:
        raise ValueError(f"width must be at least {NARROWEST}, got {width}")
    if reference and not weighted:
        raise ValueError("reference changes the weighted form alone: give weighted=True too")
    top = top_label(checked(predictions, target, probabilities=probabilities, ignore_index=ignore_index))
    squared = _weighted(top, width, reference) if weighted else mmce_squared(top, width)
    return squared.clamp(min=0).sqrt() if root else squared


def mmce_squared(top: TopLabel, width: float = 0.4) -> Float[Tensor, ""]:
    """MMCE^2 of confidences and correctness, float64."""
    c = top.confidence.double()
    return _quadratic_form(c, (top.correct.double() - c) / len(c), width)


def _weighted(top: TopLabel, width: float, reference: bool) -> Tensor:
    c, right = top.confidence.double(), top.correct.double()
    m = right.sum()
    w = len(c) - m
    both = (m > 0) & (w > 0)
    u = right * (1 - c) / m.clamp(min=1)
    v = (1 - right) * c / w.clamp(min=1)
    if not reference:
        return torch.where(both, _quadratic_form(c, u - v, width), 0.0)
    own, other, together = (_quadratic_form(c, x, width) for x in (u, v, u + v))
    mixed = (together - own - other) / 2
    cut = own / (m * m + 1e-5) - 2 * mixed / (m * w + 1e-5) + other / (w * w + 1e-5)
    return torch.where(both, cut + 1e-10, 0.0)


def _quadratic_form(c: Float[Tensor, " n"], u: Float[Tensor, " n"], width: float) -> Tensor:
    """sum_ij u_i u_j exp(-|c_i - c_j| / width)"""
    c, order = c.sort()
    u = u[order]
    before = (u * (c / width).exp()).cumsum(0) - u * (c / width).exp()
    return u.square().sum() + 2 * (u * (-c / width).exp() * before).sum()
