"""Intervals, p-values, power and verdicts against closed forms, brute force and simulated trials."""

import itertools
import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.special import expit

from assay.errors import AssayError
from assay.trials.intervals import (
    Spread,
    paired_interval,
    series_band,
    smallest_detectable_effect,
    spread_of,
)
from assay.trials.result import Comparison
from assay.trials.statistics import Pairs, compare_pairs, holm, sign_flip_p, smallest_p, verdict

INF = math.inf
values = st.floats(-1e3, 1e3).map(lambda x: round(x, 3))
samples = st.lists(values, min_size=2, max_size=9)


def t_interval(d, confidence):
    found = stats.ttest_1samp(d, 0.0).confidence_interval(confidence)
    return found.low, found.high


def crossed(rng, n, m, seeds, examples, rest):
    """Differences of seeds on examples, true effect 0, from three standard deviations."""
    return rng.normal(0, seeds, (n, 1)) + rng.normal(0, examples, m) + rng.normal(0, rest, (n, m))


def same_arm(rng, arms, n, examples=200):
    """Correct or not, float32 [arms, n, examples]: one arm run several times on one test set."""
    difficulty = rng.normal(1.5, 1.5, examples)
    luck = rng.normal(0, 0.15, (arms, n, 1))
    return (rng.random((arms, n, examples)) < expit(difficulty + luck)).astype(np.float32)


# Intervals ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 3, 5, 10, 30])
@pytest.mark.parametrize("confidence", [0.9, 0.95, 1 - 0.05 / 3])
def test_interval_is_scipys_t_interval(n, confidence):
    d = np.random.default_rng(n).normal(0.3, 2.0, n)
    found = paired_interval(d, confidence=confidence)
    assert (found.low, found.high) == pytest.approx(t_interval(d, confidence), rel=1e-9)
    assert found.method == f"Student's t, {n} pairs"


@given(samples, values, st.sampled_from([0.01, 3.0, 100.0]))
@settings(max_examples=60, deadline=None)
def test_interval_moves_and_scales_with_the_differences(d, shift, scale):
    plain = paired_interval(d)
    moved = paired_interval([shift + scale * x for x in d])
    tolerance = 1e-7 * (1 + abs(shift) + scale * max(map(abs, d)) * 13)
    assert moved.low == pytest.approx(shift + scale * plain.low, abs=tolerance)
    assert moved.high == pytest.approx(shift + scale * plain.high, abs=tolerance)
    swapped = paired_interval([-x for x in d])
    assert (swapped.low, swapped.high) == pytest.approx((-plain.high, -plain.low))


def test_coverage_holds_at_few_seeds_where_a_bootstrap_does_not():
    rng = np.random.default_rng(0)
    for n in (3, 5, 8):
        for draw in (rng.standard_normal, lambda size: rng.standard_t(3, size)):
            d = draw((1000, n))
            held = sum(i.low <= 0 <= i.high for i in map(paired_interval, d))
            assert stats.binomtest(held, 1000, 0.95, alternative="less").pvalue > 0.01
            ends = stats.bootstrap((d,), np.mean, axis=-1, n_resamples=200, method="percentile", rng=rng)
            low, high = ends.confidence_interval
            bootstrapped = int(((low <= 0) & (high >= 0)).sum())
            assert stats.binomtest(bootstrapped, 1000, 0.95, alternative="less").pvalue < 1e-6


def test_equal_differences_give_an_interval_without_width():
    found = paired_interval([0.1, 0.1, 0.1])
    assert (found.low, found.high) == (0.1, 0.1)


def test_one_pair_gives_an_infinite_interval_and_says_so():
    found = paired_interval([0.3])
    assert (found.low, found.high, found.method) == (-INF, INF, "one pair gives no interval")


@pytest.mark.parametrize("confidence", [0.8, 0.95])
@pytest.mark.parametrize("infinite", range(1, 6))
@pytest.mark.parametrize("sign", [-1, 1])
def test_infinite_differences_are_the_limit_of_large_ones(infinite, sign, confidence):
    finite = [0.3, -0.2, 0.1, 0.25, -0.4][infinite:]
    low, high = t_interval([sign * 1e9] * infinite + finite, confidence) if finite else (sign * 1e9,) * 2
    found = paired_interval([sign * INF] * infinite + finite, confidence=confidence)
    assert (found.low, found.high) == (math.copysign(INF, low), math.copysign(INF, high))


def test_infinities_of_both_signs_give_no_bound_and_no_nan():
    found = paired_interval([INF, -INF, 0.2])
    assert (found.low, found.high) == (-INF, INF)


# The test set's own error ---------------------------------------------------------------------------------------------


def test_variance_of_examples_is_unbiased():
    rng = np.random.default_rng(3)
    tables = (crossed(rng, 4, 30, 0.1, 1.0, 1.5) for _ in range(2000))
    squared = [spread_of(table.mean(axis=1), outcomes=table).test ** 2 for table in tables]
    assert np.mean(squared) == pytest.approx(1.0 / 30, abs=4 * np.std(squared) / math.sqrt(2000))


def test_spread_of_a_test_set_agrees_with_anova_by_hand():
    table = np.array([[1.0, 0.0, 2.0], [3.0, -1.0, 5.0]])
    n, m = table.shape
    grand = sum(table[s, e] for s in range(n) for e in range(m)) / (n * m)
    by_example = [sum(table[s, e] for s in range(n)) / n for e in range(m)]
    by_seed = [sum(table[s, e] for e in range(m)) / m for s in range(n)]
    ms_examples = n * sum((x - grand) ** 2 for x in by_example) / (m - 1)
    rest = sum((table[s, e] - by_seed[s] - by_example[e] + grand) ** 2 for s in range(n) for e in range(m))
    expected = (ms_examples - rest / ((n - 1) * (m - 1))) / (n * m)
    assert spread_of(table.mean(axis=1), outcomes=table).test ** 2 == pytest.approx(expected)


@pytest.mark.parametrize("n", [2, 3, 5, 10])
def test_new_examples_are_covered_only_when_the_test_set_is_counted(n):
    rng = np.random.default_rng(n)
    held = np.zeros(2, dtype=int)
    for _ in range(1000):
        table = crossed(rng, n, 100, 0.05, 1.0, 0.5)
        d = table.mean(axis=1)
        for i, outcomes in enumerate((None, table)):
            found = paired_interval(d, outcomes=outcomes)
            held[i] += found.low <= 0 <= found.high
    assert stats.binomtest(int(held[1]), 1000, 0.95, alternative="less").pvalue > 0.01
    assert stats.binomtest(int(held[0]), 1000, 0.95, alternative="less").pvalue < 1e-3


@given(st.integers(2, 5), st.integers(2, 20), st.integers(0, 10_000))
@settings(max_examples=50, deadline=None)
def test_counting_the_test_set_never_narrows_the_interval(n, m, seed):
    table = crossed(np.random.default_rng(seed), n, m, 0.3, 0.3, 1.0)
    d = table.mean(axis=1)
    wide, narrow = paired_interval(d, outcomes=table), paired_interval(d)
    assert wide.low <= narrow.low + 1e-12
    assert wide.high >= narrow.high - 1e-12


def test_outcomes_that_are_the_same_on_all_examples_add_nothing():
    d = np.array([0.25, 0.5, -0.125])
    wide, narrow = paired_interval(d, outcomes=np.repeat(d[:, None], 8, axis=1)), paired_interval(d)
    assert (wide.low, wide.high) == pytest.approx((narrow.low, narrow.high))


def test_one_shared_example_gives_no_interval():
    found = paired_interval([0.25, 0.5], outcomes=np.array([[0.25], [0.5]]))
    assert (found.low, found.high, found.method) == (-INF, INF, "one test example gives no interval")


def test_outcomes_turned_the_wrong_way_are_refused():
    table = np.random.default_rng(0).normal(0.2, 1.0, (3, 50)).astype(np.float32)
    with pytest.raises(ValueError, match="oriented alike"):
        paired_interval(-table.mean(axis=1, dtype=np.float64), outcomes=table)


# Overlapping splits ---------------------------------------------------------------------------------------------------


def test_overlap_widens_by_nadeau_and_bengios_factor():
    d = np.random.default_rng(0).normal(size=5)
    low, high = t_interval(d, 0.95)
    found = paired_interval(d, overlap=0.25)
    assert found.high - found.low == pytest.approx((high - low) * math.sqrt((1 / 5 + 0.25) / (1 / 5)))


def test_overlap_restores_coverage_for_correlated_splits():
    rng = np.random.default_rng(0)
    d = rng.normal(0, math.sqrt(0.2), (1000, 1)) + rng.normal(0, math.sqrt(0.8), (1000, 5))
    held = [sum(i.low <= 0 <= i.high for i in (paired_interval(x, overlap=o) for x in d)) for o in (None, 0.2 / 0.8)]
    assert stats.binomtest(held[1], 1000, 0.95).pvalue > 0.01
    assert stats.binomtest(held[0], 1000, 0.95, alternative="less").pvalue < 1e-6


# p-values -------------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=8), st.sampled_from([1.0, 0.1, 1e-6]))
@settings(max_examples=80, deadline=None)
def test_sign_flip_p_is_the_share_of_all_flips(whole, unit):
    # whole numbers, so that ties are exact here
    extreme = [
        abs(sum(sign * x for sign, x in zip(signs, whole, strict=True))) >= abs(sum(whole))
        for signs in itertools.product((1, -1), repeat=len(whole))
    ]
    expected = sum(extreme) / len(extreme)
    assert sign_flip_p([unit * x for x in whole]) == expected


def test_sign_flip_p_agrees_with_scipy_without_ties():
    d = np.random.default_rng(0).normal(0.5, 1.0, 9)
    found = stats.permutation_test((d,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert sign_flip_p(d) == pytest.approx(found.pvalue)


def test_drawn_flips_approach_the_binomial_that_equal_sizes_give():
    d = [1.0] * 13 + [-1.0] * 5
    exact = 2 * stats.binom.sf(12, 18, 0.5)
    assert sign_flip_p(d) == pytest.approx(exact, abs=4 * math.sqrt(exact / 49_999))
    assert sign_flip_p(d, seed=1) == sign_flip_p(d, seed=1) != sign_flip_p(d, seed=2)


def test_drawn_flips_never_give_zero():
    assert sign_flip_p(np.ones(40), resamples=99) == 1 / 100


@given(samples)
@settings(max_examples=40, deadline=None)
def test_sign_flip_p_does_not_know_which_arm_is_which(d):
    assert sign_flip_p(d) == sign_flip_p([-x for x in d]) >= smallest_p(len(d))


@pytest.mark.parametrize("n", [1, 3, 5, 12])
def test_smallest_p_is_reached_by_differences_of_one_sign(n):
    assert sign_flip_p(np.arange(1.0, n + 1)) == smallest_p(n) == 2 / 2**n


def test_an_infinite_difference_outweighs_the_finite_ones():
    assert sign_flip_p([-INF, 1.0, 2.0, 3.0]) == sign_flip_p([-100.0, 1.0, 2.0, 3.0])
    assert sign_flip_p([-INF, -INF, 2.0]) == sign_flip_p([-100.0, -100.0, 2.0])


def test_holm_on_a_worked_example():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=8))
def test_holm_keeps_the_order_and_lies_between_p_and_bonferroni(ps):
    found = holm(ps)
    assert all(p <= q <= min(1.0, len(ps) * p) + 1e-12 for p, q in zip(ps, found, strict=True))
    for i, j in itertools.combinations(range(len(ps)), 2):
        assert (found[i] <= found[j]) if ps[i] <= ps[j] else (found[i] >= found[j])


# Power ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [3, 5, 10, 40])
@pytest.mark.parametrize("power", [0.5, 0.8, 0.95])
def test_smallest_detectable_effect_is_the_noncentral_ts(n, power):
    level = 1 - 0.05 / 3
    effect = smallest_detectable_effect(Spread(n, 0.2), confidence=level, power=power)
    found = stats.nct.sf(stats.t.ppf((1 + level) / 2, n - 1), n - 1, effect / 0.2)
    assert found == pytest.approx(power, abs=1e-4)


@pytest.mark.parametrize("n", [3, 8])
@pytest.mark.parametrize("test", [0.0, 0.4])
def test_trials_find_the_smallest_detectable_effect_with_their_power(n, test):
    rng = np.random.default_rng(n)
    planned = Spread(n, 1 / math.sqrt(n), 500 if test else 0, test)
    effect = smallest_detectable_effect(planned, confidence=0.95, power=0.8)
    d = effect + rng.normal(size=(2000, n)) + rng.normal(0, test, (2000, 1))
    found = sum(x.mean() > Spread(n, x.std(ddof=1) / math.sqrt(n), planned.examples, test).margin(0.95) for x in d)
    assert stats.binomtest(found, 2000, 0.8).pvalue > 0.01


def test_nothing_is_detectable_with_one_pair_and_anything_without_noise():
    assert smallest_detectable_effect(spread_of([0.1])) == INF
    assert smallest_detectable_effect(spread_of([0.1, -INF, 0.2])) == INF
    assert smallest_detectable_effect(spread_of([0.1, 0.1])) == 0.0


# Verdicts and comparisons ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high", "smallest", "expected"),
    [
        (0.02, 0.05, 0.01, "supported"),
        (0.01, 0.05, 0.01, "inconclusive"),
        (-0.05, 0.005, 0.01, "refuted"),
        (0.001, 0.005, 0.01, "refuted"),
        (-0.05, 0.01, 0.01, "inconclusive"),
        (-INF, INF, 0.0, "inconclusive"),
        (-INF, -INF, 0.0, "refuted"),
        (0.0, 0.0, 0.0, "inconclusive"),
    ],
)
def test_verdict_is_where_the_interval_lies(low, high, smallest, expected):
    assert verdict(low, high, smallest) == expected


def test_intervals_are_simultaneous_and_p_is_holms():
    rng = np.random.default_rng(0)
    pairs = [Pairs(name, "base", rng.normal(0.5, 1.0, 7)) for name in "abc"]
    found = compare_pairs(pairs, smallest_effect=0.1, confidence=0.9)
    for pair, comparison in zip(pairs, found, strict=True):
        assert (comparison.low, comparison.high) == pytest.approx(t_interval(pair.differences, 1 - 0.1 / 3))
        assert comparison.estimate == pytest.approx(np.mean(pair.differences))
        assert comparison.p == sign_flip_p(pair.differences)
        assert comparison.confidence == 0.9
    assert [c.p_holm for c in found] == holm([c.p for c in found])
    assert [c.arm for c in found] == ["a", "b", "c"]
    assert isinstance(found[0], Comparison)


def test_detectable_effect_counts_from_zero_not_from_the_margin():
    d = [0.1, 0.3, 0.2]
    near, far = (compare_pairs([Pairs("a", "b", d)], smallest_effect=s)[0] for s in (0.0, 0.5))
    assert far.smallest_detectable == pytest.approx(near.smallest_detectable + 0.5)


@pytest.mark.parametrize(
    ("pair", "others", "note"),
    [
        (Pairs("a", "b", [0.1, 0.2, 0.3, 0.4, 0.5]), 0, "5 seeds cannot give p below 0.0625;"),
        (Pairs("a", "b", [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]), 1, "p below 0.0312, 0.0625 after correction;"),
        (Pairs("a", "b", [0.1, -0.9, 0.2], diverged=1), 0, "1 of 3 runs of a diverged and counts as the worst"),
        (Pairs("a", "b", [0.1, 0.9, 0.8], baseline_diverged=2), 0, "2 of 3 runs of b diverged and count as the worst"),
        (Pairs("a", "b", [0.5]), 0, "one seed gives neither an interval nor a p-value"),
        (Pairs("a", "b", [0.5, 0.5]), 0, "all seeds gave the same difference"),
        (Pairs("a", "b", [0.5, 0.6], overlap=0.2), 0, "p does not"),
        (Pairs("a", "b", [0.5, 1.0], np.array([[0.5, 0.5], [1.0, 1.0]])), 0, "p takes them as given"),
        (Pairs("a", "b", [0.5, 1.0], notes=["given"]), 0, "given"),
    ],
)  # fmt: skip
def test_notes_say_what_the_figures_do_not(pair, others, note):
    found = compare_pairs([pair] * (1 + others), smallest_effect=0.0)[0]
    assert any(note in n for n in found.notes)


def test_enough_seeds_need_no_notes():
    assert compare_pairs([Pairs("a", "b", np.linspace(0.1, 0.9, 8))], smallest_effect=0.0)[0].notes == []


@pytest.mark.parametrize(
    ("differences", "estimate", "expected"),
    [
        ([-INF] * 5, -INF, "refuted"),
        ([-INF, 0.1, 0.1], -INF, "inconclusive"),
        ([INF, -INF, 0.1, 0.3], 0.2, "inconclusive"),
    ],
)
def test_unbounded_worst_values_leave_no_nan(differences, estimate, expected):
    found = compare_pairs([Pairs("a", "b", differences)], smallest_effect=0.0)[0]
    assert (found.estimate, found.verdict) == (pytest.approx(estimate), expected)
    figures = (found.low, found.high, found.p, found.p_holm, found.smallest_detectable)
    assert not any(map(math.isnan, figures))


@pytest.mark.parametrize("n", [3, 5, 10])
@pytest.mark.parametrize(("against", "counted"), [(1, False), (1, True), (3, False)])
def test_an_arm_against_itself_is_rarely_supported(n, against, counted):
    rng = np.random.default_rng([n, against])
    trials, false, convicted = 400, 0, 0
    for _ in range(trials):
        runs = same_arm(rng, 1 + against, n)
        gained = runs[1:] - runs[0]
        differences = gained.mean(axis=2, dtype=np.float64)
        pairs = [Pairs("arm", "base", d, g if counted else None) for d, g in zip(differences, gained, strict=True)]
        false += any(c.verdict == "supported" for c in compare_pairs(pairs, smallest_effect=0.0))
        normal = differences.mean(axis=1) - 1.96 * differences.std(axis=1, ddof=1) / math.sqrt(n)
        convicted += bool((normal > 0).any())
    assert false / trials <= 0.05
    # the intervals promise half of that, as only one end of each can favour the arm
    assert stats.binomtest(false, trials, 0.025, alternative="greater").pvalue > 0.005
    if n == 3 or against == 3:  # the same trials convict a normal interval made for one arm at a time
        assert convicted / trials > 0.05


# Curves ---------------------------------------------------------------------------------------------------------------


def test_band_is_the_t_interval_of_the_runs_that_have_the_point():
    curves = np.array([[1.0, 2.0, np.nan, np.nan], [2.0, 4.0, 3.0, np.nan], [4.0, INF, 5.0, np.nan]])
    band = series_band(curves, confidence=0.9)
    for point, runs in enumerate(([1.0, 2.0, 4.0], [2.0, 4.0], [3.0, 5.0])):
        assert band.mean[point] == pytest.approx(np.mean(runs))
        assert (band.low[point], band.high[point]) == pytest.approx(t_interval(runs, 0.9))
    assert np.isnan([band.mean[3], band.low[3], band.high[3]]).all()


def test_band_of_one_run_is_its_curve_without_width():
    band = series_band(np.array([[1.0, 2.0]]))
    assert band.mean.tolist() == [1.0, 2.0]
    assert np.isnan([band.low, band.high]).all()


# Mistakes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: paired_interval([]), "one or more numbers"),
        (lambda: sign_flip_p([0.1, math.nan]), "must not be NaN"),
        (lambda: paired_interval([0.1, 0.2], overlap=-0.1), "overlap must be"),
        (lambda: paired_interval([0.0, 0.0], outcomes=np.zeros((2, 4)), overlap=0.1), "exclude each other"),
        (lambda: smallest_detectable_effect(Spread(5, 0.1), power=0.01), "power must be"),
    ],
)
def test_impossible_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_outcomes_of_other_seeds_are_refused():
    with pytest.raises((ValueError, TypeError), match=r"outcomes"):  # a TypeError where shapes are checked
        paired_interval([0.1, 0.2], outcomes=np.zeros((3, 4)))


@pytest.mark.parametrize(("smallest", "confidence"), [(-0.1, 0.95), (math.nan, 0.95), (0.0, 95.0), (0.0, 1.0)])
def test_a_users_impossible_question_is_an_assay_error(smallest, confidence):
    with pytest.raises(AssayError, match=r"smallest_effect|confidence"):
        compare_pairs([Pairs("a", "b", [0.1, 0.2])], smallest_effect=smallest, confidence=confidence)


def test_the_statistics_do_not_import_torch():
    check = "import sys, assay.trials.statistics; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check]).returncode == 0


def test_seeds_that_differ_by_the_same_number_of_examples_are_no_certainty():
    outcomes = np.zeros((2, 300))
    outcomes[0, 10], outcomes[1, 20] = 1.0, 1.0
    found = paired_interval([1 / 300, 1 / 300], outcomes=outcomes)
    by_examples = stats.t.interval(0.95, 299, 1 / 300, outcomes.mean(axis=0).std(ddof=1) / np.sqrt(300))
    assert (found.low, found.high) == pytest.approx(by_examples)
    assert found.low < 0 < 1 / 300 < found.high
