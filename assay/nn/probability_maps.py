"""Post-hoc calibration by a map of each class's probability, fitted on held-out data, one class against the rest.

    q_k = g_k(p_k) / sum_j g_j(p_j),    g_k the share of class k among the examples of such a p_k

Histogram binning takes that share bin by bin; isotonic regression finds the rising g_k of least squares. Each class
being treated alone, predictions may change. No g is let below `floor`: a probability of 0 that comes true costs all.

Sources: Zadrozny and Elkan, "Obtaining calibrated probability estimates" (ICML 2001) and "Transforming classifier
scores into accurate multiclass probability estimates" (KDD 2002), the normalisation as well; Guo et al., "On
Calibration of Modern Neural Networks" (ICML 2017), section 4.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from assay.metrics.calibration.bins import Binning, bin_edges, bin_sums, sort_classes
from assay.metrics.calibration.predictions import checked


class HistogramBinning(nn.Module):
    """The share of each class among the examples of a bin; a bin without examples keeps its middle.

    Args:
        n_bins: at least 1.
        binning: `uniform`, of equal width, or `quantile`, of as many examples.
        floor: of each share, in (0, 1).

    Raises:
        ValueError: a setting is out of range.
    """

    edges: Tensor
    values: Tensor

    def __init__(self, n_bins: int = 15, *, binning: Binning = "uniform", floor: float = 1e-6) -> None:
        super().__init__()
        if n_bins < 1 or binning not in ("uniform", "quantile"):
            raise ValueError(f"n_bins must be at least 1 and binning uniform or quantile, got {n_bins} and {binning!r}")
        self.n_bins, self.binning, self.floor = n_bins, binning, _checked_floor(floor)
        self.register_buffer("edges", torch.empty(0, 0))
        self.register_buffer("values", torch.empty(0, 0))

    def forward(self, logits: Float[Tensor, "batch classes *places"]) -> Float[Tensor, "batch classes *places"]:
        """Log-probabilities: logits to whoever takes a softmax of them."""
        p = _class_rows(logits, self.values)
        inner = self.edges[:, 1:-1].contiguous()
        return _log_probabilities(self.values.gather(1, torch.searchsorted(inner, p)), logits, self.floor)

    @torch.no_grad()
    def fit(self, logits: Tensor, target: Tensor) -> "HistogramBinning":
        """Find the shares; arguments as in `assay.nn.logit_scaling.TemperatureScaling.fit`."""
        edges, values = [], []
        for series in sort_classes(checked(logits.float(), target)):
            ends = bin_edges(series.confidence, self.n_bins, self.binning).contiguous()
            sums = bin_sums(series, self.n_bins, self.binning)
            confidence = torch.nn.functional.pad(series.confidence.double().cumsum(1), (1, 0))
            last = torch.cat([torch.zeros_like(sums.count[:, :1]), sums.count.cumsum(1)], dim=1)
            hits = sums.gap + confidence.gather(1, last).diff(dim=1)  # a = (a - c) + c
            middle = (ends[:, 1:] + ends[:, :-1]) / 2
            edges.append(ends)
            values.append(torch.where(sums.count > 0, (hits / sums.count.clamp(min=1)).float(), middle))
        self.edges, self.values = torch.cat(edges), torch.cat(values).clamp(0, 1)
        return self

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        _resize(self, state_dict, prefix, ("edges", "values"))
        super()._load_from_state_dict(state_dict, prefix, *args)


class IsotonicCalibration(nn.Module):
    """A rising, piecewise linear map of each class's probability, by scikit-learn's isotonic regression.

    Args:
        floor: of each share, in (0, 1).

    Raises:
        ValueError: `floor` is out of range.
    """

    x: Tensor
    y: Tensor

    def __init__(self, *, floor: float = 1e-6) -> None:
        super().__init__()
        self.floor = _checked_floor(floor)
        self.register_buffer("x", torch.empty(0, 0))
        self.register_buffer("y", torch.empty(0, 0))

    def forward(self, logits: Float[Tensor, "batch classes *places"]) -> Float[Tensor, "batch classes *places"]:
        """Log-probabilities: logits to whoever takes a softmax of them."""
        p = _class_rows(logits, self.y)
        last = self.x.shape[1] - 1
        right = torch.searchsorted(self.x, p).clamp(max=last)
        left = (right - 1).clamp(min=0)
        x0, x1, y0, y1 = (
            self.x.gather(1, left),
            self.x.gather(1, right),
            self.y.gather(1, left),
            self.y.gather(1, right),
        )
        share = ((p - x0) / (x1 - x0).clamp(min=torch.finfo(p.dtype).tiny)).clamp(0, 1)
        return _log_probabilities(torch.lerp(y0, y1, share), logits, self.floor)

    @torch.no_grad()
    def fit(self, logits: Tensor, target: Tensor) -> "IsotonicCalibration":
        """Find the maps; arguments as in `assay.nn.logit_scaling.TemperatureScaling.fit`."""
        from sklearn.isotonic import IsotonicRegression

        given = checked(logits.float(), target)
        p, y = given.probabilities.double().cpu().numpy(), given.target.cpu().numpy()
        found = []
        for k in range(p.shape[1]):
            regression = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(p[:, k], y == k)
            found.append((torch.from_numpy(regression.X_thresholds_), torch.from_numpy(regression.y_thresholds_)))
        longest = max(len(x) for x, _ in found)
        grids = [
            [torch.cat([v, v[-1:].expand(longest - len(v))]) for v in column] for column in zip(*found, strict=True)
        ]
        self.x, self.y = (torch.stack(rows).float().to(logits.device) for rows in grids)
        return self

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        _resize(self, state_dict, prefix, ("x", "y"))
        super()._load_from_state_dict(state_dict, prefix, *args)


def _checked_floor(floor: float) -> float:
    if not 0 < floor < 1:
        raise ValueError(f"floor must lie in (0, 1), got {floor}")
    return floor


def _resize(module: nn.Module, state: dict[str, Any], prefix: str, names: tuple[str, ...]) -> None:
    """Give buffers, whose sizes the data decided, those of the state that is coming in."""
    for name in names:
        if prefix + name in state:
            here = getattr(module, name)
            setattr(module, name, torch.empty_like(state[prefix + name], device=here.device, dtype=here.dtype))


def _class_rows(logits: Tensor, fitted: Tensor) -> Float[Tensor, "classes examples"]:
    """Probabilities, a row each class.

    Raises:
        RuntimeError: the map has not been fitted.
        ValueError: to other classes.
    """
    if not len(fitted):
        raise RuntimeError("the map has not been fitted: call fit(logits, target) on held-out data first")
    if logits.shape[1] != len(fitted):
        raise ValueError(f"logits must have {len(fitted)} classes, got {logits.shape[1]}")
    return logits.to(fitted.dtype).softmax(dim=1).movedim(1, 0).flatten(1).contiguous()


def _log_probabilities(shares: Float[Tensor, "classes examples"], logits: Tensor, floor: float) -> Tensor:
    q = shares.clamp(min=floor)
    shape = (logits.shape[1], logits.shape[0], *logits.shape[2:])
    return (q / q.sum(dim=0)).log().reshape(shape).movedim(0, 1).to(logits.dtype)
