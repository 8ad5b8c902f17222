"""Contrastive losses that choose hard negatives by a threshold, or are blind to how hard they are.

    hard:         -log [ exp(s_i+ / tau) / ( exp(s_i+ / tau) + sum_{j in H(i)} exp(s_ij / tau) ) ]
    simple:       -s_i+ + lambda sum_{j in N(i)} s_ij
    hard simple:  -s_i+ + lambda sum_{j in H(i)} s_ij

N(i): the negatives of anchor i; H(i): those of them with s_ij >= s_alpha, the upper alpha-quantile of the anchor's own
negatives. The ordinary loss, InfoNCE, punishes near negatives more the lower its temperature; a threshold does so at
any temperature.

s_alpha is the k-th largest similarity, k = ceil(alpha |N|): the paper leaves open how a quantile of few is meant. What
ties with it is kept too. No gradient flows through it. lambda is 1 over the number of negatives that are meant to be
kept, by which the two terms weigh alike; the paper has it as a hyperparameter.

Source: Wang, Liu, "Understanding the behaviour of contrastive loss" (2021), eq. 2, 10 and 11.
"""

import math

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from assay.losses.contrast import Contrast, TwoViewLoss, positive_similarity
from assay.losses.similarity import check_temperature, log_sum_negatives, sum_negatives

ALPHA = 0.0819  # 4096 of 50,000: the authors' share for CIFAR


def hard_contrastive(
    contrast: Contrast,
    temperature: float = 1.0,
    alpha: float = ALPHA,
    *,
    num_hard: int | None = None,
    positive_competes: bool = False,
    chunk_size: int | None = None,
) -> Float[Tensor, " anchors"]:
    """The hard loss of each anchor; with `alpha` 1 it is InfoNCE.

    From a random start and at a high temperature, few negatives may let all embeddings collapse into one: begin with
    `alpha` 1, see `warmed_alpha`.

    Args:
        contrast: anchors, positives and keys, as `two_views` or a `MemoryBank` makes them.
        temperature: tau > 0.
        alpha: share of the negatives that count, in (0, 1].
        num_hard: their number, in place of a share.
        positive_competes: what the authors' code does: the positive is one of the keys among which the hardest are
            chosen, and the denominator has it only if it is chosen. The loss can then be negative.
        chunk_size: anchors whose similarities are in memory at a time, see `log_sum_negatives`.

    Raises:
        ValueError: there are no negatives, or a setting is out of its range.

    Source: Wang and Liu 2021, section 4.3.
    """
    pool = contrast._replace(positive=None) if positive_competes else contrast
    hard = _number(pool, alpha, num_hard)
    pull = positive_similarity(contrast) / temperature
    decoupled = log_sum_negatives(pool, temperature, num_hard=hard, chunk_size=chunk_size) - pull
    return decoupled if positive_competes else -logsigmoid(-decoupled)


def simple_contrastive(contrast: Contrast, lam: float | None = None) -> Float[Tensor, " anchors"]:
    """The simple loss of each anchor, whose gradients are the same for near and far negatives. It needs no matrix.

    Args:
        contrast: anchors, positives and keys.
        lam: lambda; 1 / |N| by default.

    Raises:
        ValueError: there are no negatives.

    Source: Wang and Liu 2021, eq. 2.
    """
    return hard_simple_contrastive(contrast, lam, alpha=1.0)


def hard_simple_contrastive(
    contrast: Contrast,
    lam: float | None = None,
    alpha: float = ALPHA,
    *,
    num_hard: int | None = None,
    positive_competes: bool = False,
    chunk_size: int | None = None,
) -> Float[Tensor, " anchors"]:
    """The hard simple loss of each anchor; with `alpha` 1 it is the simple one.

    Args:
        contrast, alpha, num_hard, positive_competes, chunk_size: as of `hard_contrastive`.
        lam: lambda; 1 over the number of hard negatives by default.

    Raises:
        ValueError: there are no negatives, or a setting is out of its range.

    Source: Wang and Liu 2021, section 4.3.
    """
    pool = contrast._replace(positive=None) if positive_competes else contrast
    hard = _number(pool, alpha, num_hard)
    push = sum_negatives(pool, num_hard=hard, chunk_size=chunk_size)
    return push * (1 / hard if lam is None else lam) - positive_similarity(contrast)


def warmed_alpha(alpha: float, progress: float, warmup: float) -> float:
    """The share to choose at a point of training: from 1 at its start, geometrically, to `alpha` when warm.

    Args:
        alpha: the share at the end, in (0, 1].
        progress: share of training that is done, in [0, 1].
        warmup: share of training over which the choice narrows, in [0, 1]; 0 for none.
    """
    return alpha if progress >= warmup else alpha ** (progress / warmup)


class HardContrastiveLoss(TwoViewLoss):
    """The hard loss of a batch of pairs. `alpha` may be set anew as training goes on, see `warmed_alpha`.

    Args:
        temperature: tau > 0.
        alpha: share of an anchor's negatives that count, in (0, 1].
        num_hard: their number, in place of a share.
        normalize, gather, chunk_size, reduction: see `TwoViewLoss`.

    Raises:
        ValueError: a setting is out of its range; in use, shapes differ or a single image has no negatives.

    Source: Wang and Liu 2021, section 4.3.
    """

    def __init__(
        self,
        temperature: float = 1.0,
        alpha: float = ALPHA,
        *,
        num_hard: int | None = None,
        normalize: bool = True,
        gather: bool = False,
        chunk_size: int | None = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__(normalize=normalize, gather=gather, chunk_size=chunk_size, reduction=reduction)
        check_temperature(temperature)
        _check_choice(alpha, num_hard)
        self.temperature, self.alpha, self.num_hard = temperature, alpha, num_hard

    def each(self, contrast: Contrast) -> Float[Tensor, " anchors"]:
        return hard_contrastive(
            contrast, self.temperature, self.alpha, num_hard=self.num_hard, chunk_size=self.chunk_size
        )


class HardSimpleContrastiveLoss(TwoViewLoss):
    """The hard simple loss of a batch of pairs; with `alpha` 1 the simple one.

    Args:
        lam: lambda; 1 over the number of hard negatives by default.
        alpha: share of an anchor's negatives that count, in (0, 1].
        num_hard: their number, in place of a share.
        normalize, gather, chunk_size, reduction: see `TwoViewLoss`.

    Raises:
        ValueError: a setting is out of its range; in use, shapes differ or a single image has no negatives.

    Source: Wang and Liu 2021, section 4.3.
    """

    def __init__(
        self,
        lam: float | None = None,
        alpha: float = ALPHA,
        *,
        num_hard: int | None = None,
        normalize: bool = True,
        gather: bool = False,
        chunk_size: int | None = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__(normalize=normalize, gather=gather, chunk_size=chunk_size, reduction=reduction)
        _check_choice(alpha, num_hard)
        self.lam, self.alpha, self.num_hard = lam, alpha, num_hard

    def each(self, contrast: Contrast) -> Float[Tensor, " anchors"]:
        return hard_simple_contrastive(
            contrast, self.lam, self.alpha, num_hard=self.num_hard, chunk_size=self.chunk_size
        )


class SimpleContrastiveLoss(TwoViewLoss):
    """The simple loss of a batch of pairs.

    Args:
        lam: lambda; 1 over the number of negatives by default.
        normalize, gather, reduction: see `TwoViewLoss`.

    Raises:
        ValueError: `reduction` is unknown; in use, shapes differ or a single image has no negatives.

    Source: Wang and Liu 2021, eq. 2.
    """

    def __init__(
        self, lam: float | None = None, *, normalize: bool = True, gather: bool = False, reduction: str = "mean"
    ) -> None:
        super().__init__(normalize=normalize, gather=gather, reduction=reduction)
        self.lam = lam

    def each(self, contrast: Contrast) -> Float[Tensor, " anchors"]:
        return simple_contrastive(contrast, self.lam)


def _number(contrast: Contrast, alpha: float, num_hard: int | None) -> int:
    """How many negatives of an anchor are meant to be kept."""
    _check_choice(alpha, num_hard)
    # rounded first: 0.07 of 100 is a little over 7 in floating point
    wanted = math.ceil(round(alpha * contrast.negatives, 9)) if num_hard is None else num_hard
    return max(min(wanted, contrast.negatives), 1)


def _check_choice(alpha: float, num_hard: int | None) -> None:
    if not 0 < alpha <= 1:
        raise ValueError(f"alpha must lie in (0, 1], got {alpha}")
    if num_hard is not None and num_hard < 1:
        raise ValueError(f"num_hard must be positive, got {num_hard}")
