"""Losses where only the mean response of each bag of samples is known.

    bag        L_bag = mean_a l(mean_{i in a} f(x_i), ybar_a)
    instance   L_ins = mean_a mean_{i in a} l(f(x_i), ybar_a)
    between    L     = (1 - rho) L_bag + rho L_ins

For the squared error L_ins = L_bag + R and L = L_bag + rho R, where R is the variance of the predictions within their
bags: fitting every sample to its bag's mean is fitting the bags, with a pull towards equal predictions in each.

Bags may have any sizes; a bag counts as one whatever its size. Predictions come as one row a sample with the number of
its bag, or, where all bags are as large, as [bags, size, ...], which is faster.

Source: Javanmard et al., "Learning from aggregate responses: instance level versus bag level loss functions" (ICLR
2024).
"""

import math
import warnings
from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.functional import log_softmax, logsigmoid

from assay.data.bags import bag_sizes
from assay.losses.reduction import Reduction, check_reduction, reduced

Loss = Literal["mse", "bce", "ce"] | Callable[[Tensor, Tensor], Tensor]


def bag_loss(
    predictions: Float[Tensor, "..."],
    targets: Float[Tensor, "bags *outputs"],
    bags: Int64[Tensor, " samples"] | None = None,
    *,
    loss: Loss = "mse",
    reduction: Reduction = "mean",
) -> Float[Tensor, "..."]:
    """The loss of each bag's mean prediction.

    Args:
        predictions: [samples, *outputs] with `bags`, else [bags, size, *outputs]; computed in float32 at least.
        targets: mean responses of the bags; for `bce` in [0, 1], for `ce` distributions over classes, on the last axis.
        bags: of each sample, 0 to len(targets) - 1, in any order; every bag has at least one.
        loss: `mse`, on predictions; `bce`, on logits, the mean being that of the probabilities; `ce`, likewise over
            classes; or a function of predictions and targets that gives one value an element. Several outputs of a bag
            are averaged, the classes of `ce` summed.
        reduction: `mean` or `sum` over bags, or `none`, one value a bag.

    Returns:
        a scalar, or [bags].

    Raises:
        ValueError: shapes do not fit, a bag is empty or unknown, or a target is not finite or no probability.
    """
    found: Tensor = InterpolatedAggregateLoss(0.0, loss=loss, reduction=reduction)(predictions, targets, bags)
    return found


def instance_loss(
    predictions: Float[Tensor, "..."],
    targets: Float[Tensor, "bags *outputs"],
    bags: Int64[Tensor, " samples"] | None = None,
    *,
    loss: Loss = "mse",
    reduction: Reduction = "mean",
) -> Float[Tensor, "..."]:
    """The loss of every prediction against its bag's mean response, averaged in each bag; all else as `bag_loss`."""
    found: Tensor = InterpolatedAggregateLoss(1.0, loss=loss, reduction=reduction)(predictions, targets, bags)
    return found


class InterpolatedAggregateLoss(nn.Module):
    """(1 - rho) times the bag loss plus rho times the instance loss.

    Args:
        rho: 0 is the bag loss, 1 the instance loss; at least 0. Above 1 it pulls harder still, and warns.
        loss, reduction: as in `bag_loss`.

    Shape:
        predictions, targets, bags: as in `bag_loss`.

    Raises:
        ValueError: `rho` is negative (the loss may have no lower bound then) or not finite, `loss` or `reduction`
            unknown.
    """

    def __init__(self, rho: int | float = 0.1, *, loss: Loss = "mse", reduction: Reduction = "mean") -> None:
        super().__init__()
        if not 0 <= rho < math.inf:
            raise ValueError(f"rho must be at least 0 and finite, got {rho}")
        if rho > 1:
            warnings.warn(f"rho is usually in [0, 1], got {rho}: the instance loss counts over its full weight",
                          stacklevel=2)  # fmt: skip
        if not callable(loss) and loss not in ("mse", "bce", "ce"):
            raise ValueError(f"loss must be mse, bce, ce or a function, got {loss!r}")
        check_reduction(reduction)
        self.rho, self.loss, self.reduction = rho, loss, reduction

    def extra_repr(self) -> str:
        return f"rho={self.rho}, loss={self.loss!r}, reduction={self.reduction!r}"

    def forward(
        self,
        predictions: Float[Tensor, "..."],
        targets: Float[Tensor, "bags *outputs"],
        bags: Int64[Tensor, " samples"] | None = None,
    ) -> Float[Tensor, "..."]:
        f = predictions.to(torch.promote_types(predictions.dtype, torch.float32))
        y = targets.to(f.dtype)
        mean = _Equal(f, y) if bags is None else _Ragged(f, y, bags)
        _check_targets(y, self.loss)
        if callable(self.loss):
            values = _between(self.rho, f, y, mean, self.loss)
        elif self.loss == "mse":
            values = _between(self.rho, f, y, mean, lambda f, y: (f - y) ** 2)
        else:
            values = self._likelihood(f, y, mean)
        each = values.flatten(1).mean(1) if values.dim() > 1 else values
        return reduced(each, self.reduction)

    def _likelihood(self, f: Tensor, y: Tensor, mean: "_Mean") -> Tensor:
        """-sum_c y_c log p_c, of the bag's mean probabilities and of each sample's; only logarithms are formed."""
        if self.loss == "bce":
            logs, shares = torch.stack([logsigmoid(f), logsigmoid(-f)], -1), torch.stack([y, 1 - y], -1)
        else:
            logs, shares = log_softmax(f, -1), y
        total = torch.zeros((), dtype=f.dtype, device=f.device)
        if self.rho != 1:
            total = total - (1 - self.rho) * (shares * mean.log_mean_exp(logs)).sum(-1)
        if self.rho != 0:  # linear in the logarithms, so that their mean will do
            total = total - self.rho * (shares * mean(logs)).sum(-1)
        return total


def _between(rho: float, f: Tensor, y: Tensor, mean: "_Mean", loss: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """One value a bag and output."""
    if rho == 0:
        return loss(mean(f), y)
    each = mean(loss(f, mean.spread(y)))
    return each if rho == 1 else (1 - rho) * loss(mean(f), y) + rho * each


def _check_targets(y: Tensor, loss: Loss) -> None:
    if not torch.isfinite(y).all():
        raise ValueError("targets must be finite, got NaN or infinity")
    if loss in ("bce", "ce") and not ((y >= 0) & (y <= 1)).all():
        raise ValueError(f"targets of {loss} must lie in [0, 1], got {y.min():g} to {y.max():g}")
    if loss == "ce" and not (y.sum(-1) - 1).abs().max() < 1e-2:  # float16 shares of many classes sum no closer
        raise ValueError("targets of ce must sum to 1 over the classes")


class _Equal:
    """Means over bags of equal size: rows of [bags, size, ...]."""

    def __init__(self, f: Tensor, y: Tensor) -> None:
        if f.dim() != y.dim() + 1 or f.shape[:1] + f.shape[2:] != y.shape or 0 in f.shape[:2]:
            raise ValueError(
                f"predictions without bags must be [bags, size, *outputs] for targets {tuple(y.shape)}, with at least "
                f"one bag and sample, got {tuple(f.shape)}"
            )

    def __call__(self, f: Tensor) -> Tensor:
        return f.mean(1)

    def spread(self, y: Tensor) -> Tensor:
        return y[:, None]

    def log_mean_exp(self, logs: Tensor) -> Tensor:
        return logs.logsumexp(1) - math.log(logs.shape[1])


class _Ragged:
    """Means over bags that are given by number."""

    def __init__(self, f: Tensor, y: Tensor, bags: Tensor) -> None:
        if bags.dim() != 1 or len(bags) != len(f) or f.shape[1:] != y.shape[1:] or not len(y):
            raise ValueError(
                f"predictions must be [samples, *outputs] and bags [samples] for targets {tuple(y.shape)} of at least "
                f"one bag, got {tuple(f.shape)} and {tuple(bags.shape)}"
            )
        sizes = bag_sizes(bags, len(y))
        self.bags, self.count = bags, len(y)
        self.weights = (1 / sizes.to(f.dtype))[bags]

    def __call__(self, f: Tensor) -> Tensor:
        weighted = f * self.weights.view(-1, *[1] * (f.dim() - 1))
        return f.new_zeros(self.count, *f.shape[1:]).index_add(0, self.bags, weighted)

    def spread(self, y: Tensor) -> Tensor:
        return y[self.bags]

    def log_mean_exp(self, logs: Tensor) -> Tensor:
        rows = self.bags.view(-1, *[1] * (logs.dim() - 1)).expand_as(logs)
        top = (
            logs.detach()
            .new_full((self.count, *logs.shape[1:]), -math.inf)
            .scatter_reduce(0, rows, logs.detach(), "amax")
        )
        return top + self((logs - top[self.bags]).exp()).log()


_Mean = _Equal | _Ragged
