"""Class correlation: how far a batch's predictions confuse pairs of classes.

    C_jk = sum_i w_i P_ij P_ik,    L = 1/K sum_j sum_{k != j} C_jk / sum_k C_jk

P: softmax of the logits over a temperature, batch x K. Rows of P sum to 1, so that row j of C sums to the mass
m_j = sum_i w_i P_ij and its off-diagonal part to sum_i w_i P_ij (1 - P_ij): the K x K matrix is never needed.

0 where every prediction is certain, (K - 1) / K where all are uniform. The division by m_j gives each class the same
say, so that rare ones are not swallowed as they are by the entropy.

Source: You, Li, Zhao, "Test-time batch statistics calibration for covariate shift" (2021), who name this quantity
(Core) in a formula that could not be read: this is a reconstruction. With certainty weights it is the minimum class
confusion of Jin et al., "Minimum class confusion for versatile domain adaptation" (ECCV 2020).
"""

import torch
from jaxtyping import Float
from torch import Tensor

TINY = 1e-8  # mass of a class below which it no longer counts


def class_correlation_loss(
    logits: Float[Tensor, "batch classes"], *, temperature: float = 1.0, certainty_weighting: bool = False
) -> Float[Tensor, ""]:
    """The mean share of a class's correlation that it has with other classes; a figure of the batch, not of samples.

    Args:
        logits: any floating type; computed in float32 at least.
        temperature: T > 0, P = softmax(logits / T).
        certainty_weighting: w_i proportional to 1 + exp(-H_i), H_i the entropy of row i, without a gradient; else 1.
            Their scale has no effect.

    Returns:
        L in [0, (K - 1) / K], a scalar in float32 at least.

    Raises:
        ValueError: `temperature` is not positive, or the batch is empty.

    Source: Jin et al. 2020, eq. 3 to 8, where weighted; see the head of this file.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    if not len(logits):
        raise ValueError("logits must hold at least one sample, got none")
    p = (logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature).softmax(1)
    if certainty_weighting:
        q = p.detach()
        certainty = 1 + (q * (q + 1e-5).log()).sum(1, keepdim=True).exp()
        weighted = p * certainty / certainty.mean()
    else:
        weighted = p
    confused = (weighted * (1 - p)).sum(0)
    return (confused / weighted.sum(0).clamp_min(TINY)).mean()
