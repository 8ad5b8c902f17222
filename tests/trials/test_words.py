"""The sentences of a trial: what they say for each verdict, metric and gap in the figures."""

import math
from dataclasses import replace

import pytest
from make_result import ACCURACY, BITS, make_result

from assay.engine import Metric
from assay.trials.quantities import count, decimals, duration, listed, memory, metric_value
from assay.trials.result import Comparison
from assay.trials.words import change_of, findings, interval, summary_lines

COMPARISON = Comparison(
    arm="label-smoothing",
    baseline="baseline",
    differences=[0.004, 0.0, 0.002, 0.0031, 0.0014],
    estimate=0.0021,
    low=-0.0030,
    high=0.0072,
    confidence=0.95,
    method="Student's t, 5 pairs",
    p=0.25,
    p_holm=0.5,
    smallest_detectable=0.0064,
    verdict="inconclusive",
)


def sentence(metric: Metric = ACCURACY, smallest_effect: float = 0.005, **changes: object) -> str:
    result = make_result(metric=metric, smallest_effect=smallest_effect)
    result.comparisons = [replace(COMPARISON, **changes)]
    return summary_lines(result)[1]


def test_an_inconclusive_trial_says_what_it_found_and_what_it_would_have_found() -> None:
    assert sentence() == (
        "label-smoothing, against baseline: INCONCLUSIVE. Test accuracy was 0.21 points higher "
        "(95% interval: 0.30 lower to 0.72 higher) over 5 seeds. "
        "An improvement of 0.5 points, the smallest that counts here, is neither shown nor excluded. "
        "A true effect of 0.64 points or more would have been found four times in five."
    )


def test_refuted_means_that_an_improvement_of_the_smallest_effect_is_excluded() -> None:
    text = sentence(verdict="refuted", low=-0.002, high=0.004)
    assert "REFUTED" in text
    assert "An improvement of more than 0.5 points, the smallest that counts here, is excluded." in text
    assert "harm" not in text


def test_harm_is_said_only_where_the_interval_lies_below_zero() -> None:
    text = sentence(verdict="refuted", estimate=-0.005, low=-0.008, high=-0.002)
    assert "0.50 points lower (95% interval: 0.80 to 0.20 lower)" in text
    assert "It did harm." in text


def test_supported_means_more_than_the_smallest_effect() -> None:
    text = sentence(verdict="supported", estimate=0.01, low=0.006, high=0.014)
    assert "1.00 points higher (95% interval: 0.60 to 1.40 higher)" in text
    assert "An improvement of more than 0.5 points, the smallest that counts here, is shown." in text


def test_one_point_is_singular() -> None:
    assert "An improvement of 1 point, the smallest" in sentence(smallest_effect=0.01)


def test_without_a_smallest_effect_none_is_named() -> None:
    for verdict in ("supported", "refuted", "inconclusive"):
        assert "smallest that counts" not in sentence(smallest_effect=0.0, verdict=verdict)


def test_a_better_arm_is_lower_where_less_is_better() -> None:
    text = sentence(BITS, smallest_effect=0.001, verdict="supported", estimate=0.02, low=0.01, high=0.03)
    assert "Test bits per byte was 0.020 bits/byte lower (95% interval: 0.010 to 0.030 lower)" in text


def test_the_control_at_equal_flops_is_worded_apart() -> None:
    first, second = findings(make_result(control="label-smoothing"))
    assert first.title == "label-smoothing, against baseline"
    assert second.title == "label-smoothing, against the baseline given the same FLOPs"


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (-math.inf, math.inf, "none can be given"),
        (math.nan, math.nan, "none can be given"),
        (-math.inf, 0.01, "no limit on the worse side, to 1.00 higher"),
        (0.01, math.inf, "1.00 higher, no limit on the better side"),
    ],
)
def test_an_end_that_is_not_finite_is_worded(low: float, high: float, words: str) -> None:
    assert interval(ACCURACY, replace(COMPARISON, low=low, high=high, estimate=0.005)) == words


@pytest.mark.parametrize(
    ("estimate", "words"),
    [
        (math.nan, "not to be compared"),
        (-math.inf, "worse without limit"),
        (math.inf, "better without limit"),
        (0.0, "unchanged"),
    ],
)
def test_an_estimate_without_a_size_is_worded(estimate: float, words: str) -> None:
    assert change_of(ACCURACY, replace(COMPARISON, estimate=estimate)) == words


def test_a_single_seed_says_that_nothing_could_have_been_found() -> None:
    text = "\n".join(summary_lines(make_result(seeds=1)))
    assert "from a single seed" in text
    assert "no effect of any size could have been found" in text
    assert not {"inf", "nan"} & set(text.replace("(", " ").replace(",", " ").split())


def test_a_note_that_every_comparison_bears_is_said_once() -> None:
    lines = summary_lines(make_result(levels={"baseline": 0.9, "cutmix": 0.9, "lamb": 0.9}, diverging={"lamb": [2]}))
    assert sum("5 seeds cannot give p below 0.0625" in line for line in lines) == 1
    assert sum("1 of 5 runs of lamb diverged" in line for line in lines) == 1


def test_runs_from_different_machines_are_pointed_out() -> None:
    result = make_result()
    assert not any("different machines" in line for line in summary_lines(result))
    result.arms[1].runs[0].environment["device"] = "another processor"
    assert any("different machines" in line for line in summary_lines(result))


def test_quantities_carry_their_units() -> None:
    assert [metric_value(ACCURACY, 0.91234), metric_value(BITS, 1.23456)] == ["91.23%", "1.235 bits/byte"]
    assert [duration(s) for s in (0.5234, 12.34, 99.97, 200.0, 3599.6, 7500.0)] == [
        "0.523 s", "12.3 s", "1 min 40 s", "3 min 20 s", "1 h 0 min", "2 h 5 min",
    ]  # fmt: skip
    assert [memory(b) for b in (2.0**9, 2.0**29, 3 * 2.0**29)] == ["512 B", "512 MiB", "1.5 GiB"]
    assert [count(v) for v in (0.0, 0.5, 999.6, 12345.0, 1.234e12)] == ["0", "0.5", "1k", "12.3k", "1.23T"]
    assert [listed("a"), listed("ab"), listed("abc")] == ["a", "a and b", "a, b and c"]


def test_decimals_show_two_digits_of_the_smallest_size() -> None:
    assert [decimals([x]) for x in (0.51, 5.1, 51.0, 0.051, 0.0, math.inf)] == [2, 1, 0, 3, 2, 2]
    assert decimals([12.0, 0.3]) == 2
