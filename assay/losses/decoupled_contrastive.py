"""Decoupled contrastive learning: InfoNCE without the positive pair in its denominator.

    L_i = -w_i s_i+ / tau + log sum_{j in N(i)} exp(s_ij / tau),        w_i = 1 (DCL)
    w_i = 2 - exp(s_i+ / sigma) / mean_i' exp(s_i'+ / sigma)                   (DCLW)

s: similarities of unit embeddings, s_i+ that of the positive pair; N(i): both views of all other images. It has no
lower bound at 0. InfoNCE is log(1 + exp(L)) of the unweighted L, so that its gradient is that of L times

    q_i = 1 - exp(s_i+ / tau) / (exp(s_i+ / tau) + sum_{j in N(i)} exp(s_ij / tau)) = sigmoid(L_i),

the negative-positive coupling, which goes to 0 where negatives are few or the pair is easy. DCL has no such factor.

Source: Yeh et al., "Decoupled Contrastive Learning" (2022), eq. 2 to 7.
"""

from jaxtyping import Float
from torch import Tensor

from assay.losses.contrast import Contrast, TwoViewLoss, positive_similarity
from assay.losses.similarity import check_temperature, log_sum_negatives


def decoupled_contrastive(
    contrast: Contrast,
    temperature: float = 0.1,
    *,
    weights: Float[Tensor, " anchors"] | None = None,
    chunk_size: int | None = None,
) -> Float[Tensor, " anchors"]:
    """L_i of each anchor.

    Args:
        contrast: anchors, positives and keys, as `two_views` makes them.
        temperature: tau > 0.
        weights: w of each anchor; 1 by default.
        chunk_size: anchors whose similarities are in memory at a time, see `log_sum_negatives`.

    Raises:
        ValueError: there are no negatives, or a number is not positive.

    Source: Yeh et al. 2022, eq. 6, for each anchor.
    """
    positive = positive_similarity(contrast)
    pull = positive if weights is None else weights * positive
    return log_sum_negatives(contrast, temperature, chunk_size=chunk_size) - pull / temperature


def von_mises_fisher_weights(similarities: Float[Tensor, " pairs"], sigma: float = 0.5) -> Float[Tensor, " pairs"]:
    """w_i = 2 - exp(s_i / sigma) / mean exp(s / sigma): more than 1 for pairs that are less alike than others.

    Their mean is 1. That of a very easy pair in a large batch may be negative.

    Args:
        similarities: s_i+ of every pair of the batch, all processes' together.
        sigma: its concentration, positive; all weights go to 1 as it grows.

    Raises:
        ValueError: `sigma` is not positive.

    Source: Yeh et al. 2022, section 3.2.
    """
    _check_sigma(sigma)
    return 2 - len(similarities) * (similarities / sigma).softmax(0)


def npc_multiplier(
    contrast: Contrast, temperature: float = 0.1, *, chunk_size: int | None = None
) -> Float[Tensor, " anchors"]:
    """q_i in (0, 1): what negative-positive coupling leaves of the gradient of each anchor in InfoNCE.

    Arguments and errors as of `decoupled_contrastive`. Source: Yeh et al. 2022, eq. 4.
    """
    return decoupled_contrastive(contrast, temperature, chunk_size=chunk_size).sigmoid()


class DecoupledContrastiveLoss(TwoViewLoss):
    """DCL of a batch of pairs.

    It is at the scale of InfoNCE, for which learning rates carry over; the authors add up the means of the two
    directions, which is twice the mean over all anchors.

    Args:
        temperature: tau > 0.
        normalize, gather, chunk_size, reduction: see `TwoViewLoss`.

    Raises:
        ValueError: a setting is out of its range; in use, shapes differ or a single image has no negatives.

    Source: Yeh et al. 2022, eq. 6.
    """

    def __init__(
        self,
        temperature: float = 0.1,
        *,
        normalize: bool = True,
        gather: bool = False,
        chunk_size: int | None = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__(normalize=normalize, gather=gather, chunk_size=chunk_size, reduction=reduction)
        check_temperature(temperature)
        self.temperature = temperature

    def each(self, contrast: Contrast) -> Float[Tensor, " anchors"]:
        return decoupled_contrastive(contrast, self.temperature, chunk_size=self.chunk_size)


class WeightedDecoupledContrastiveLoss(TwoViewLoss):
    """DCLW of a batch of pairs: DCL that pulls harder at pairs whose views are less alike than those of others.

    Args:
        temperature: tau > 0.
        sigma: concentration of the weights, positive.
        detach_weights: take the weights as given, which is how the paper speaks of them; else gradients flow through
            them too, as in the widely used public code.
        normalize, gather, chunk_size, reduction: see `TwoViewLoss`; with `gather` the weights are the joined batch's.

    Raises:
        ValueError: a setting is out of its range; in use, shapes differ or a single image has no negatives.

    Source: Yeh et al. 2022, section 3.2.
    """

    def __init__(
        self,
        temperature: float = 0.1,
        sigma: float = 0.5,
        *,
        detach_weights: bool = True,
        normalize: bool = True,
        gather: bool = False,
        chunk_size: int | None = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__(normalize=normalize, gather=gather, chunk_size=chunk_size, reduction=reduction)
        check_temperature(temperature)
        _check_sigma(sigma)
        self.temperature, self.sigma, self.detach_weights = temperature, sigma, detach_weights

    def each(self, contrast: Contrast) -> Float[Tensor, " anchors"]:
        # keys are, process by process, both views of its images; both have the weight of their pair
        batch, dim = len(contrast.anchors) // 2, contrast.keys.shape[1]
        views = contrast.keys.view(-1, 2, batch, dim)
        pairs = (views[:, 0] * views[:, 1]).sum(2)
        weights = von_mises_fisher_weights(pairs.flatten(), self.sigma).view_as(pairs)
        own = weights[:, None].expand(-1, 2, -1).flatten()[contrast.own]
        own = own.detach() if self.detach_weights else own
        return decoupled_contrastive(contrast, self.temperature, weights=own, chunk_size=self.chunk_size)


def _check_sigma(sigma: float) -> None:
    if not sigma > 0:
        raise ValueError(f"sigma must be positive, got {sigma}")
