"""Calibration errors by kernel densities, without bins.

Of the top confidences, with densities p of all and p1 of the correct ones:

    KDECE = int |x - pi(x)| p(x) dx / int p(x) dx,    pi = min(accuracy p1 / p, 1),    over [0, 1]

Of Dirichlet kernels, each example's estimate being that of all others:

    pi_i = sum_{j != i} y_j k_j(x_i) / sum_{j != i} k_j(x_i),    k_j the density of Dir(x_j / h + 1)

The study does not say which of the two it means; it cites the first.

Sources: Zhang, Kailkhura, Han, "Mix-n-Match" (ICML 2020), for the first; Popordanoska, Sayer, Blaschko, "A Consistent
and Differentiable Lp Canonical Calibration Error Estimator" (NeurIPS 2022), for the second.
"""

from collections.abc import Iterator
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from assay.metrics.calibration.predictions import TopLabel, checked, top_label

LOW, HIGH, POINTS = -0.6, 1.6, 2**14  # the grid that densities are found on
NEGLIGIBLE = 1e-6  # both densities below it: nothing to see there
FLOOR = 1e-10  # of the canonical form's denominator: an example far from all others gets estimate 0
INSIDE = 1e-12  # how far confidences are kept from 0 and 1, where a Beta density may have no logarithm
CELLS = 2**22  # kernel values held at once

Form = Literal["top_label", "marginal", "canonical"]


def kde_calibration_error(
    predictions: Tensor, target: Tensor, *, probabilities: bool = False, ignore_index: int | None = None
) -> Float[Tensor, ""]:
    """KDECE of the top confidences, by triweight densities on a grid, mirrored at 0 and 1.

    The bandwidth, the kernel's standard deviation, is that of the correct examples' confidences times (2n)^(-1/5); of
    all confidences where those do not differ, and a step of the grid where none do.

    Args:
        predictions: logits, float [n, classes, *places].
        target: classes, whole numbers [n, *places].
        probabilities: `predictions` are probabilities.
        ignore_index: class of places that do not count.

    Returns:
        the error in [0, 1], float64, a scalar.

    Raises:
        TypeError, ValueError: as `assay.metrics.calibration.predictions.checked`.
    """
    return kde_of(top_label(checked(predictions, target, probabilities=probabilities, ignore_index=ignore_index)))


def kde_of(top: TopLabel) -> Float[Tensor, ""]:
    """KDECE of confidences and correctness."""
    c, right = top.confidence.detach().double(), top.correct
    step = (HIGH - LOW) / (POINTS - 1)
    spread = c[right].std(correction=0) if bool(right.any()) else c.new_zeros(())
    spread = torch.where(spread > 0, spread, c.std(correction=0))
    bandwidth = (spread * (2 * len(c)) ** -0.2).clamp(min=step)
    x = torch.linspace(LOW, HIGH, POINTS, dtype=torch.float64, device=c.device)
    everyone = _mirrored_density(c, bandwidth, step)
    correct = _mirrored_density(c[right], bandwidth, step)
    accuracy = right.double().mean()
    estimate = (accuracy * correct / everyone.clamp(min=NEGLIGIBLE / 1e6)).clamp(max=1)
    gap = torch.where((everyone > NEGLIGIBLE) | (correct > NEGLIGIBLE), (x - estimate).abs() * everyone, 0.0)
    within = (x >= 0) & (x <= 1)
    error: Tensor = torch.trapezoid(gap[within], dx=step) / torch.trapezoid(everyone[within], dx=step)
    return error


def _mirrored_density(c: Float[Tensor, " n"], bandwidth: Tensor, step: float) -> Float[Tensor, " points"]:
    """Density on the grid, what the kernel lets out of [0, 1] put back in."""
    if len(c) == 0:
        return c.new_zeros(POINTS)
    c = torch.cat([c, torch.where(c < 0.5, -c, 2 - c)])
    place = (c - LOW) / step
    left = place.floor().clamp(max=POINTS - 2).long()
    share = place - left
    mass = torch.zeros(POINTS, dtype=c.dtype, device=c.device)
    mass.index_add_(0, left, 1 - share).index_add_(0, left + 1, share)  # linear binning
    u = torch.arange(-(POINTS - 1), POINTS, dtype=c.dtype, device=c.device) * step / (3 * bandwidth)  # std 1/3 of it
    kernel = (35 / 32 / (3 * bandwidth)) * (1 - u.square()).clamp(min=0) ** 3
    length = 4 * POINTS
    density: Tensor = torch.fft.irfft(torch.fft.rfft(mass, length) * torch.fft.rfft(kernel, length), length)
    return 2 * density[POINTS - 1 : 2 * POINTS - 1].clamp(min=0) / len(c)


def dirichlet_calibration_error(
    predictions: Tensor,
    target: Tensor,
    *,
    form: Form = "top_label",
    bandwidth: float | None = None,
    p: float = 1.0,
    probabilities: bool = False,
    ignore_index: int | None = None,
) -> Float[Tensor, ""]:
    """The L_p error to the power p by Beta (`top_label`, `marginal`) or Dirichlet (`canonical`) kernels.

    All pairs are gone through, in time n^2; it can be differentiated by the logits.

    Args:
        predictions: logits, float [n, classes, *places].
        target: classes, whole numbers [n, *places].
        form: `top_label`, mean |estimate - c|^p; `marginal`, the same of each class's probability, summed over classes;
            `canonical`, of whole probability vectors, mean over examples of the sum over classes.
        bandwidth: h, positive; `None` takes `likeliest_bandwidth`.
        p: at least 1.
        probabilities: `predictions` are probabilities.
        ignore_index: class of places that do not count.

    Returns:
        at least 0, float64, a scalar.

    Raises:
        TypeError, ValueError: as `assay.metrics.calibration.predictions.checked`; or a setting is out of range, or
            there is a single example, which has no others.
    """
    if not p >= 1:
        raise ValueError(f"p must be at least 1, got {p}")
    if bandwidth is not None and not bandwidth > 0:
        raise ValueError(f"bandwidth must be positive, got {bandwidth}")
    given = checked(predictions, target, probabilities=probabilities, ignore_index=ignore_index)
    points, hits = _series(given.probabilities.double(), given.target, form)
    h = bandwidth if bandwidth is not None else _likeliest(points)
    floor = FLOOR if form == "canonical" else 0.0
    return torch.stack(
        [
            ((_estimates(x, y, h, floor) - x[:, : y.shape[1]]).abs() ** p).sum() / len(x)
            for x, y in zip(points, hits, strict=True)
        ]
    ).sum()


def likeliest_bandwidth(
    predictions: Tensor,
    target: Tensor,
    *,
    form: Form = "top_label",
    probabilities: bool = False,
    ignore_index: int | None = None,
) -> float:
    """The h, of 33 from 0.0003 to 1, under which the examples are likeliest, each by the kernels of all others.

    The public code keeps each example's own kernel in, and so always finds the smallest h it tries.

    Args: as in `dirichlet_calibration_error`. Raises likewise.
    """
    given = checked(predictions, target, probabilities=probabilities, ignore_index=ignore_index)
    return _likeliest(_series(given.probabilities.double(), given.target, form)[0])


def _series(p: Tensor, target: Tensor, form: Form) -> tuple[list[Tensor], list[Tensor]]:
    """Points on simplices [n, d], and what there is to estimate at them [n, 1 or d]."""
    if form not in get_args(Form):
        raise ValueError(f"form must be top_label, marginal or canonical, got {form!r}")
    if len(p) < 2:
        raise ValueError("predictions must hold at least two examples: each is judged by the others")
    if form == "canonical":
        return [p.clamp(min=INSIDE)], [torch.nn.functional.one_hot(target, p.shape[1]).double()]
    if form == "top_label":
        confidence, predicted = p.max(dim=1)
        columns, hits = [confidence], [(predicted == target).double()]
    else:
        columns, hits = list(p.unbind(1)), [(target == k).double() for k in range(p.shape[1])]
    columns = [c.clamp(INSIDE, 1 - INSIDE) for c in columns]
    return [torch.stack([c, 1 - c], dim=1) for c in columns], [y[:, None] for y in hits]


def _log_kernels(x: Float[Tensor, "n d"], h: float) -> Iterator[tuple[slice, Float[Tensor, "rows n"]]]:
    """Rows i of log k_j(x_i), a few at a time, -infinity where j = i."""
    alpha = x / h + 1
    normaliser = torch.lgamma(alpha.sum(dim=1)) - torch.lgamma(alpha).sum(dim=1)
    size = max(CELLS // len(x), 1)
    for start in range(0, len(x), size):
        rows = slice(start, min(start + size, len(x)))
        logs = torch.addmm(normaliser[None], x[rows].log(), (alpha - 1).T)
        own = torch.arange(len(x), device=x.device)[rows, None] == torch.arange(len(x), device=x.device)
        yield rows, logs.masked_fill(own, -torch.inf)


def _estimates(x: Tensor, hits: Tensor, h: float, floor: float) -> Tensor:
    log_floor = torch.tensor(floor, dtype=x.dtype, device=x.device).log()
    found = []
    for _, logs in _log_kernels(x, h):
        total = torch.maximum(logs.logsumexp(dim=1, keepdim=True), log_floor)
        found.append((logs - total).exp() @ hits)
    return torch.cat(found)


def _likeliest(points: list[Tensor]) -> float:
    tried: list[float] = torch.logspace(-3.5, 0, 33, dtype=torch.float64).tolist()

    def likelihood(h: float) -> float:
        with torch.no_grad():
            return sum(float(logs.logsumexp(dim=1).sum()) for x in points for _, logs in _log_kernels(x, h))

    return max(tried, key=likelihood)
