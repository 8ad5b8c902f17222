"""Multiplicative gradient noise: the small batch's gradient covariance at a large batch.

    g = (1/M) sum_n z_n g_n,    z_n ~ N(1, sigma^2) independent

Source: Hoffer, Hubara, Soudry, "Train longer, generalize better" (NIPS 2017), section 4. The authors prefer the
square-root learning-rate rule (`assay.optim.large_batch.sqrt_scaled_lr`).
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor


def noisy_mean(
    losses: Float[Tensor, " batch"], sigma: float, *, generator: torch.Generator | None = None
) -> Float[Tensor, ""]:
    """The mean of `losses` whose gradient carries multiplicative noise: (1/M) sum_n z_n losses_n.

    Its expectation is the mean, and so is its gradient's. Under data parallelism give each worker its own stream.

    Args:
        losses: one value a sample, as of `reduction="none"`.
        sigma: standard deviation of the z_n, at least 0; see `noise_to_match`.
        generator: of the draws, on the losses' device; torch's default one otherwise. With `sigma=0` none is made.

    Raises:
        ValueError: `sigma` is negative.

    Source: Hoffer et al. 2017, section 4.
    """
    if not 0 <= sigma < math.inf:
        raise ValueError(f"sigma must be finite and not negative, got {sigma}")
    if sigma == 0:
        return losses.mean()
    z = torch.empty_like(losses, requires_grad=False).normal_(1.0, sigma, generator=generator)
    return (z * losses).mean()


def noise_to_match(base_batch_size: int, batch_size: int) -> float:
    """The sigma at which a large batch's gradient varies as a small batch's: sqrt(batch_size / base_batch_size - 1).

    Since z_n g_n has second moment (1 + sigma^2) E g g^T, the covariance of the mean is then that of the small batch,
    exactly so where the gradient's expectation is 0 and otherwise within terms of its square. The paper gives the
    proportion sigma^2 ~ M alone; the constant is ours.

    Args:
        base_batch_size: samples a step of the small batch.
        batch_size: M, samples a step now; not below it.

    Raises:
        ValueError: `batch_size` is below `base_batch_size`, or that is not positive.
    """
    if not 1 <= base_batch_size <= batch_size:
        raise ValueError(f"batch_size must not be below base_batch_size >= 1, got {batch_size} and {base_batch_size}")
    return math.sqrt(batch_size / base_batch_size - 1)
