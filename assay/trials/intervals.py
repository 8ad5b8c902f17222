"""Intervals for the mean of a few paired differences.

One pair a seed: d_s is what the arm gained over its baseline, positive meaning better. With d = mean(d_s) and sample
standard deviation s over n pairs, the interval is Student's t,

    d +- t(n - 1) s sqrt(1/n + overlap),

`overlap` being Nadeau and Bengio's correction for splits that share data, n_test / n_train. Where all pairs were judged
on the same m test examples, other examples would have given another mean. In d_se = mu + seed_s + example_e + rest_se
the mean squares of the crossed table give the variance that the examples add to the mean,

    v = max(0, MS_examples - MS_rest) / (n m),    and the margins add as squares:  sqrt((t(n-1) s)^2 / n + t(m-1)^2 v).

Where all pairs differ by the same, s = 0 and MS_rest stays in v: accuracies are counts of examples, and a tie of a few
seeds is no certainty.

Sources: Student, "The Probable Error of a Mean" (1908); Nadeau and Bengio, "Inference for the Generalization Error"
(2003); Howe, "Approximate confidence limits on the mean of X + Y" (1974), for adding margins as squares.
docs/statistics.md has the coverage measured, and why no bootstrap and no Satterthwaite degrees of freedom are here.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.optimize import brentq
from scipy.special import chdtri, ndtr, stdtrit

from assay.errors import AssayError

Differences = Sequence[float] | Float[np.ndarray, " pairs"]
NODES, WEIGHTS = np.polynomial.legendre.leggauss(64)  # of Gauss's quadrature on (-1, 1)


@dataclass(frozen=True)
class Interval:
    """A confidence interval.

    Attributes:
        low, high: its ends; infinite where the pairs say nothing on that side.
        method: how it was made, in words.
    """

    low: float
    high: float
    method: str


@dataclass(frozen=True)
class Spread:
    """How uncertain the mean of paired differences is, by source.

    Attributes:
        pairs: n, at least 1.
        seeds: standard error of the mean owed to the seeds, in the metric's unit; s / sqrt(n) when a trial is planned.
        examples: test examples that all pairs share; 0 where their choice is not counted.
        test: standard error of the mean owed to their choice.
        overlap: n_test / n_train that `seeds` is corrected for; `None` where splits do not overlap.
    """

    pairs: int
    seeds: float
    examples: int = 0
    test: float = 0.0
    overlap: float | None = None

    def margin(self, confidence: float) -> float:
        """Half the interval's width at `confidence`, in (0, 1); infinite for one pair."""
        if not 0 < confidence < 1:
            raise AssayError(f"confidence must be between 0 and 1, such as 0.95, got {confidence}")
        if self.pairs < 2 or self.examples == 1:
            return math.inf
        tail = (1 + confidence) / 2
        test = float(stdtrit(self.examples - 1, tail)) * self.test if self.examples else 0.0
        return math.hypot(float(stdtrit(self.pairs - 1, tail)) * self.seeds, test)


def spread_of(
    differences: Differences,
    *,
    outcomes: Float[np.ndarray, "pairs examples"] | None = None,
    overlap: float | None = None,
) -> Spread:
    """The uncertainty of the mean of `differences`; arguments as for `paired_interval`."""
    d = checked(differences)
    n = len(d)
    if overlap is not None and not 0 <= overlap < math.inf:
        raise ValueError(f"overlap must be n_test / n_train, at least 0, got {overlap}")
    if outcomes is not None and overlap is not None:
        raise ValueError("outcomes and overlap exclude each other: seeds share one test set or draw their own")
    if outcomes is not None and (outcomes.ndim != 2 or len(outcomes) != n or outcomes.shape[1] < 1):
        raise ValueError(f"outcomes must have shape [{n} pairs, examples], got {list(outcomes.shape)}")
    if not np.isfinite(d).all() or n < 2:
        return Spread(n, math.inf, overlap=overlap)
    deviation = 0.0 if np.ptp(d) == 0 else float(np.std(d, ddof=1))  # a rounded mean must not look like noise
    seeds = deviation * math.sqrt(1 / n + (overlap or 0.0))
    if outcomes is None:
        return Spread(n, seeds, overlap=overlap)
    table = np.asarray(outcomes, dtype=np.float64)
    if not np.allclose(table.mean(axis=1), d, rtol=1e-4, atol=1e-6 * float(np.abs(table).max())):
        raise ValueError("each row of outcomes must have its pair's difference as its mean; are both oriented alike?")
    m = table.shape[1]
    # equal differences (whole examples, few seeds) say nothing of the rest, which then must not be taken off
    return Spread(n, seeds, m, math.sqrt(_variance_of_examples(table, with_rest=not deviation)) if m > 1 else math.inf)


def paired_interval(
    differences: Differences,
    *,
    confidence: float = 0.95,
    outcomes: Float[np.ndarray, "pairs examples"] | None = None,
    overlap: float | None = None,
) -> Interval:
    """A confidence interval for the effect behind paired differences.

    Infinite differences are taken as equally large ones, larger than any bound: an end is infinite where it would grow
    with them. One pair, or one shared test example, gives an infinite interval; equal differences one of no width.

    Args:
        differences: [pairs], none NaN.
        confidence: the share of such intervals that hold the true effect, in (0, 1).
        outcomes: each pair's differences on the examples of one test set shared by all; the interval is then about
            other examples too, drawn like these.
        overlap: n_test / n_train, where every seed drew its own split of the same data.

    Returns:
        the interval.

    Raises:
        AssayError: `confidence` is outside (0, 1).
        ValueError: no differences, a NaN, or outcomes that do not belong to the differences.
    """
    d = checked(differences)
    return interval_of(d, spread_of(d, outcomes=outcomes, overlap=overlap), confidence)


def interval_of(differences: Float[np.ndarray, " pairs"], spread: Spread, confidence: float) -> Interval:
    """The interval at `confidence` for the mean of `differences`, whose spread `spread_of` has measured."""
    infinite = np.isinf(differences)
    if infinite.any():
        unit = np.where(infinite, np.sign(differences), 0.0)  # the interval in units of the infinite differences
        margin = spread_of(unit, overlap=spread.overlap).margin(confidence)
        low, high = float(unit.mean()) - margin, float(unit.mean()) + margin
        low, high = math.inf if low > 0 else -math.inf, -math.inf if high < 0 else math.inf
    else:
        mean, margin = mean_of(differences), spread.margin(confidence)
        low, high = mean - margin, mean + margin
    if spread.pairs == 1:
        return Interval(low, high, "one pair gives no interval")
    if spread.examples == 1:
        return Interval(low, high, "one test example gives no interval")
    method = f"Student's t, {spread.pairs} pairs"
    if infinite.any():
        method += ", some of them infinite"
    if spread.examples:
        method += f", with the sampling error of {spread.examples} shared test examples"
    if spread.overlap is not None:
        method += f", corrected for overlapping splits (test/train {spread.overlap:.3g})"
    return Interval(low, high, method)


def smallest_detectable_effect(spread: Spread, *, confidence: float = 0.95, power: float = 0.8) -> float:
    """How far beyond the margin of a verdict the true effect must lie to be found.

    With normal differences of this spread, the low end of the interval at `confidence` lies above the margin with
    probability `power`. Without shared examples this is the quantile of a noncentral t.

    Args:
        spread: as measured by `spread_of`, or planned: `Spread(n, s / sqrt(n))`.
        confidence: of the interval that decides, in (0, 1).
        power: in (0, 1) and above (1 - confidence) / 2, which chance alone gives.

    Returns:
        the distance, in the metric's unit; infinite where there is no interval.
    """
    if not (1 - confidence) / 2 < power < 1:
        raise ValueError(f"power must be between {(1 - confidence) / 2:.3g} and 1, got {power}")
    error = math.hypot(spread.seeds, spread.test)
    if not math.isfinite(spread.margin(confidence)) or error == 0:
        return error if error == 0 else math.inf
    # the interval's width is random through the variance over seeds, s^2 ~ sigma^2 chi2(n - 1) / (n - 1)
    df, tail = spread.pairs - 1, (1 + confidence) / 2
    scale = chdtri(df, (1 - NODES) / 2) / df
    test = stdtrit(spread.examples - 1, tail) * spread.test if spread.examples else 0.0
    margins = np.sqrt((stdtrit(df, tail) * spread.seeds) ** 2 * scale + test**2) / error
    largest = float(margins.max()) + 10.0
    return error * float(brentq(lambda effect: float(WEIGHTS @ ndtr(effect - margins)) / 2 - power, 0.0, largest))


@dataclass(frozen=True)
class Band:
    """A mean curve and its band, each float64 [points]; NaN where there is nothing to draw."""

    mean: Float[np.ndarray, " points"]
    low: Float[np.ndarray, " points"]
    high: Float[np.ndarray, " points"]


def series_band(curves: Float[np.ndarray, "runs points"], *, confidence: float = 0.95) -> Band:
    """Mean of several runs' curves with Student's t interval, point by point.

    Args:
        curves: [runs, points]; a value that is not finite is missing.
        confidence: of each point by itself.

    Returns:
        the mean over the runs that have the point (NaN for none) and its interval (NaN below two runs).
    """
    values = np.asarray(curves, dtype=np.float64)
    if values.ndim != 2:
        raise ValueError(f"curves must have shape [runs, points], got {list(values.shape)}")
    there = np.isfinite(values)
    n = there.sum(axis=0)
    mean = np.where(n > 0, np.where(there, values, 0.0).sum(axis=0) / np.maximum(n, 1), np.nan)
    squares = np.where(there, (values - mean) ** 2, 0.0).sum(axis=0)
    df = np.maximum(n - 1, 1)
    margin = stdtrit(df, (1 + confidence) / 2) * np.sqrt(squares / df / np.maximum(n, 1))
    margin = np.where(n > 1, margin, np.nan)
    return Band(mean, mean - margin, mean + margin)


def checked(differences: Differences) -> Float[np.ndarray, " pairs"]:
    """`differences` as float64 [pairs]; an error unless there is at least one and none is NaN."""
    d = np.asarray(differences, dtype=np.float64)
    if d.ndim != 1 or len(d) < 1:
        raise ValueError(f"differences must be one or more numbers in a row, got shape {list(d.shape)}")
    if np.isnan(d).any():
        raise ValueError("differences must not be NaN; two runs that both diverged differ by 0")
    return d


def mean_of(differences: Float[np.ndarray, " pairs"]) -> float:
    """Their mean; infinite differences count as equally large and cancel, leaving the mean of the others."""
    infinite = np.isinf(differences)
    balance = float(np.sign(differences[infinite]).sum())
    if balance:
        return math.copysign(math.inf, balance)
    finite = differences[~infinite]
    if len(finite) == 0:
        return 0.0
    return float(finite[0]) if np.ptp(finite) == 0 else float(finite.mean())


def _variance_of_examples(table: Float[np.ndarray, "pairs examples"], *, with_rest: bool) -> float:
    """The part of the variance of the grand mean that the choice of examples brings, two or more of each; with what
    only one seed's run shows of an example, where the differences over seeds do not hold that already."""
    n, m = table.shape
    rows, columns, grand = table.mean(axis=1, keepdims=True), table.mean(axis=0), table.mean()
    rest = float(((table - rows - columns + grand) ** 2).sum()) / ((n - 1) * (m - 1))
    examples = n * float(((columns - grand) ** 2).sum()) / (m - 1)
    return float(max(0.0, examples if with_rest else examples - rest) / (n * m))
