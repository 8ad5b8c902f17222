"""SGD whose learning rate and momentum follow the curvature, measured on the fly.

    alpha = (2 / (sqrt L + sqrt l))^2        rho = ((sqrt L - sqrt l) / (sqrt L + sqrt l))^2

The optimum of heavy-ball SGD on a quadratic whose eigenvalues lie between l and L. Every so often a few steps of
Lanczos on some of the data give both.

Source: Granziol, Zohren, Roberts, "Learning Rates as a Function of Batch Size" (JMLR 2022); Polyak, "Some methods of
speeding up the convergence of iteration methods" (1964). The paper names the method and not its details: which l, how
often, on how much and the averaging are our decisions, in the ranges of the authors' other on-the-fly runs.
"""

import math
import warnings
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from assay.analysis.curvature import Batches, Curvature
from assay.analysis.spectral_density import SpectralDensity, spectral_density

LambdaMin = Literal["bulk", "smallest_positive"]


class Heavy(NamedTuple):
    """Settings of heavy-ball SGD."""

    lr: float
    momentum: float


def optimal_heavy_ball(largest: float, smallest: float, *, momentum_max: float = 0.99) -> Heavy:
    """The fastest rate and momentum on a quadratic.

    Args:
        largest, smallest: of its eigenvalues, 0 <= smallest <= largest.
        momentum_max: bound of the momentum, in [0, 1). Where it binds, the rate is the optimum for a `smallest` that
            would have given it: sqrt alpha = (1 + sqrt rho) / sqrt L.

    Returns:
        where it does not bind, a rate at which errors fall as sqrt(momentum)^steps.

    Raises:
        ValueError: the eigenvalues are not in that order and finite, or `momentum_max` is out of range.
    """
    if not (0 <= smallest <= largest < math.inf and largest > 0):
        raise ValueError(f"eigenvalues must be 0 <= smallest <= largest, positive, got {smallest} and {largest}")
    _check_bound(momentum_max)
    ratio = math.sqrt(smallest / largest)
    root = min((1 - ratio) / (1 + ratio), math.sqrt(momentum_max))
    return Heavy((1 + root) ** 2 / largest, root**2)


class CurvatureRate:
    """Sets the learning rate and the momentum of SGD by the spectrum of the loss; call `step()` after each epoch.

        schedule = CurvatureRate(optimizer, model, F.cross_entropy)
        schedule.step(batches)                    # before training, and from then on after each epoch

    Args:
        optimizer: with a `momentum`, which must be heavy-ball: not Nesterov's, without dampening. A group's weight
            decay is added to its eigenvalues.
        model, loss: as of `assay.analysis.curvature.Curvature`.
        every: epochs between measurements.
        steps: of Lanczos.
        lambda_min: l is the node of greatest weight, or the smallest positive Ritz value; below zero its absolute
            value counts.
        momentum_max: bound of the momentum, in [0, 1).
        average: share of its past in each measured eigenvalue, in [0, 1).
        fraction: of the optimal rate, in (0, 1]. At 1 it is as good as the largest stable one, and a network, whose
            curvature grows as it trains, does not stay on the stable side of it; 0.1 is ours, from the digits.
        matrix: `hessian` or `ggn`.
        generator: of the starting vectors, on the CPU.

    Attributes:
        optimizer: as given.
        largest, smallest: L and l as they are in force; `None` before the first measurement.

    Raises:
        ValueError: a setting is out of its range, or the optimizer is no heavy-ball SGD.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        model: nn.Module,
        loss: Callable[[Any, Any], Tensor],
        *,
        every: int = 1,
        steps: int = 10,
        lambda_min: LambdaMin = "bulk",
        momentum_max: float = 0.99,
        average: float = 0.5,
        fraction: float = 0.1,
        matrix: Literal["hessian", "ggn"] = "hessian",
        generator: torch.Generator | None = None,
    ) -> None:
        check_settings(every, steps, lambda_min, momentum_max, average, fraction, matrix)
        for group in optimizer.param_groups:
            if "momentum" not in group or group.get("nesterov") or group.get("dampening"):
                raise ValueError(
                    f"optimizer must be SGD with plain heavy-ball momentum, got {type(optimizer).__name__} with "
                    f"nesterov={group.get('nesterov')} and dampening={group.get('dampening')}"
                )
            if isinstance(group["lr"], Tensor):
                group["lr"] = group["lr"].clone()  # torch lets groups share one, and theirs may come to differ
        self.largest: float | None = None
        self.smallest: float | None = None
        self._epoch = 0
        self.optimizer, self._model, self._loss = optimizer, model, loss
        self._every, self._steps, self._lambda_min = every, steps, lambda_min
        self._momentum_max, self._average, self._fraction = momentum_max, average, fraction
        self._matrix, self._generator = matrix, generator

    def step(self, data: Batches | Callable[[], Batches]) -> None:
        """Measure if it is time to, and set the optimizer's groups; where nothing is usable they keep what they have,
        with a warning.

        Args:
            data: batches of what the loss is measured on: one like those of training has the curvature that their
                gradients meet, larger than that of all data. Or what gives them, called where they are needed.
        """
        due, self._epoch = self._epoch % self._every == 0, self._epoch + 1
        if not due:
            return
        matrix = Curvature(self._model, self._loss, data() if callable(data) else data, matrix=self._matrix)
        try:
            found = spectral_density(matrix, self._steps, generator=self._generator)
        except FloatingPointError as error:
            warnings.warn(f"learning rate and momentum stay as they are: {error}", stacklevel=2)
            return
        if found.largest <= 0:
            warnings.warn(
                f"learning rate and momentum stay as they are: no eigenvalue is positive, the largest {found.largest}",
                stacklevel=2,
            )
            return
        self._follow(found.largest, _least(found, self._lambda_min))
        self.apply()

    def apply(self) -> None:
        """Set the optimizer's groups by the eigenvalues in force."""
        if self.largest is None or self.smallest is None:
            return
        for group in self.optimizer.param_groups:
            decay = group.get("weight_decay", 0.0)
            found = optimal_heavy_ball(self.largest + decay, self.smallest + decay, momentum_max=self._momentum_max)
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(self._fraction * found.lr)
            else:
                group["lr"] = self._fraction * found.lr
            group["momentum"] = found.momentum

    def _follow(self, largest: float, smallest: float) -> None:
        if self.largest is not None and self.smallest is not None:
            largest = self._average * self.largest + (1 - self._average) * largest
            smallest = self._average * self.smallest + (1 - self._average) * smallest
        self.largest, self.smallest = largest, smallest

    def state_dict(self) -> dict[str, Any]:
        """Where it stands; the optimizer keeps rate and momentum, and the generator is its owner's."""
        return {"largest": self.largest, "smallest": self.smallest, "epoch": self._epoch}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what `state_dict` gave."""
        self.largest, self.smallest, self._epoch = state["largest"], state["smallest"], state["epoch"]


def _least(found: SpectralDensity, which: LambdaMin) -> float:
    if which == "bulk":
        return min(abs(found.bulk), found.largest)
    return float(found.nodes[found.nodes > 0].min())


def check_settings(
    every: int, steps: int, lambda_min: str, momentum_max: float, average: float, fraction: float, matrix: str
) -> None:
    """Refuse settings of `CurvatureRate` that are out of range.

    Raises:
        ValueError: the message names the setting.
    """
    if every < 1 or steps < 1:
        raise ValueError(f"every and steps must be at least 1, got {every} and {steps}")
    if lambda_min not in ("bulk", "smallest_positive"):
        raise ValueError(f"lambda_min must be bulk or smallest_positive, got {lambda_min!r}")
    _check_bound(momentum_max)
    if not 0 <= average < 1:
        raise ValueError(f"average must lie in [0, 1), got {average}")
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction must lie in (0, 1], got {fraction}")
    if matrix not in ("hessian", "ggn"):
        raise ValueError(f"matrix must be hessian or ggn, got {matrix!r}")


def _check_bound(momentum_max: float) -> None:
    if not 0 <= momentum_max < 1:
        raise ValueError(f"momentum_max must lie in [0, 1), got {momentum_max}")
