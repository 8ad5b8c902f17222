"""How well the classes of pixels are found.

    IoU_c = pixels that are c and were called c / pixels that are c or were called c,  summed over all pictures

Source: Everingham et al., "The Pascal Visual Object Classes challenge: a retrospective" (2015), section 2.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import one_hot


class Overlap(NamedTuple):
    """Pixels of each picture and class.

    Attributes:
        intersection: that are of the class and were called so.
        union: that are either.
    """

    intersection: Int64[Tensor, "pictures classes"]
    union: Int64[Tensor, "pictures classes"]


def overlap(
    found: Int64[Tensor, "pictures height width"], target: Int64[Tensor, "pictures height width"], classes: int
) -> Overlap:
    """Count pixels by class.

    Args:
        found: classes that were given, from 0.
        target: the right ones.
        classes: how many there are.
    """
    called, right = (one_hot(y.flatten(1), classes) for y in (found, target))
    intersection = (called & right).sum(1)
    return Overlap(intersection, called.sum(1) + right.sum(1) - intersection)


def mean_iou(counts: Overlap) -> Float[Tensor, ""]:
    """The mean over classes of the ratio of all pictures' pixels, float64; classes that occur nowhere are left out.

    Args:
        counts: of at least one pixel.
    """
    intersection, union = (pixels.sum(0).double() for pixels in counts)
    there = union > 0
    return torch.mean(intersection[there] / union[there])
