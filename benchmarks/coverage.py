"""Do the intervals hold what they say? Simulated trials whose true effect is known.

    python benchmarks/coverage.py [--quick]

Prints the tables of docs/statistics.md: in under two minutes on an idle core, with `--quick` in a quarter of one.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
from scipy import stats
from scipy.special import expit

from assay.trials.intervals import Spread, paired_interval, smallest_detectable_effect, spread_of
from assay.trials.statistics import Pairs, compare_pairs

Ends = tuple[np.ndarray, np.ndarray]

DIFFERENCES: dict[str, tuple[Callable[[np.random.Generator, tuple[int, int]], np.ndarray], float]] = {
    "normal": (lambda rng, size: rng.normal(size=size), 0.0),
    "t, 3 df": (lambda rng, size: rng.standard_t(3, size=size), 0.0),
    "two skewed arms": (lambda rng, size: rng.exponential(size=size) - 0.5 * rng.exponential(size=size), 0.5),
    "exponential": (lambda rng, size: rng.exponential(size=size), 1.0),
    "lognormal": (lambda rng, size: rng.lognormal(size=size), float(np.exp(0.5))),
}


def student(samples: np.ndarray, rng: np.random.Generator) -> Ends:
    """What assay uses."""
    found = [paired_interval(row) for row in samples]
    return np.array([i.low for i in found]), np.array([i.high for i in found])


def hall(samples: np.ndarray, rng: np.random.Generator) -> Ends:
    """Student's t widened to whatever Hall's skewness transformation (1992) adds at either end."""
    n = samples.shape[1]
    mean, sd, skew = samples.mean(1), samples.std(1, ddof=1), stats.skew(samples, axis=1, bias=False)
    skew = np.where(np.abs(skew) < 1e-6, 1e-6, skew)
    t = stats.t.ppf(0.975, n - 1)
    low, high = (mean - sd * 3 / skew * (np.cbrt(1 + skew * (q / np.sqrt(n) - skew / (6 * n))) - 1) for q in (t, -t))
    return np.minimum(low, mean - t * sd / np.sqrt(n)), np.maximum(high, mean + t * sd / np.sqrt(n))


def bootstrap(method: str, confidence: float = 0.95) -> Callable[[np.ndarray, np.random.Generator], Ends]:
    def ends(samples: np.ndarray, rng: np.random.Generator) -> Ends:
        found = stats.bootstrap(
            (samples,), np.mean, axis=-1, n_resamples=999, batch=50, confidence_level=confidence, method=method, rng=rng
        ).confidence_interval
        return found.low, found.high

    return ends


METHODS = {"t": student, "t + Hall": hall, "percentile": bootstrap("percentile"), "BCa": bootstrap("BCa")}


def table(title: str, header: list[str], rows: list[list[str]]) -> None:
    cells = [header, *rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |" for row in cells]
    print(
        f"\n{title}\n", lines[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *lines[1:], sep="\n", flush=True
    )


def coverage(trials: int, rng: np.random.Generator) -> None:
    """Coverage, and Gneiting and Raftery's interval score: width plus 40 times what a miss missed by."""
    held, scores = [], []
    for name, (draw, truth) in DIFFERENCES.items():
        for n in (3, 5, 8, 12, 20, 50):
            samples = draw(rng, (trials, n))
            held.append([name, str(n)])
            scores.append([name, str(n)])
            for method in METHODS.values():
                low, high = method(samples, rng)
                held[-1].append(f"{np.mean((low <= truth) & (truth <= high)):.3f}")
                miss = np.maximum(low - truth, 0) + np.maximum(truth - high, 0)
                scores[-1].append(f"{np.mean(high - low + 40 * miss):.2f}")
    table(f"Coverage of 95% intervals, {trials} samples a row", ["differences", "n", *METHODS], held)
    table("Interval score of the same (less is better)", ["differences", "n", *METHODS], scores)


def outcomes(rng: np.random.Generator, arms: int, seeds: int, examples: int, gain: float, varied: float) -> np.ndarray:
    """Correct or not, float32 [arms, seeds, examples]: examples differ in difficulty, runs in luck; all arms but the
    first gain `gain` on the logit, more on some examples than on others as `varied` says."""
    difficulty = rng.normal(1.5, 1.5, examples)
    gains = np.zeros((arms, 1, examples))
    gains[1:] = rng.normal(gain, varied, (arms - 1, 1, examples))
    luck = rng.normal(0, 0.15, (arms, seeds, 1))
    return (rng.random((arms, seeds, examples)) < expit(difficulty + gains + luck)).astype(np.float32)


def accuracy(gain: float, varied: float) -> float:
    """The expectation of `outcomes` over runs and examples."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    sd = np.sqrt(1.5**2 + varied**2 + 0.15**2)
    return float(weights @ expit(1.5 + gain + sd * nodes) / weights.sum())


def losses(rng: np.random.Generator, seeds: int, examples: int, share: float) -> np.ndarray:
    """Differences of losses [seeds, examples] without effect, whose mean owes `share` of its variance to the choice
    of examples and half of the rest to each of the seeds and of chance in a single loss."""
    rest = (1 - share) / 2
    return (
        rng.normal(0, np.sqrt(share * examples), examples)
        + rng.normal(0, np.sqrt(rest * seeds), (seeds, 1))
        + rng.normal(0, np.sqrt(rest * seeds * examples), (seeds, examples))
    )


def satterthwaite(mean: float, spread: Spread) -> tuple[float, float]:
    """The usual t interval of a sum of variances, for comparison."""
    variance = spread.seeds**2 + spread.test**2
    if variance == 0:
        return mean, mean
    df = variance**2 / (spread.seeds**4 / (spread.pairs - 1) + spread.test**4 / (spread.examples - 1))
    margin = float(stats.t.ppf(0.975, df)) * np.sqrt(variance)
    return mean - margin, mean + margin


def test_sets(trials: int, rng: np.random.Generator) -> None:
    def correct(examples: int) -> Callable[[int], np.ndarray]:
        return lambda n: np.diff(outcomes(rng, 2, n, examples, 0.3, 1.0), axis=0)[0]

    def lost(share: float) -> Callable[[int], np.ndarray]:
        return lambda n: losses(rng, n, 100, share)

    gain = accuracy(0.3, 1.0) - accuracy(0.0, 0.0)
    cases = [(f"accuracy, {m} examples", correct(m), gain) for m in (200, 1000)]
    cases += [(f"losses, test set {share:.0%} of variance", lost(share), 0.0) for share in (0.2, 0.5, 0.8)]
    rows = []
    for name, draw, truth in cases:
        for n in (2, 3, 5, 10):
            held = np.zeros((trials, 3))
            for i in range(trials):
                drawn = draw(n)
                d = drawn.mean(axis=1, dtype=np.float64)
                narrow, wide = paired_interval(d), paired_interval(d, outcomes=drawn)
                usual = satterthwaite(float(d.mean()), spread_of(d, outcomes=drawn))
                for k, (low, high) in enumerate(((narrow.low, narrow.high), (wide.low, wide.high), usual)):
                    held[i, k] = low <= truth <= high
            rows.append([name, str(n), *(f"{share:.3f}" for share in held.mean(axis=0))])
    header = ["differences", "n", "seeds only", "with the test set's error", "Satterthwaite"]
    table(f"Coverage of the effect on new seeds and new examples, 95%, {trials} trials a row", header, rows)


def overlapping_splits(trials: int, rng: np.random.Generator) -> None:
    rows = []
    for n in (3, 5, 10):
        for share in (0.1, 0.2, 0.5):  # of the data tested on, which is the correlation that Nadeau and Bengio assume
            common = rng.normal(0, np.sqrt(share), (trials, 1))
            samples = common + rng.normal(0, np.sqrt(1 - share), (trials, n))
            cells = []
            for overlap in (None, share / (1 - share)):
                found = [paired_interval(row, overlap=overlap) for row in samples]
                cells.append(f"{np.mean([i.low <= 0 <= i.high for i in found]):.3f}")
            rows.append([str(n), f"{share:.0%}", *cells])
    header = ["n", "tested on", "not corrected", "corrected"]
    table(f"Coverage with splits drawn anew from the same data, 95%, {trials} trials a row", header, rows)


def same_against_same(trials: int, rng: np.random.Generator) -> None:
    rows = []
    for against in (1, 3):
        for n in (3, 5, 10):
            differences = np.empty((trials, against, n))
            found = np.zeros((trials, 3), dtype=bool)
            for i in range(trials):
                arms = outcomes(rng, 1 + against, n, 500, 0.0, 0.0)
                gained = arms[1:] - arms[0]
                differences[i] = gained.mean(axis=2, dtype=np.float64)
                plain = [Pairs(str(a), "baseline", d) for a, d in enumerate(differences[i])]
                wide = [Pairs(p.arm, p.baseline, p.differences, g) for p, g in zip(plain, gained, strict=True)]
                compared = compare_pairs(plain, smallest_effect=0.0)
                found[i, 0] = any(c.verdict == "supported" for c in compared)
                found[i, 1] = any(c.verdict == "supported" for c in compare_pairs(wide, smallest_effect=0.0))
                found[i, 2] = any(c.low > 0 or c.high < 0 for c in compared)
            low, _ = bootstrap("percentile", 1 - 0.05 / against)(differences, rng)
            shares = [*found.mean(axis=0), (low > 0).any(axis=1).mean()]
            rows.append([str(against), str(n), *(f"{share:.1%}" for share in shares)])
    header = ["arms", "n", "supported", "supported, test set's error", "zero excluded", "supported by percentiles"]
    table(f"A/A: the baseline against itself, smallest effect 0, {trials} trials a row", header, rows)


def power(trials: int, rng: np.random.Generator) -> None:
    rows = []
    for n in (3, 5, 10):
        for comparisons in (1, 3):
            for test in (0.0, 0.3):
                level = 1 - 0.05 / comparisons
                spread = Spread(n, 1 / np.sqrt(n), 1000 if test else 0, test)
                effect = smallest_detectable_effect(spread, confidence=level)
                samples = effect + rng.normal(size=(trials, n)) + rng.normal(0, test, (trials, 1))
                margins = [
                    Spread(n, sd / np.sqrt(n), spread.examples, test).margin(level) for sd in samples.std(1, ddof=1)
                ]
                found = np.mean(samples.mean(axis=1) > margins)
                rows.append([str(n), str(comparisons), f"{test:.1f}", f"{effect:.2f}", f"{found:.3f}"])
    header = ["n", "comparisons", "test set's error", "detectable effect / sd", "found"]
    table(f"Trials that find the smallest detectable effect: 80% wanted, {trials} a row", header, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the trials")
    part = 10 if parser.parse_args().quick else 1
    began = time.perf_counter()
    coverage(2500 // part, np.random.default_rng(0))
    test_sets(1500 // part, np.random.default_rng(1))
    overlapping_splits(3000 // part, np.random.default_rng(2))
    same_against_same(2000 // part, np.random.default_rng(3))
    power(10_000 // part, np.random.default_rng(4))
    print(f"\n{time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
