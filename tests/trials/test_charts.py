"""Where the report's charts put things, in per cent of the plot."""

import re
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from make_result import BITS, make_result

from assay.trials.charts import LETTERS, LINE, _course, _scale, _spread, curve_charts, interval_chart, series_charts


@settings(deadline=None)
@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20))
@example([5e-324])
@example([0.0, 1e-310])
def test_an_axis_holds_its_values_and_has_round_evenly_spaced_ticks(values: list[float]) -> None:
    scale = _scale(values, target=5, pad=0.05)
    assert all(0 <= scale.at(v) <= 100 for v in values)
    places = [at for at, _ in scale.ticks]
    gaps = [b - a for a, b in pairwise(places)]
    assert 2 <= len(places) <= 8
    assert max(gaps) - min(gaps) < 0.01
    assert len({label for _, label in scale.ticks}) == len(places)


def test_ticks_stand_at_their_labels() -> None:
    scale = _scale([0.0, 230.0], target=5, pad=0.0)
    assert [(round(230 * at / 100, 2), label) for at, label in scale.ticks] == [
        (0, "0"), (50, "50"), (100, "100"), (150, "150"), (200, "200"),
    ]  # fmt: skip


@settings(deadline=None)
@given(st.dictionaries(st.integers(0, 4), st.floats(0, 100), min_size=1), st.integers(1, 3 * LETTERS))
def test_labels_beside_the_plot_never_overlap_nor_leave_it(heights: dict[int, float], letters: int) -> None:
    names = ["x" * letters] * 5
    placed = _spread(heights, names)
    tall = LINE * -(-letters // LETTERS)
    assert sorted(key for key, _ in placed) == sorted(heights)
    if all(at is not None for _, at in placed):
        ats = [at for _, at in placed]
        assert all(b - a >= tall for a, b in pairwise(ats))
        assert ats[0] - tall / 2 >= -0.01
        assert ats[-1] + tall / 2 <= 100.01
        assert [heights[key] for key, _ in placed] == sorted(heights.values())
    else:
        assert len(heights) * (tall + 1) > 100


def test_a_paired_difference_stands_where_the_axis_says() -> None:
    result = make_result()
    (row,) = (chart := interval_chart(result)).rows
    (c,) = result.comparisons
    per_point = (chart.smallest - chart.zero) / 0.5  # the smallest effect is half a point
    for (at, _), difference in zip(row.dots, c.differences, strict=True):
        assert at == pytest.approx(chart.zero + per_point * 100 * difference, abs=0.01)
    assert row.low < row.estimate < row.high
    assert row.estimate == pytest.approx((row.low + row.high) / 2, abs=0.01)


def test_better_is_to_the_right_where_less_is_better() -> None:
    chart = interval_chart(make_result(metric=BITS, levels={"baseline": 1.9, "lamb": 1.8}, smallest_effect=0.01))
    assert chart.rows[0].estimate > chart.zero
    assert "to the right is lower, so better" in chart.title


def test_an_arm_with_diverged_runs_does_not_flatten_the_others() -> None:
    levels = {"baseline": 0.9, "cutmix": 0.9, "lamb": 0.9}
    calm, diverged = interval_chart(make_result(levels=levels, diverging={"lamb": [1]})).rows
    assert calm.high - calm.low > 30
    assert min(at for at, _ in diverged.dots) < 0
    assert diverged.low < 0


def test_a_curve_is_the_mean_over_seeds_and_ends_where_its_runs_do() -> None:
    result = make_result(diverging={"label-smoothing": [1]})
    whole, second = curve_charts(result)
    assert [panel.currency for panel in whole.panels] == ["steps", "epochs", "samples", "seconds", "flops"]
    steps = whole.panels[0].curves[1]
    assert len(steps.points) == 10
    assert steps.points[-1][0] == 100
    last = [run.curve[-1]["valid/accuracy"] for run in result.arms[1].runs if run.status == "finished"]
    assert f"{100 * sum(last) / 4:.2f}%" in steps.points[-1][2]
    ((at, _, words),) = steps.ended
    assert at == pytest.approx(100 * result.arms[1].runs[1].steps / 230, abs=0.01)
    assert "seed 1: diverged at step" in words
    assert len(second.panels[0].curves[0].points) == 5


def test_a_band_goes_there_and_back_and_is_left_out_for_one_seed() -> None:
    (band,) = {curve.band for curve in curve_charts(make_result())[0].panels[0].curves[:1]}
    assert len(re.findall("[ML]", band)) == 20
    assert all(curve.band == "" for curve in curve_charts(make_result(seeds=1))[0].panels[0].curves)


def test_an_arm_that_left_no_points_has_marks_only() -> None:
    result = make_result(diverging={"label-smoothing": [0, 1, 2, 3, 4]})
    for run in result.arms[1].runs:
        run.curve.clear()
    curve = curve_charts(result)[0].panels[0].curves[1]
    assert (curve.line, curve.band, curve.points) == ("", "", [])
    assert len(curve.ended) == 5


def test_runs_without_points_make_no_chart() -> None:
    result = make_result()
    for run in (run for arm in result.arms for run in arm.runs):
        run.curve.clear()
    assert curve_charts(result) == []


def test_what_was_traced_is_drawn_over_the_steps_of_the_arms_that_have_it() -> None:
    result = make_result()
    for run in result.arms[1].runs:
        run.series["batch size"] = [[0, 8.0], [115, 8.0 + 100 * (run.seed + 1)]]
    (chart,) = series_charts(result)
    assert [arm for arm, _ in chart.labels] == [1]
    (panel,) = chart.panels
    (curve,) = panel.curves
    ((at, height, words),) = curve.points
    assert words == f"{result.arms[1].name}: 308 at the end, after 230 steps at most"
    assert at == pytest.approx(100 * 229 / 230, abs=0.01)
    xs, ys = zip(*(map(float, pair.split()) for pair in re.split("[ML]", curve.line)[1:]), strict=True)
    assert (xs[0], xs[-1], ys[-1]) == (0, at, height)
    place = {label: 100 - y for y, label in chart.ticks}
    per_sample = (place["400"] - place["200"]) / 200
    assert 100 - height == pytest.approx(place["200"] + per_sample * 108, abs=0.1)
    assert sum(1 for y in ys if y == ys[0]) == sum(1 for x in xs if x < 50)
    assert curve.band


def test_a_course_is_held_from_where_it_was_traced_to_the_end_of_its_run() -> None:
    result = make_result(seeds=2)
    short, long = result.arms[0].runs
    short.steps, short.series = 10, {"a": [[2, 5.0]]}
    long.steps, long.series = 20, {"a": [[0, 1.0], [15, 7.0]]}
    at = np.array([0.0, 1, 2, 9, 10, 14, 15, 19])
    assert np.array_equal(_course(short, "a", at), [np.nan, np.nan, 5, 5] + [np.nan] * 4, equal_nan=True)
    assert np.array_equal(_course(long, "a", at), [1, 1, 1, 1, 1, 1, 7, 7])


def test_runs_that_traced_nothing_make_no_chart() -> None:
    assert series_charts(make_result()) == []
