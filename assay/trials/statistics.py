"""From paired differences to verdicts.

The interval decides; p stands beside it. With k comparisons each interval has confidence 1 - (1 - c)/k (Bonferroni),
so that all k hold together with confidence c. That agrees with Holm's correction, which never makes a p-value larger
than k p: where an interval excludes zero, Holm's correction of the same test rejects zero too. Holm may reject where
the interval still holds zero; the verdict is then the cautious one. The p given is that of the sign-flip test, which
needs no distribution; with few seeds it cannot be small.

Sources: Fisher, "The Design of Experiments" (1935), sec. 21, for sign flips; Holm, "A simple sequentially rejective
multiple test procedure" (1979).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import Float

from assay.errors import AssayError
from assay.trials.intervals import (
    Differences,
    checked,
    interval_of,
    mean_of,
    smallest_detectable_effect,
    spread_of,
)

if TYPE_CHECKING:
    from assay.trials.result import Comparison

EXACT = 16  # pairs up to which all sign flips are gone through


@dataclass(frozen=True)
class Pairs:
    """Two arms' runs, seed by seed.

    Attributes:
        arm, baseline: their names.
        differences: [pairs], positive where `arm` is better; a diverged run counts as the metric's worst value, and
            two diverged runs differ by 0.
        outcomes: [pairs, examples] differences on one shared test set, whose rows have `differences` as their means (a
            diverged run has the worst value on every example); `None` where there is no such thing.
        overlap: n_test / n_train where each seed drew its own split.
        diverged, baseline_diverged: how many of the runs diverged.
        notes: to be handed on.
    """

    arm: str
    baseline: str
    differences: Differences
    outcomes: Float[np.ndarray, "pairs examples"] | None = None
    overlap: float | None = None
    diverged: int = 0
    baseline_diverged: int = 0
    notes: Sequence[str] = ()


def compare_pairs(pairs: Sequence[Pairs], *, smallest_effect: float, confidence: float = 0.95) -> "list[Comparison]":
    """Intervals, p-values, power and verdicts of a trial's comparisons.

    Args:
        pairs: every comparison that the trial makes.
        smallest_effect: the smallest gain that counts, at least 0, in the metric's unit.
        confidence: that all intervals hold together, in (0, 1).

    Returns:
        one comparison for each of `pairs`, in their order.

    Raises:
        AssayError: `confidence` or `smallest_effect` is out of range.
    """
    from assay.trials.result import Comparison  # knows the engine, and so torch, which the statistics do without

    if not 0 < confidence < 1:
        raise AssayError(f"confidence must be between 0 and 1, such as 0.95, got {confidence}")
    level = 1 - (1 - confidence) / max(len(pairs), 1)
    ps = [sign_flip_p(p.differences) for p in pairs]
    found = []
    for pair, p, corrected in zip(pairs, ps, holm(ps), strict=True):
        d = checked(pair.differences)
        spread = spread_of(d, outcomes=pair.outcomes, overlap=pair.overlap)
        interval = interval_of(d, spread, level)
        found.append(
            Comparison(
                arm=pair.arm,
                baseline=pair.baseline,
                differences=d.tolist(),
                estimate=mean_of(d),
                low=interval.low,
                high=interval.high,
                confidence=confidence,
                method=interval.method,
                p=p,
                p_holm=corrected,
                smallest_detectable=smallest_effect + smallest_detectable_effect(spread, confidence=level),
                verdict=verdict(interval.low, interval.high, smallest_effect),
                notes=[*pair.notes, *_notes(pair, len(pairs), 1 - confidence)],
            )
        )
    return found


def verdict(low: float, high: float, smallest_effect: float) -> Literal["supported", "refuted", "inconclusive"]:
    """What an interval says of an effect of at least `smallest_effect`.

    Returns:
        `supported` if the whole interval lies above it, `refuted` if the whole interval lies below it, so that an
        effect that large is excluded, else `inconclusive`.
    """
    if not 0 <= smallest_effect < np.inf:
        raise AssayError(f"smallest_effect must be at least 0 and finite, got {smallest_effect}")
    if low > smallest_effect:
        return "supported"
    return "refuted" if high < smallest_effect else "inconclusive"


def sign_flip_p(differences: Differences, *, resamples: int = 49_999, seed: int = 0) -> float:
    """Two-sided sign-flip permutation test that the differences are symmetric about zero.

    The share of all 2^n ways to flip their signs whose mean is at least as far from zero as the mean found. Up to 16
    pairs all are gone through; above, `resamples` are drawn, and the data's own signs counted among them.

    Args:
        differences: [pairs], none NaN; infinite ones outweigh all finite ones together.
        resamples: flips drawn where there are too many.
        seed: of that draw.

    Returns:
        p in (0, 1].
    """
    d = checked(differences)
    n = len(d)
    infinite = np.isinf(d)
    weight = 4 * float(np.abs(d[~infinite]).sum()) or 1.0
    d = np.where(infinite, np.sign(d) * weight, d)
    if n <= EXACT:  # a flip of all signs changes nothing, so the last sign stays
        flipped = (np.arange(2 ** (n - 1))[:, None] >> np.arange(n)) & 1
    else:
        flipped = np.random.default_rng(seed).integers(0, 2, size=(resamples, n), dtype=np.int8)
    sums = np.abs(d.sum() - 2 * (flipped @ d))
    extreme = sums >= abs(d.sum()) - 1e-9 * np.abs(d).sum()  # equal sums differ by rounding
    return float(extreme.mean()) if n <= EXACT else float((1 + extreme.sum()) / (1 + resamples))


def smallest_p(pairs: int) -> float:
    """The smallest p that the sign-flip test can give: all differences of one sign."""
    return 2.0 ** (1 - pairs)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the order given: together they keep the family-wise error."""
    order = np.argsort(p_values, kind="stable")
    steps = len(p_values) - np.arange(len(p_values))
    rising = np.minimum(np.maximum.accumulate(np.asarray(p_values, dtype=np.float64)[order] * steps), 1.0)
    adjusted = np.empty(len(p_values))
    adjusted[order] = rising
    return [float(p) for p in adjusted]


def _notes(pair: Pairs, comparisons: int, error: float) -> list[str]:
    """What a reader of the figures must know, and cannot see in them."""
    notes = []
    n = len(pair.differences)
    for name, diverged in ((pair.arm, pair.diverged), (pair.baseline, pair.baseline_diverged)):
        if diverged:
            counts = "counts" if diverged == 1 else "count"
            notes.append(f"{diverged} of {n} runs of {name} diverged and {counts} as the worst value")
    if n == 1:
        notes.append("one seed gives neither an interval nor a p-value")
    elif smallest_p(n) * comparisons > error:
        corrected = f", {min(comparisons * smallest_p(n), 1):.3g} after correction" if comparisons > 1 else ""
        notes.append(f"{n} seeds cannot give p below {smallest_p(n):.3g}{corrected}; the verdict is the interval's")
    if n > 1 and len(set(map(float, pair.differences))) == 1 and pair.outcomes is None:
        notes.append("all seeds gave the same difference, so the interval shows no chance at all")
    if pair.outcomes is not None:
        notes.append("the interval counts the choice of test examples as chance; p takes them as given")
    if pair.overlap is not None:
        notes.append("the interval allows for splits that overlap; p does not")
    return notes
