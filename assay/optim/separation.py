"""Separating two classes by gradient descent on the logistic loss with any step, and the perceptrons it turns into.

    z_i = y_i a_i . theta,    theta <- theta + gamma sum_i w_i y_i a_i    from theta = 0 until all z_i > 0

    logistic                 w_i = s(-z_i) / n                      gradient descent, s(u) = 1 / (1 + exp(-u))
    normalized-logistic      w_i = s(-z_i) / sum_j s(-z_j)          the same step divided by the mean of s(-z)
    perceptron               w_i = [z_i <= 0]                       the mean of the limit without its 1 / n
    normalized-perceptron    w_i = [z_i <= 0] / sum_j [z_j <= 0]

For gamma to infinity theta / gamma of the first two follows the last two, whose own path is the same at any scale of
their steps; but in the limit of the first a sample of z_i = 0 counts half. The loss is no measure of progress: larger
steps raise it on the way, and may separate sooner. Where many z_i come near 0 at large gamma, rounding decides which
way a path goes: the order of the samples may then change the iterations.

Source: Tyurin, "From Logistic Regression to the Perceptron Algorithm" (2024). The normaliser is a reconstruction from
the abstract, the only one known to us with all three properties stated there.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn.functional import softplus

Rule = Literal["logistic", "normalized-logistic", "perceptron", "normalized-perceptron"]


@dataclass(frozen=True)
class Separation:
    """Where each step size has led.

    Attributes:
        theta: the last iterate.
        iterations: updates before the first theta that separates; as many as were made where none did.
        separated: whether one did.
        loss: mean logistic loss of `theta`.
        peak_loss: the highest one on the way, that of 0 included, which is log 2.
        margin: min_i z_i / ||theta||.
    """

    theta: Float[Tensor, "rates features"]
    iterations: Int64[Tensor, " rates"]
    separated: Bool[Tensor, " rates"]
    loss: Float[Tensor, " rates"]
    peak_loss: Float[Tensor, " rates"]
    margin: Float[Tensor, " rates"]


def separate(
    x: Float[Tensor, "samples features"],
    y: Tensor,
    rule: Rule = "normalized-logistic",
    lr: float | Sequence[float] | None = None,
    *,
    max_iter: int = 10_000,
    tie_weight: float = 1.0,
) -> Separation:
    """Run one of the rules from theta = 0, for several step sizes side by side.

    There is no intercept: append a constant feature for one. Data that no hyperplane separates end at `max_iter`.

    Args:
        x: the samples a_i; half precision is computed in float32.
        y: [samples], classes -1 and 1, or 0 and 1.
        rule: see above.
        lr: step sizes gamma, positive; by default n / max ||a_i||^2, from which on the bound of the normalised rule
            gains little. The perceptrons have 1: they take the same path with any, up to rounding.
        max_iter: updates at most, at least 1.
        tie_weight: of a sample with z_i = 0 in the perceptrons, in (0, 1]; 1/2 is the limit of the logistic rules.

    Raises:
        ValueError: an argument is out of range, labels are neither of the two kinds, `x` is not finite, or a sample is
            zero, so that nothing can separate it.
    """
    if rule not in get_args(Rule):
        raise ValueError(f"rule must be one of {', '.join(get_args(Rule))}, got {rule!r}")
    if max_iter < 1:
        raise ValueError(f"max_iter must be positive, got {max_iter}")
    if not 0 < tie_weight <= 1:
        raise ValueError(f"tie_weight must lie in (0, 1], got {tie_weight}")
    signed = signed_samples(x, y)
    if lr is None:
        lr = len(signed) / float(signed.square().sum(1).max()) if "logistic" in rule else 1.0
    rates = torch.as_tensor(lr, dtype=signed.dtype, device=signed.device).reshape(-1, 1)
    if not bool((rates > 0).all()) or not bool(rates.isfinite().all()):
        raise ValueError(f"lr must be positive and finite, got {lr}")
    theta = signed.new_zeros(len(rates), signed.shape[1])
    iterations = torch.full((len(rates),), max_iter, device=signed.device)
    peak = signed.new_zeros(len(rates))
    left = torch.arange(len(rates), device=signed.device)  # the rates that have not separated yet
    for done in range(max_iter + 1):
        z = theta[left] @ signed.T
        peak[left] = torch.maximum(peak[left], softplus(-z).mean(1))
        solved = z.amin(1) > 0
        if solved.any():
            iterations[left[solved]] = done
            left, z = left[~solved], z[~solved]
        if not len(left) or done == max_iter:
            break
        theta[left] += rates[left] * (_weights(z, rule, tie_weight) @ signed)
    z = theta @ signed.T
    lowest = z.amin(1)
    return Separation(theta, iterations, lowest > 0, softplus(-z).mean(1), peak, lowest / theta.norm(dim=1))


def normalized_logistic_gradient(
    theta: Float[Tensor, "*rates features"], x: Float[Tensor, "samples features"], y: Tensor
) -> Float[Tensor, "*rates features"]:
    """The gradient of the mean logistic loss at `theta` divided by the mean of s(-z); finite for any z.

    Args:
        theta: one vector or several.
        x, y: as in `separate`.

    Raises:
        ValueError: as `separate`.
    """
    signed = signed_samples(x, y).to(theta)
    return -_weights(theta @ signed.T, "normalized-logistic", 1.0) @ signed


def signed_samples(x: Float[Tensor, "samples features"], y: Tensor) -> Float[Tensor, "samples features"]:
    """y_i a_i, in float32 at least.

    Raises:
        ValueError: see `separate`.
    """
    if len(x) < 1 or y.shape != x.shape[:1]:
        raise ValueError(f"x must have a row a label, at least one; got {list(x.shape)} and {list(y.shape)}")
    found = set(y.tolist())
    if not (found <= {-1, 1} or found <= {0, 1}):
        raise ValueError(f"y must hold -1 and 1, or 0 and 1, got {sorted(found)[:5]}")
    if not bool(x.isfinite().all()):
        raise ValueError("x must be finite")
    zero = (x == 0).all(1)
    if bool(zero.any()):
        raise ValueError(f"sample {int(zero.nonzero()[0])} is zero, which nothing separates; append a constant feature")
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    return torch.where(y[:, None] > 0, x, -x)


def _weights(z: Tensor, rule: Rule, tie_weight: float) -> Tensor:
    """w_i of scores [..., samples]."""
    if rule == "logistic":
        return torch.sigmoid(-z) / z.shape[-1]
    if rule == "normalized-logistic":  # a quotient of two numbers of which neither is formed, as both underflow
        return torch.softmax(-softplus(z), -1)
    mistakes = (z < 0).to(z) + tie_weight * (z == 0).to(z)
    # a sum of samples is exact where these are whole numbers or fractions of a power of two, as pixels often are
    return mistakes if rule == "perceptron" else mistakes / mistakes.sum(-1, keepdim=True)
