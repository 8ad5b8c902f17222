"""Whom a contrastive loss pushes: each negative's share of the gradient that an anchor's negatives get in all.

    r_ij = |dL_i / ds_ij| / |dL_i / ds_i+| = exp(s_ij / tau) / sum_{k in N(i)} exp(s_ik / tau)

A Boltzmann distribution over the negatives N(i) at temperature tau: all on the nearest one as tau goes to 0, even as it
goes to infinity.

Source: Wang, Liu, "Understanding the behaviour of contrastive loss" (2021), eq. 6.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from assay.losses.similarity import check_temperature


def relative_penalty(
    similarities: Float[Tensor, "anchors keys"], positive: Int64[Tensor, " anchors"], temperature: float
) -> Float[Tensor, "anchors keys"]:
    """The shares r of all keys; 0 at the positive, so that rows sum to 1.

    Args:
        similarities: s, of anchors to keys.
        positive: the column of each anchor's positive.
        temperature: tau > 0.

    Raises:
        ValueError: shapes do not fit, there is no negative, or `temperature` is not positive.

    Source: Wang and Liu 2021, eq. 6.
    """
    check_temperature(temperature)
    if similarities.ndim != 2 or positive.shape != similarities.shape[:1]:
        raise ValueError(
            f"positive must be one a row of similarities, got {list(positive.shape)} for {list(similarities.shape)}"
        )
    if similarities.shape[1] < 2:
        raise ValueError(f"similarities must have a negative beside the positive, got {similarities.shape[1]} key")
    s = similarities.to(torch.promote_types(similarities.dtype, torch.float32))
    return (s / temperature).scatter(1, positive[:, None], -math.inf).softmax(1)


def penalty_by_rank(
    similarities: Float[Tensor, "anchors keys"], positive: Int64[Tensor, " anchors"], temperatures: Sequence[float]
) -> Float[Tensor, "temperatures negatives"]:
    """The share of an anchor's hardest negative, of its second hardest and so on, each the mean over anchors.

    Args:
        similarities, positive: as of `relative_penalty`.
        temperatures: one row of the result each.

    Raises:
        ValueError: as `relative_penalty`.
    """
    ranked = [relative_penalty(similarities, positive, t).sort(1, descending=True).values for t in temperatures]
    return torch.stack([shares[:, :-1].mean(0) for shares in ranked])  # the last is the positive's
