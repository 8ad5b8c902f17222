"""TRADES: cross-entropy, and how far an adversary can move the predicted distribution.

    L = CE(h(x), y) + beta max_{x'} KL( softmax h(x) || softmax h(x') )

Source: Zhang et al., "Theoretically principled trade-off between robustness and accuracy" (ICML 2019), eq. 5.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from assay.losses.reduction import check_reduction, reduced


def divergence(
    clean: Float[Tensor, "batch classes"], adversarial: Float[Tensor, "batch classes"]
) -> Float[Tensor, " batch"]:
    """KL(softmax h(x) || softmax h(x')) of each sample, in float32 at least: the objective of the adversary.

    Args:
        clean: h(x).
        adversarial: h(x').
    """
    if clean.shape != adversarial.shape:
        raise ValueError(
            f"adversarial must have the shape of clean, {list(clean.shape)}, got {list(adversarial.shape)}"
        )
    wide = torch.promote_types(clean.dtype, torch.float32)
    p, q = (F.log_softmax(h.to(wide), 1) for h in (clean, adversarial))
    return (p.exp() * (p - q)).sum(1)


def trades_loss(
    clean: Float[Tensor, "batch classes"],
    adversarial: Float[Tensor, "batch classes"],
    target: Int[Tensor, " batch"],
    *,
    beta: float = 6.0,
    reduction: str = "mean",
) -> Float[Tensor, "..."]:
    """The loss at scores that are at hand; the gradient goes through both.

    Args:
        clean: h(x).
        adversarial: h(x').
        target: y, classes.
        beta: at least 0.
        reduction: `mean`, `sum` or `none`.

    Raises:
        ValueError: a setting is out of range, or shapes do not fit.

    Source: Zhang et al. 2019, eq. 5.
    """
    if not 0 <= beta < math.inf:
        raise ValueError(f"beta must be at least 0 and finite, got {beta}")
    check_reduction(reduction)
    wide = torch.promote_types(clean.dtype, torch.float32)
    loss = F.cross_entropy(clean.to(wide), target, reduction="none") + beta * divergence(clean, adversarial)
    return reduced(loss, reduction)
