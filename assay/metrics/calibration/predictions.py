"""What all measures start from: logits or probabilities and classes, checked and brought into one form.

Anything but float64 is computed in float32: bfloat16 confidences have two or three digits, less than a bin is wide.
"""

from typing import NamedTuple

import torch
from torch import Tensor

TOLERANCE = 1e-2  # by which given probabilities may miss a sum of 1: bfloat16 has no more digits than that
EXACT = 1e-5  # what float32 misses it by
FEW = 32  # classes


class Checked(NamedTuple):
    """Predictions of n examples over K classes.

    Attributes:
        logits: float [n, K]; `None` where probabilities were given.
        probabilities: [n, K], rows that sum to 1.
        target: int64 [n], in [0, K).
    """

    logits: Tensor | None
    probabilities: Tensor
    target: Tensor


class TopLabel(NamedTuple):
    """The predicted class alone.

    Attributes:
        confidence: its probability, [n].
        correct: whether it is the class, bool [n].
    """

    confidence: Tensor
    correct: Tensor


def checked(
    predictions: Tensor, target: Tensor, *, probabilities: bool = False, ignore_index: int | None = None
) -> Checked:
    """Flatten and check predictions.

    Args:
        predictions: logits, float [n, K, *places], of any size and any infinities below; [n, K, *places]
            probabilities where `probabilities` is set.
        target: classes, whole numbers [n, *places].
        probabilities: `predictions` are probabilities: each in [0, 1], the classes' sum 1.
        ignore_index: class of places that do not count.

    Raises:
        TypeError: `predictions` are not of floating point, or `target` is not of whole numbers.
        ValueError: shapes do not fit, there is no example, a class is out of range, or a prediction is NaN, +infinity
            or no probability.
    """
    if not predictions.is_floating_point():
        raise TypeError(f"predictions must be of floating point, got {predictions.dtype}")
    if target.is_floating_point() or target.is_complex() or target.dtype == torch.bool:
        raise TypeError(f"target must be classes as whole numbers, got {target.dtype}")
    if predictions.ndim < 2 or target.shape != predictions.shape[:1] + predictions.shape[2:]:
        raise ValueError(
            "predictions [n, classes, ...] and target [n, ...] must fit, "
            f"got {list(predictions.shape)} and {list(target.shape)}"
        )
    z = predictions if predictions.dtype == torch.float64 else predictions.float()
    if z.ndim > 2:
        z, target = z.movedim(1, -1).flatten(0, -2), target.flatten()
    if ignore_index is not None:
        counted = target != ignore_index
        z, target = z[counted], target[counted]
    examples, classes = z.shape
    if examples == 0 or classes == 0:
        raise ValueError(f"predictions must hold at least one example and one class, got {examples} and {classes}")
    low, high = (int(x) for x in torch.aminmax(target))
    if low < 0 or high >= classes:
        raise ValueError(f"target must lie in [0, {classes}), got {low if low < 0 else high}")
    if probabilities:
        return Checked(None, _checked_probabilities(z), target.long())
    # torch's softmax over few classes goes example by example on a CPU: five times as slow as over their transpose
    turned = classes < FEW and z.device.type == "cpu"
    p = z.T.contiguous().softmax(dim=0).T if turned else z.softmax(dim=1)
    if not bool(p[:, 0].sum().isfinite()):  # one NaN or +infinity makes a whole row NaN
        raise ValueError("predictions must hold no NaN, no +infinity and no row of -infinity alone")
    return Checked(z, p, target.long())


def _checked_probabilities(p: Tensor) -> Tensor:
    """`p`, made to sum to 1 where rounding keeps it from that."""
    low = float(p.detach().amin())
    if not low >= 0:  # none is above 1 then, if they sum to it
        raise ValueError(f"probabilities must lie in [0, 1], got {low:g}; leave probabilities=True out for logits")
    total = p.sum(dim=1, keepdim=True)
    least, most = (float(x) for x in torch.aminmax(total.detach()))
    off = max(1 - least, most - 1)
    if not off <= TOLERANCE:
        raise ValueError(f"probabilities of an example must sum to 1, got sums up to {off:g} away")
    return p if off < EXACT else p / total


def top_label(given: Checked) -> TopLabel:
    """Confidence and correctness; of equal probabilities the first class is the predicted one."""
    confidence, predicted = given.probabilities.max(dim=1)
    return TopLabel(confidence, predicted == given.target)
