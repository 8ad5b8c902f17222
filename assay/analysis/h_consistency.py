"""H-consistency bounds: what a comp-sum loss that is nearly minimal says about the zero-one error.

    R01(h) - R01*(H) + M01(H)  <=  Gamma_tau( R_l(h) - R_l*(H) + M_l(H) ),      Gamma_tau the inverse of T_tau on [0, 1]
    M_l(H) = R_l*(H) - E_x inf_{h in H} C_l(h, x),    C_l(h, x) = sum_y p(y | x) l(h, x, y)

    tau < 1         T(b) = 2^(1 - tau) / (1 - tau) (1 - A(b))
    tau = 1         T(b) = (1 + b) / 2 log(1 + b) + (1 - b) / 2 log(1 - b)
    1 < tau < 2     T(b) = (A(b) - 1) / ((tau - 1) n^(tau - 1))
    tau >= 2        T(b) = b / ((tau - 1) n^(tau - 1))
    A(b) = (((1 + b)^q + (1 - b)^q) / 2)^(2 - tau),    q = 1 / (2 - tau)

The bound holds where H is symmetric and complete: every score is reached by some h in H. R: expected over x, H: a
set of scoring functions, n: classes. All figures are of a distribution that is known, and float64.

Source: Mao, Mohri, Zhong, "Cross-Entropy Loss Functions: Theoretical Analysis and Applications" (ICML 2023), sections 3
and 4.
"""

import math

import numpy as np
from jaxtyping import Float
from scipy.special import log_softmax, logsumexp, rel_entr

Array = Float[np.ndarray, "..."]


def transform(beta: float | Array, tau: float, num_classes: int) -> Array:
    """T_tau(beta): the conditional regret of the surrogate that a zero-one regret beta costs at least; convex and
    increasing, T(0) = 0.

    Args:
        beta: in [0, 1].
        tau: at least 0.
        num_classes: n, at least 2.

    Raises:
        ValueError: an argument is out of range.

    Source: Mao et al. 2023, section 3.
    """
    _check(tau, num_classes)
    b = np.asarray(beta, np.float64)
    if not ((b >= 0) & (b <= 1)).all():
        raise ValueError(f"beta must lie in [0, 1], got {beta}")
    if tau == 1:  # the same, without the cancellation for small b
        inside = np.where(b < 1, b, 0)
        return np.where(b < 1, np.log1p(-(inside**2)) / 2 + inside * np.arctanh(inside), math.log(2))
    if tau >= 2:
        return np.asarray(b / ((tau - 1) * num_classes ** (tau - 1)))
    log_a = _log_power_mean(b, tau)
    if tau < 1:
        return np.asarray(-(2 ** (1 - tau)) / (1 - tau) * np.expm1(log_a))
    return np.asarray(np.expm1(log_a) / ((tau - 1) * num_classes ** (tau - 1)))


def _log_power_mean(b: Array, tau: float) -> Array:
    """The logarithm of A(b): (2 - tau) log(1 + m), m the mean of (1 +- b)^q - 1. Their first-order terms cancel; for
    small b, where nothing else would be left of m, it is the even part of the binomial series."""
    q = 1 / (2 - tau)
    near = np.minimum(b, 1 / max(q, 1))
    with np.errstate(divide="ignore"):
        m = (np.expm1(q * np.log1p(near)) + np.expm1(q * np.log1p(-near))) / 2
        # (1 + b)^q may be more than floats hold, so it is taken out of the sum
        far = np.log1p(b) + (np.log1p(np.exp(q * (np.log1p(-b) - np.log1p(b)))) - math.log(2)) / q
    even = q * (q - 1) / 2 * near**2 * (1 + (q - 2) * (q - 3) / 12 * near**2)
    m = np.where(max(q, 1) * b < 1e-3, even, m)
    return np.asarray(np.where(b <= near, np.log1p(m) / q, far))


def inverse_transform(regret: float | Array, tau: float, num_classes: int) -> Array:
    """Gamma_tau(t): the largest zero-one regret that a surrogate regret t allows; 1 from T(1) on.

    Args:
        regret: t, at least 0.
        tau: at least 0.
        num_classes: n, at least 2.

    Raises:
        ValueError: an argument is out of range.

    Source: Mao et al. 2023, section 3.
    """
    t = np.asarray(regret, np.float64)
    if not (t >= 0).all():
        raise ValueError(f"regret must be at least 0, got {regret}")
    low, high = np.zeros_like(t), np.where(t > 0, 1.0, 0.0)
    for _ in range(1100):  # to neighbouring floats, wherever in [0, 1] they are
        middle = (low + high) / 2
        if ((middle <= low) | (middle >= high)).all():
            break
        below = transform(middle, tau, num_classes) < t
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return np.asarray(high)


def simple_bound(regret: float | Array, tau: float, num_classes: int) -> Array:
    """A closed form above Gamma_tau(t): sqrt(2^tau (2 - tau) t) for tau < 1, sqrt(2 n^(tau - 1) t) for 1 <= tau < 2,
    (tau - 1) n^(tau - 1) t from 2 on.

    Args:
        regret: t, at least 0.
        tau: at least 0.
        num_classes: n, at least 2.

    Source: Mao et al. 2023, section 3. The paper's factor (2 - tau) under the root for 1 < tau < 2 is only right for
    small t, and left out.
    """
    _check(tau, num_classes)
    t = np.asarray(regret, np.float64)
    if not (t >= 0).all():
        raise ValueError(f"regret must be at least 0, got {regret}")
    if tau >= 2:
        return np.asarray((tau - 1) * num_classes ** (tau - 1) * t)
    return np.asarray(np.sqrt((2**tau * (2 - tau) if tau < 1 else 2 * num_classes ** (tau - 1)) * t))


def zero_one_bound(
    regret: float, tau: float, num_classes: int, *, gap: float = 0.0, zero_one_gap: float = 0.0
) -> float:
    """Gamma_tau(R_l(h) - R_l*(H) + M_l(H)) - M01(H): what the zero-one regret R01(h) - R01*(H) is at most.

    Args:
        regret: R_l(h) - R_l*(H), at least 0.
        tau: of l, at least 0.
        num_classes: n, at least 2.
        gap: M_l(H), at least 0; 0 where H holds all functions.
        zero_one_gap: M01(H), likewise.

    Source: Mao et al. 2023, section 3, for H symmetric and complete.
    """
    return float(inverse_transform(regret + gap, tau, num_classes)) - zero_one_gap


# Risks of a finite problem ------------------------------------------------------------------------------------------


def conditional_risk(
    scores: Float[np.ndarray, "... classes"], probabilities: Float[np.ndarray, "... classes"], tau: float
) -> Array:
    """C_l(h, x) = sum_y p(y | x) l_tau(h(x), y).

    Args:
        scores: h(x, .); broadcast against the probabilities, so that [functions, points, classes] are many h at once.
        probabilities: p(. | x), rows that sum to 1.
        tau: at least 0.

    Source: Mao et al. 2023, section 2.
    """
    _check(tau)
    probabilities = _distribution(probabilities)
    log_p = log_softmax(scores, axis=-1)
    losses = -log_p if tau == 1 else np.expm1((tau - 1) * log_p) / (1 - tau)
    return np.asarray(np.where(probabilities > 0, probabilities * losses, 0).sum(-1))


def zero_one_risk(scores: Float[np.ndarray, "... classes"], probabilities: Float[np.ndarray, "... classes"]) -> Array:
    """1 - p(argmax_y h(x, y) | x); of equal scores the class of the highest number is predicted, as in the paper.

    Args:
        scores: h(x, .); broadcast against the probabilities.
        probabilities: p(. | x), rows that sum to 1.
    """
    probabilities = _distribution(probabilities)
    predicted = scores.shape[-1] - 1 - np.flip(scores, -1).argmax(-1)[..., None]
    probabilities = np.broadcast_to(probabilities, np.broadcast_shapes(probabilities.shape, scores.shape))
    predicted = np.broadcast_to(predicted, (*probabilities.shape[:-1], 1))
    return np.asarray(1 - np.take_along_axis(probabilities, predicted, -1)[..., 0])


def conditional_bayes_risk(probabilities: Float[np.ndarray, "... classes"], tau: float) -> Array:
    """C*(x), the least conditional risk over all scores: the infimum for any complete H.

    (sum_y p_y^q)^(2 - tau) - 1 over 1 - tau, q = 1 / (2 - tau), for tau < 2; the entropy at 1; (1 - max p) / (tau - 1)
    from 2 on.

    Args:
        probabilities: p(. | x), rows that sum to 1.
        tau: at least 0.

    Source: Mao et al. 2023, section 4.
    """
    _check(tau)
    p = _distribution(probabilities)
    if tau == 1:
        return np.asarray(-rel_entr(p, 1).sum(-1))
    if tau >= 2:
        return np.asarray((1 - p.max(-1)) / (tau - 1))
    with np.errstate(divide="ignore"):
        log = (2 - tau) * logsumexp(np.log(p) / (2 - tau), axis=-1)
    return np.asarray(np.expm1(log) / (1 - tau))


def deterministic_bayes_risk(num_classes: int, tau: float, bound: float) -> float:
    """C* where one class is certain and scores lie in [-bound, bound]: Phi_tau((n - 1) e^(-2 bound)).

    Args:
        num_classes: n, at least 2.
        tau: at least 0.
        bound: Lambda, at least 0.

    Source: Mao et al. 2023, section 4.
    """
    _check(tau, num_classes)
    if not bound >= 0:
        raise ValueError(f"bound must be at least 0, got {bound}")
    return _phi((num_classes - 1) * math.exp(-2 * bound), tau)


def minimizability_gap(risks: Float[np.ndarray, "functions points"], weights: Float[np.ndarray, " points"]) -> float:
    """M(H) = min_h E_x C(h, x) - E_x min_h C(h, x) of finitely many functions on finitely many points, exactly.

    Args:
        risks: C(h, x), as `conditional_risk` or `zero_one_risk` give them.
        weights: of the points, summing to 1.

    Source: Mao et al. 2023, section 2.
    """
    if risks.ndim != 2 or not len(risks) or weights.shape != risks.shape[1:]:
        raise ValueError(
            f"risks must be [functions, points] and weights [points], got {risks.shape} and {weights.shape}"
        )
    weights = _distribution(weights)
    return float((risks @ weights).min() - risks.min(0) @ weights)


def complete_minimizability_gap(
    best_risk: float, probabilities: Float[np.ndarray, "points classes"], weights: Float[np.ndarray, " points"],
    tau: float,
) -> float:  # fmt: skip
    """M(H) = R_l*(H) - E_x C*(x) of a complete H, such as linear scores, whose least risk is known.

    Args:
        best_risk: R_l*(H).
        probabilities: p(. | x).
        weights: of the points, summing to 1.
        tau: of l, at least 0.

    Source: Mao et al. 2023, section 2.
    """
    return float(best_risk - conditional_bayes_risk(probabilities, tau) @ _distribution(weights))


def minimizability_gap_bound(
    best_sum_exponential_risk: float,
    probabilities: Float[np.ndarray, "points classes"],
    weights: Float[np.ndarray, " points"],
    tau: float,
) -> float:
    """Phi_tau(R*_0(H)) - E_x C*(x), which is at least M(H) of a complete H, by Jensen.

    Args:
        best_sum_exponential_risk: R*(H) of the loss at tau = 0, at least 0.
        probabilities: p(. | x).
        weights: of the points, summing to 1.
        tau: at least 0.

    Source: Mao et al. 2023, section 4.
    """
    if not best_sum_exponential_risk >= 0:
        raise ValueError(f"best_sum_exponential_risk must be at least 0, got {best_sum_exponential_risk}")
    return complete_minimizability_gap(_phi(best_sum_exponential_risk, tau), probabilities, weights, tau)


def _phi(u: float, tau: float) -> float:
    log = math.log1p(u)
    return log if tau == 1 else math.expm1((1 - tau) * log) / (1 - tau)


def _check(tau: float, num_classes: int = 2) -> None:
    if not 0 <= tau < math.inf:
        raise ValueError(f"tau must be at least 0 and finite, got {tau}")
    if num_classes < 2:
        raise ValueError(f"num_classes must be at least 2, got {num_classes}")


def _distribution(p: Array) -> Array:
    p = np.asarray(p, np.float64)
    if not (p >= 0).all() or not np.allclose(p.sum(-1), 1, rtol=0, atol=1e-9):
        raise ValueError("probabilities and weights must be at least 0 and sum to 1")
    return p
