"""Post-hoc calibration by an affine map of the logits, fitted on held-out data.

    temperature: z / T        vector: w * z + b        matrix: W z + b

Each starts as the identity. A temperature keeps every prediction; the other two may change some.

Sources: Guo et al., "On Calibration of Modern Neural Networks" (ICML 2017), section 4.2; the grid is that of Mukhoti et
al., "Calibrating Deep Neural Networks using Focal Loss" (NeurIPS 2020).
"""

import math
from collections.abc import Callable
from typing import Literal, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from assay.metrics.calibration.bins import expected_calibration_error
from assay.metrics.calibration.predictions import checked

COLDEST, HOTTEST = 0.05, 20.0  # where the validation examples are separable, the best temperature is no number
GRID = [step / 10 for step in range(1, 101)]


class TemperatureScaling(nn.Module):
    """All logits divided by one temperature.

    Args:
        criterion: what the fit makes small: `nll`, or `ece` by bins of equal width.
        search: `smooth`, the minimum itself, between 0.05 and 20, of the NLL alone; or `grid`, 0.1 to 10 by 0.1, the
            lowest of equals.
        n_bins: of the ECE.

    Attributes:
        temperature: 1 until it is fitted.

    Raises:
        ValueError: a setting is unknown, or a smooth search is asked for the ECE, which is not smooth.
    """

    temperature: Tensor

    def __init__(
        self,
        *,
        criterion: Literal["nll", "ece"] = "nll",
        search: Literal["smooth", "grid"] = "smooth",
        n_bins: int = 15,
    ) -> None:
        super().__init__()
        if criterion not in ("nll", "ece") or search not in ("smooth", "grid"):
            raise ValueError(f"criterion must be nll or ece and search smooth or grid, got {criterion!r}, {search!r}")
        if criterion == "ece" and search == "smooth":
            raise ValueError("the ECE is no smooth function of the temperature: give search='grid'")
        self.criterion, self.search, self.n_bins = criterion, search, n_bins
        self.register_buffer("temperature", torch.ones((), dtype=torch.float64))

    def forward(self, logits: Float[Tensor, "batch classes *places"]) -> Float[Tensor, "batch classes *places"]:
        return logits / self.temperature

    @torch.no_grad()
    def fit(self, logits: Tensor, target: Tensor) -> "TemperatureScaling":
        """Find the temperature.

        Args:
            logits: of held-out examples, finite, float [n, classes, *places].
            target: their classes, whole numbers [n, *places].

        Raises:
            TypeError, ValueError: as `assay.metrics.calibration.predictions.checked`; or a logit is infinite.
        """
        z, y = _finite(logits, target)
        found = _smooth_temperature(z, y) if self.search == "smooth" else min(GRID, key=self._criterion(z, y))
        self.temperature.fill_(found)
        return self

    def _criterion(self, z: Tensor, y: Tensor) -> Callable[[float], float]:
        if self.criterion == "nll":
            return lambda t: float(cross_entropy(z / t, y))
        return lambda t: float(expected_calibration_error(z / t, y, self.n_bins))


def _smooth_temperature(z: Float[Tensor, "n classes"], y: Tensor) -> float:
    """The root of the NLL's slope in 1 / T, which only rises: the NLL is convex there."""
    from scipy.optimize import brentq

    true = z.gather(1, y[:, None]).mean()

    def slope(log_t: float) -> float:
        return float(((z * math.exp(-log_t)).softmax(dim=1) * z).sum(dim=1).mean() - true)

    low, high = math.log(COLDEST), math.log(HOTTEST)
    cold, hot = slope(low), slope(high)
    if cold == hot == 0:  # equal logits or a single class: any temperature is as good
        return 1.0
    if cold <= 0:
        return COLDEST
    if hot >= 0:
        return HOTTEST
    return math.exp(float(brentq(slope, low, high, xtol=1e-10)))


A = TypeVar("A", bound="_AffineScaling")


class _AffineScaling(nn.Module):
    """A weight and a bias, fitted by the NLL; a subclass says how the weight acts."""

    weight: Tensor
    bias: Tensor

    def __init__(self, classes: int, *, ridge: float = 1e-3, steps: int = 100) -> None:
        super().__init__()
        if classes < 1 or steps < 1:
            raise ValueError(f"classes and steps must be at least 1, got {classes} and {steps}")
        if not ridge >= 0:
            raise ValueError(f"ridge must be at least 0, got {ridge}")
        self.ridge, self.steps = ridge, steps
        self.register_buffer("weight", self.identity(classes))
        self.register_buffer("bias", torch.zeros(classes))

    def identity(self, classes: int) -> Tensor:
        """The weight that changes nothing."""
        raise NotImplementedError

    def scaled(self, z: Float[Tensor, "... classes"], weight: Tensor) -> Float[Tensor, "... classes"]:
        """The logits under a weight."""
        raise NotImplementedError

    def forward(self, logits: Float[Tensor, "batch classes *places"]) -> Float[Tensor, "batch classes *places"]:
        z = self.scaled(logits.movedim(1, -1), self.weight.to(logits.dtype)) + self.bias.to(logits.dtype)
        return z.movedim(-1, 1)

    def fit(self: A, logits: Tensor, target: Tensor) -> A:
        """Find weight and bias, from the identity on; arguments as in `TemperatureScaling.fit`."""
        z, y = _finite(logits, target, len(self.bias))
        start = self.identity(len(self.bias)).to(z)
        w, b = _minimise(lambda w, b: self.scaled(z, w) + b, z, y, start, self.ridge, self.steps)
        self.weight.copy_(w)
        self.bias.copy_(b)
        return self


class VectorScaling(_AffineScaling):
    """Each logit with a scale and a shift of its own, fitted by the NLL.

    Args:
        classes: logits.
        ridge: weight of ||w - 1||^2 + ||b||^2, at least 0; some keeps separable examples from driving them off.
        steps: L-BFGS iterations at most.

    Raises:
        ValueError: a setting is out of range.
    """

    def identity(self, classes: int) -> Tensor:
        return torch.ones(classes)

    def scaled(self, z: Float[Tensor, "... classes"], weight: Tensor) -> Float[Tensor, "... classes"]:
        return z * weight


class MatrixScaling(_AffineScaling):
    """All logits mixed by one matrix and shifted, fitted by the NLL; with many classes it needs many examples.

    Args:
        classes: logits.
        ridge: weight of ||W - I||^2 + ||b||^2, at least 0.
        steps: L-BFGS iterations at most.

    Raises:
        ValueError: a setting is out of range.
    """

    def identity(self, classes: int) -> Tensor:
        return torch.eye(classes)

    def scaled(self, z: Float[Tensor, "... classes"], weight: Tensor) -> Float[Tensor, "... classes"]:
        return z @ weight.T


def _finite(logits: Tensor, target: Tensor, classes: int | None = None) -> tuple[Tensor, Tensor]:
    given = checked(logits.detach(), target)
    z = logits.detach().double()
    z = z.movedim(1, -1).flatten(0, -2)
    if not bool(z.isfinite().all()):
        raise ValueError("logits must be finite to be fitted, got an infinite one")
    if classes is not None and z.shape[1] != classes:
        raise ValueError(f"logits must have {classes} classes, got {z.shape[1]}")
    return z, given.target


def _minimise(
    scale: Callable[[Tensor, Tensor], Tensor], z: Tensor, y: Tensor, start: Tensor, ridge: float, steps: int
) -> tuple[Tensor, Tensor]:
    """The weight and the bias of least NLL and ridge, by L-BFGS in float64."""
    weight = start.clone().requires_grad_()
    bias = torch.zeros_like(z[0], requires_grad=True)
    solver = torch.optim.LBFGS([weight, bias], max_iter=steps, tolerance_change=0, line_search_fn="strong_wolfe")

    def closure() -> float:
        solver.zero_grad()
        loss = cross_entropy(scale(weight, bias), y)
        loss = loss + ridge * ((weight - start).square().sum() + bias.square().sum())
        loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    with torch.enable_grad():
        solver.step(closure)  # type: ignore[no-untyped-call]
    return weight.detach(), bias.detach()
