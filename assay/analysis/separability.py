"""How hard two classes are to separate by a hyperplane through 0, and in how many steps it is sure to be done.

    R = max_i ||a_i||,    mu = max_{||theta|| = 1} min_i y_i a_i . theta

    perceptron               n R^2 / mu^2
    normalized-perceptron    R^2 / mu^2
    logistic                 2 n (R^2 + c n / gamma) / mu^2
    normalized-logistic      (R^2 + c n / gamma) / mu^2         c = 4 max_z z s(-z) = 1.114

The rules are those of `assay.optim.separation`; ties are mistakes.

Source: Tyurin, "From Logistic Regression to the Perceptron Algorithm" (2024). The last two bounds with their constant
are worked out here from the potential argument that gives the first two.
"""

import numpy as np
import torch
from jaxtyping import Float, Int64
from scipy.optimize import nnls
from scipy.special import lambertw
from torch import Tensor

from assay.optim.separation import Rule, signed_samples

C = 4 * float(lambertw(np.exp(-1)).real)


def separable_margin(x: Float[Tensor, "samples features"], y: Tensor) -> float:
    """mu, the margin of the best hyperplane through 0; 0 where none separates.

    It is the distance from 0 to the convex hull of the y_i a_i, a non-negative least-squares problem.

    Args:
        x, y: as in `assay.optim.separation.separate`.

    Raises:
        ValueError: as there.
    """
    signed = signed_samples(x, y).cpu().double().numpy()
    scale = np.linalg.norm(signed, axis=1).max()
    rows = np.vstack([signed.T / scale, np.ones(len(signed))])
    weights, _ = nnls(rows, np.append(np.zeros(signed.shape[1]), 1.0))
    theta = weights @ signed
    length = np.linalg.norm(theta)
    # what this theta achieves, so that a positive answer always proves that the classes can be separated
    return max(float((signed @ theta).min() / length), 0.0) if length > 0 else 0.0


def iteration_bound(rule: Rule, samples: int, radius: float, margin: float, lr: float | None = None) -> float:
    """Iterations after which `separate` has surely separated.

    Args:
        rule: as there.
        samples: n.
        radius: R.
        margin: mu, positive.
        lr: gamma, of the logistic rules.

    Raises:
        ValueError: a number is not positive, or a logistic rule has no `lr`.
    """
    logistic = rule in ("logistic", "normalized-logistic")
    numbers = {"samples": samples, "radius": radius, "margin": margin} | ({"lr": lr} if logistic else {})
    for name, value in numbers.items():
        if value is None or not value > 0:
            raise ValueError(f"{name} must be positive, got {value}")
    ratio = radius**2 + (C * samples / lr if logistic and lr else 0.0)
    return ratio / margin**2 * {"logistic": 2 * samples, "perceptron": samples}.get(rule, 1)


def hard_family(samples: int, delta: float) -> tuple[Float[Tensor, "samples 2"], Int64[Tensor, " samples"]]:
    """Data on which the perceptron takes of the order of n steps: n - 1 times the point (1, 0) of class 1, and one
    point (1, -delta) of class -1, which the others outvote.

    Args:
        samples: n, at least 2.
        delta: how far the one lies from them, positive; mu = delta / sqrt(4 + delta^2).

    Raises:
        ValueError: a number is out of range.
    """
    if samples < 2 or not delta > 0:
        raise ValueError(f"samples must be at least 2 and delta positive, got {samples} and {delta}")
    x = torch.tensor([[1.0, 0.0]], dtype=torch.float64).repeat(samples, 1)
    y = torch.ones(samples, dtype=torch.int64)
    x[-1, 1], y[-1] = -delta, -1
    return x, y
