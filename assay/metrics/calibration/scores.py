"""Scores without bins: proper scores, the harmonic score, and how well confidence tells foreign data apart.

    NLL = mean -log p_y,    Brier = mean sum_k (p_k - 1[y = k])^2
    HCS = (1 + beta) acc (1 - ECE) / (beta acc + 1 - ECE)

Source: Tao et al., "A Benchmark Study on Calibration" (ICLR 2024).
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cross_entropy

from assay.metrics.calibration.predictions import Checked, checked


def negative_log_likelihood(
    predictions: Tensor, target: Tensor, *, probabilities: bool = False, ignore_index: int | None = None
) -> Float[Tensor, ""]:
    """Mean cross-entropy in nats; infinite where a class of probability 0 came true.

    Args:
        predictions: logits, float [n, classes, *places].
        target: classes, whole numbers [n, *places].
        probabilities: `predictions` are probabilities.
        ignore_index: class of places that do not count.

    Raises:
        TypeError, ValueError: as `assay.metrics.calibration.predictions.checked`.
    """
    return nll_of(checked(predictions, target, probabilities=probabilities, ignore_index=ignore_index))


def nll_of(given: Checked) -> Float[Tensor, ""]:
    """NLL of checked predictions."""
    if given.logits is not None:
        return cross_entropy(given.logits, given.target)
    return -given.probabilities.gather(1, given.target[:, None]).log().mean()


def brier_score(
    predictions: Tensor, target: Tensor, *, probabilities: bool = False, ignore_index: int | None = None
) -> Float[Tensor, ""]:
    """Mean squared distance of the probabilities from the one-hot class, in [0, 2]; arguments as in
    `negative_log_likelihood`."""
    return brier_of(checked(predictions, target, probabilities=probabilities, ignore_index=ignore_index))


def brier_of(given: Checked) -> Float[Tensor, ""]:
    """Brier score of checked predictions."""
    p, y = given.probabilities, given.target
    hit = p.gather(1, y[:, None])[:, 0]
    # sum_{k != y} p_k^2 + (1 - p_y)^2, without a one-hot tensor
    return (p.square().sum(dim=1) - hit.square() + (1 - hit).square()).mean()


def harmonic_calibration_score(accuracy: float | Tensor, ece: float | Tensor, beta: float = 1.0) -> float | Tensor:
    """HCS: the weighted harmonic mean of accuracy and 1 - ECE.

    Args:
        accuracy: in [0, 1], and likewise
        ece: expected calibration error.
        beta: weight of the calibration, positive.

    Returns:
        in [0, 1]; 0 where both are at their worst.

    Raises:
        ValueError: a value is out of range.
    """
    if not beta > 0:
        raise ValueError(f"beta must be positive, got {beta}")
    for name, value in (("accuracy", accuracy), ("ece", ece)):
        if not bool(((torch.as_tensor(value) >= 0) & (torch.as_tensor(value) <= 1)).all()):
            raise ValueError(f"{name} must lie in [0, 1], got {value}")
    tiny = 1e-300 if not isinstance(accuracy, Tensor) else torch.finfo(accuracy.dtype).tiny
    return (1 + beta) * accuracy * (1 - ece) / (beta * accuracy + (1 - ece) + tiny)


def ood_auroc(
    inside: Float[Tensor, "n classes"],
    outside: Float[Tensor, "m classes"],
    *,
    score: Literal["confidence", "entropy"] = "confidence",
) -> Float[Tensor, ""]:
    """How often an example of the network's own data looks more certain than one of foreign data; ties count half.

    Args:
        inside: logits of in-distribution examples.
        outside: logits of the others, such as SVHN's or corrupted pictures'.
        score: of certainty: the `confidence`, or minus the `entropy`.

    Returns:
        the area under the ROC curve in [0, 1], float64; a half where nothing tells them apart.

    Raises:
        ValueError: a part is empty or not finite, or `score` is unknown.
    """
    if score not in ("confidence", "entropy"):
        raise ValueError(f"score must be confidence or entropy, got {score!r}")
    own, other = (
        _certainty(checked(z, torch.zeros(len(z), dtype=torch.long, device=z.device)).probabilities, score)
        for z in (inside, outside)
    )
    own = own.sort().values
    below, up_to = (torch.searchsorted(own, other, right=right) for right in (False, True))
    return 1 - (below.double() + up_to.double()).mean() / (2 * len(own))


def _certainty(p: Float[Tensor, "n classes"], score: str) -> Float[Tensor, " n"]:
    return p.amax(dim=1) if score == "confidence" else torch.special.xlogy(p, p).sum(dim=1)
