"""How embeddings lie on the unit sphere: evenly spread, close to their positives, close to their class.

    uniformity  U = log mean_{i < j} exp(-t |z_i - z_j|^2)              0 where all are one point, lower is more even
    alignment   A = mean_i |z_i - z'_i|^alpha                           0 where both views are one point
    tolerance   T = mean of z_i . z_j over pairs of equal label         1 where every class is one point

Source: Wang, Isola, "Understanding contrastive representation learning through alignment and uniformity on the
hypersphere" (2020), section 4; tolerance: Wang, Liu, "Understanding the behaviour of contrastive loss" (2021), eq. 9.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from assay.losses.contrast import Contrast
from assay.losses.similarity import log_sum_negatives


def uniformity(z: Float[Tensor, "samples dim"], t: float = 2.0, *, chunk_size: int | None = None) -> Float[Tensor, ""]:
    """U over pairs of different samples.

    Args:
        z: embeddings, made of length 1 here.
        t: sharpness, positive.
        chunk_size: samples whose similarities are in memory at a time; all by default.

    Returns:
        U in [-4 t, 0], in float32 at least.

    Raises:
        ValueError: there are fewer than two samples, or `t` is not positive.

    Source: Wang and Isola 2020, section 4.1.2.
    """
    if z.ndim != 2 or len(z) < 2:
        raise ValueError(f"z must hold at least two samples [samples, dim], got shape {list(z.shape)}")
    if not 0 < t < math.inf:
        raise ValueError(f"t must be positive and finite, got {t}")
    z = _unit(z)
    # |x - y|^2 = 2 - 2 x.y, so that it is a pool of exp(s / tau) at tau = 1 / (2 t)
    each = log_sum_negatives(
        Contrast(z, z, z, own=torch.arange(len(z), device=z.device)), 1 / (2 * t), chunk_size=chunk_size
    )
    return each.logsumexp(0) - math.log(len(z) * (len(z) - 1)) - 2 * t


def alignment(
    z1: Float[Tensor, "samples dim"], z2: Float[Tensor, "samples dim"], alpha: float = 2.0
) -> Float[Tensor, ""]:
    """A of two views, row by row of the same samples.

    Args:
        z1: embeddings of one view, made of length 1 here.
        z2: of the other.
        alpha: power of the distance, positive.

    Raises:
        ValueError: shapes differ, there is no sample, or `alpha` is not positive.

    Source: Wang and Isola 2020, section 4.1.1.
    """
    if z1.ndim != 2 or z1.shape != z2.shape or not len(z1):
        raise ValueError(f"z1 and z2 must have one shape [samples, dim], got {list(z1.shape)} and {list(z2.shape)}")
    if not alpha > 0:
        raise ValueError(f"alpha must be positive, got {alpha}")
    squared = (_unit(z1) - _unit(z2)).square().sum(1)
    return squared.pow(alpha / 2).mean()


def tolerance(
    z: Float[Tensor, "samples dim"], labels: Int64[Tensor, " samples"], *, conditional: bool = True
) -> Float[Tensor, ""]:
    """T over ordered pairs of different samples. It takes no matrix: a class's pairs follow from the sum of its rows.

    Args:
        z: embeddings, made of length 1 here.
        labels: the class of each, from 0.
        conditional: the mean over pairs of equal label alone, all classes' together, which does not depend on how many
            classes there are; else that of (z_i . z_j) 1[equal label] over all pairs, as the paper's formula reads.

    Raises:
        ValueError: shapes do not fit, a label is negative, or no two samples share one.

    Source: Wang and Liu 2021, eq. 9.
    """
    if z.ndim != 2 or labels.shape != z.shape[:1]:
        raise ValueError(f"labels must be one a row of z, got {list(labels.shape)} for {list(z.shape)}")
    if len(labels) and labels.min() < 0:
        raise ValueError(f"labels must not be negative, got {int(labels.min())}")
    counts = labels.bincount()
    pairs = (counts * (counts - 1)).sum()
    if not pairs > 0:
        raise ValueError("labels must have two samples of one class, got none")
    z = _unit(z)
    sums = z.new_zeros(len(counts), z.shape[1]).index_add(0, labels, z)
    similar = sums.square().sum() - z.square().sum()  # of which the second are the pairs of a sample with itself
    return similar / (pairs if conditional else len(z) * (len(z) - 1))


def _unit(z: Tensor) -> Tensor:
    return F.normalize(z.to(torch.promote_types(z.dtype, torch.float32)))
