"""Linear regression from the mean responses of random bags: its exact estimator and its asymptotic risk.

m bags of k samples, n = m k; x ~ N(0, I_d), y = <x, theta> + noise of variance sigma^2. The estimator minimises
L_bag + rho R, see `assay.losses.aggregate`. As n and d grow at a fixed ratio, with t the positive root of

    d = m t / (1 + t) + m (k - 1) rho t / (1 + rho t)

and c = t / d,  a = m c / (1 + t),  A = m / (1 + t)^2,  B = m (k - 1) rho / (1 + rho t)^2,  p = t / (A + B),

    E |estimate - theta|^2 = |theta|^2 ((1 - a)^2 + p ((1 - a)^2 A + a^2 rho B)) + sigma^2 p A.

Source: the setting is that of Javanmard et al., "Learning from aggregate responses" (ICLR 2024); the formulas are
worked out here, and tested against simulation, as theirs could not be read.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64
from scipy.optimize import brentq, minimize_scalar
from torch import Tensor

from assay.data.bags import aggregate, bag_sizes

Real = int | float

LARGEST_RHO = 1e3  # by then the estimate is a small multiple of the instance loss's


def aggregate_least_squares(
    x: Float[Tensor, "samples features"],
    targets: Float[Tensor, "bags"],
    bags: Int64[Tensor, " samples"],
    *,
    rho: Real = 0.1,
) -> Float[Tensor, " features"]:
    """The weights that minimise mean_a (xbar_a theta - ybar_a)^2 + rho mean_a mean_{i in a} ((x_i - xbar_a) theta)^2.

    Bags may have any sizes, each counts as one. Of several minimisers it is the one of least norm. There is no
    intercept: centre `x` and `targets`, or append a constant to `x`.

    Returns:
        float64.

    Raises:
        ValueError: `rho` is negative, lengths differ, a bag is empty, or a value is not finite.
    """
    if not 0 <= rho < math.inf:
        raise ValueError(f"rho must be at least 0 and finite, got {rho}")
    if len(x) != len(bags):
        raise ValueError(f"x and bags must have equal lengths, got {len(x)} and {len(bags)}")
    if not (torch.isfinite(x).all() and torch.isfinite(targets).all()):
        raise ValueError("x and targets must be finite, got NaN or infinity")
    x, y = x.double(), targets.double()
    sizes = bag_sizes(bags, len(y)).double()
    means = aggregate(x, bags)
    spread = (x - means[bags]) * (rho / sizes[bags, None]).sqrt()
    rows, right = torch.cat([means, spread]), torch.cat([y, y.new_zeros(len(x))])
    found: Tensor = torch.linalg.lstsq(rows.cpu(), right[:, None].cpu(), driver="gelsd").solution
    return found[:, 0].to(x.device)


class Risk(NamedTuple):
    """Parts of E |estimate - theta|^2; on a new sample the squared error is their sum plus the noise's variance."""

    bias2: float
    variance: float

    @property
    def total(self) -> float:
        return self.bias2 + self.variance


def aggregate_risk(
    samples: Real, features: Real, bag_size: Real, rho: Real, *, noise_variance: Real, signal_norm2: Real
) -> Risk:
    """Squared bias and variance of `aggregate_least_squares` on random bags, as samples and features grow alike.

    Args:
        samples, features: n and d.
        bag_size: k, at least 1 and at most n.
        rho: at least 0; 0 needs more bags than features, otherwise more samples than features.
        noise_variance: sigma^2 of a response.
        signal_norm2: |theta|^2.

    Raises:
        ValueError: a value is out of range, or too few samples for the formula.
    """
    n, d, k = samples, features, bag_size
    if not (d > 0 and 1 <= k <= n and 0 <= rho < math.inf and noise_variance >= 0 and signal_norm2 >= 0):
        raise ValueError(
            f"need features > 0, 1 <= bag_size <= samples, rho >= 0, noise_variance >= 0 and signal_norm2 >= 0; got "
            f"{features}, {bag_size} of {samples}, {rho}, {noise_variance} and {signal_norm2}"
        )
    m = n / k
    enough = m if rho == 0 else n
    if not enough > d:
        raise ValueError(
            f"the risk is known for more {'samples' if rho else 'bags'} than features, got {enough:g}, {d:g}"
        )
    t = _root(m, d, k, rho)
    a = m * t / d / (1 + t)
    A, B = m / (1 + t) ** 2, m * (k - 1) * rho / (1 + rho * t) ** 2
    p = t / (A + B)
    return Risk(signal_norm2 * ((1 - a) ** 2 + p * ((1 - a) ** 2 * A + a**2 * rho * B)), noise_variance * p * A)


def optimal_rho(samples: Real, features: Real, bag_size: Real, *, noise_variance: Real, signal_norm2: Real) -> float:
    """The `rho` of least risk, in [0, 1000]; arguments and errors as in `aggregate_risk`, for any `rho` above 0."""

    def risk(rho: Real) -> float:
        return aggregate_risk(
            samples, features, bag_size, rho, noise_variance=noise_variance, signal_norm2=signal_norm2
        ).total

    top = math.log(LARGEST_RHO)
    grid = np.linspace(-top, top, 41)
    best = int(np.argmin([risk(math.exp(u)) for u in grid]))
    low, high = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    found = math.exp(minimize_scalar(lambda u: risk(math.exp(u)), bounds=(low, high), method="bounded").x)
    return 0.0 if samples / bag_size > features and risk(0.0) <= risk(found) else found


def private_noise_variance(bag_size: Real, *, noise_variance: Real, epsilon: Real, clip: Real) -> float:
    """The noise of a response that does to the means what its own and `label_dp_aggregate`'s do together.

    sigma^2 + 8 clip^2 / (k epsilon^2), as Laplace noise of scale s has the variance 2 s^2 and a mean of k responses
    divides theirs by k. What clipping does to the responses is left out.

    Raises:
        ValueError: `epsilon` or `clip` is not positive.
    """
    if not (epsilon > 0 and clip > 0):
        raise ValueError(f"epsilon and clip must be positive, got {epsilon} and {clip}")
    return noise_variance + 8 * clip**2 / (bag_size * epsilon**2)


class BagSize(NamedTuple):
    """A bag size and the `rho` that goes with it."""

    size: int
    rho: Real


def optimal_bag_size(
    samples: int,
    features: Real,
    *,
    noise_variance: Real,
    signal_norm2: Real,
    epsilon: Real,
    clip: Real,
    rho: Real | None = 1.0,
    largest: int | None = None,
) -> BagSize:
    """The bag size of least risk under a privacy budget, by trying all.

    Args:
        rho: of the estimator; `None` takes `optimal_rho` of each size. The bag loss, 0, is best at size 1 always: its
            bags get fewer as fast as their noise gets less.
        largest: sizes tried, from 1; by default as many as there are samples.
        samples, features, noise_variance, signal_norm2: as in `aggregate_risk`.
        epsilon, clip: as in `label_dp_aggregate`.

    Raises:
        ValueError: as `aggregate_risk`; sizes at which the bag loss's risk is not known are passed over.
    """

    def risk(size: int) -> tuple[float, float]:
        how = {
            "noise_variance": private_noise_variance(size, noise_variance=noise_variance, epsilon=epsilon, clip=clip),
            "signal_norm2": signal_norm2,
        }
        own = optimal_rho(samples, features, size, **how) if rho is None else rho
        return aggregate_risk(samples, features, size, own, **how).total, own

    top = largest or samples
    if rho == 0:
        top = max(min(top, math.ceil(samples / features) - 1), 1)
    risks = [risk(size) for size in range(1, top + 1)]
    best = min(range(top), key=lambda i: risks[i][0])
    return BagSize(best + 1, risks[best][1])


def instance_bag_size(
    samples: Real, features: Real, *, noise_variance: Real, signal_norm2: Real, epsilon: Real, clip: Real
) -> float:
    """`optimal_bag_size` of the instance loss, rho = 1, in closed form and not rounded; infinite where ever larger bags
    are better.

    With t = d / (n - d) and s = 8 clip^2 / epsilon^2 it is the root of a quadratic in 1 / k:
    k = 2 (|theta|^2 (1 - t) + s t) / (2 |theta|^2 - t (|theta|^2 + sigma^2)), or 1 if that is less.

    Raises:
        ValueError: there are no more samples than features, or `epsilon` or `clip` is not positive.
    """
    if not samples > features > 0:
        raise ValueError(f"need more samples than features, got {samples} and {features}")
    s = private_noise_variance(1, noise_variance=0.0, epsilon=epsilon, clip=clip)
    t = features / (samples - features)
    curvature = 2 * (signal_norm2 * (1 - t) + s * t)
    slope = 2 * signal_norm2 - t * (signal_norm2 + noise_variance)
    if curvature <= 0:  # concave in 1 / k: the least is at an end
        return 1.0 if curvature / 2 - slope < 0 else math.inf
    return math.inf if slope <= 0 else max(curvature / slope, 1.0)


def _root(m: Real, d: Real, k: Real, rho: Real) -> float:
    """The t > 0 at which the estimator's degrees of freedom are d."""
    if rho == 0 or k == 1:
        return d / (m - d)

    def excess(u: float) -> float:
        t = math.exp(u)
        return m * t / (1 + t) + m * (k - 1) * rho * t / (1 + rho * t) - d

    return math.exp(brentq(excess, -60.0, 60.0, xtol=1e-13))
