"""The geometry of the report's charts.

Positions are per cent of a plot's width (from the left) and height (from the top), so that one drawing fits a phone and
a desk: the template stretches the shapes and sets the text beside them at its own size.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from assay.analysis.drawing import round_ticks
from assay.engine import Record
from assay.trials.intervals import Band, series_band
from assay.trials.quantities import count, difference_scale, difference_unit, metric_value
from assay.trials.result import Comparison, TrialResult
from assay.trials.words import metric_name

CURRENCIES = {
    "steps": "steps",
    "epochs": "epochs",
    "samples": "samples",
    "seconds": "seconds of training",
    "flops": "FLOPs",
}
PLACES = 200  # at which the course of a figure is drawn
LINE, LETTERS = 5.5, 19  # a line of a label: per cent of the plot's height, letters that fit
TINY = 1e-300  # a span below which an axis has no room for ticks: floats this small have lost their digits


@dataclass(frozen=True)
class Scale:
    """A linear axis: `ticks` are (position in per cent, label)."""

    low: float
    high: float
    ticks: list[tuple[float, str]]

    def at(self, value: float) -> float:
        """Position of `value`, at most a plot's length outside the plot."""
        share = (value - self.low) / (self.high - self.low)
        return round(100 * min(max(share, -1.0), 2.0), 3)


@dataclass(frozen=True)
class IntervalRow:
    """One comparison: positions along the axis, each dot with its seed's difference in words."""

    comparison: Comparison
    low: float
    high: float
    estimate: float
    dots: list[tuple[float, str]]


@dataclass(frozen=True)
class IntervalChart:
    """Paired differences, one row a comparison."""

    rows: list[IntervalRow]
    ticks: list[tuple[float, str]]
    zero: float
    smallest: float
    title: str


@dataclass(frozen=True)
class Curve:
    """One arm: SVG paths of its mean and band, its points in words, and where its diverged runs ended."""

    arm: int
    line: str
    band: str
    points: list[tuple[float, float, str]]
    ended: list[tuple[float, float, str]]


@dataclass(frozen=True)
class CurvePanel:
    """The curves of all arms against one currency."""

    currency: str
    title: str
    ticks: list[tuple[float, str]]
    curves: list[Curve]


@dataclass(frozen=True)
class CurveChart:
    """Learning curves: a panel a currency over one y axis.

    Attributes:
        labels: (arm, height of its label), from the top; no height where there are too many to stand beside the plot.
    """

    view: str
    panels: list[CurvePanel]
    ticks: list[tuple[float, str]]
    labels: list[tuple[int, float | None]]
    title: str


def interval_chart(result: TrialResult) -> IntervalChart:
    """Rows with diverged runs do not set the axis, unless there are no others: they would flatten the rest."""
    scale_by = difference_scale(result.metric)
    diverged = {arm.name for arm in result.arms if any(run.status == "diverged" for run in arm.runs)}
    calm = [c for c in result.comparisons if not {c.arm, c.baseline} & diverged] or result.comparisons
    extent = [0.0, result.smallest_effect]
    extent += [x for c in calm for x in (*c.differences, c.low, c.high) if math.isfinite(x)]
    scale = _scale([scale_by * x for x in extent], target=5, pad=0.06)

    def at(difference: float) -> float:
        return min(max(scale.at(scale_by * difference), -5.0), 105.0)  # far enough out not to be seen

    unit = f" {difference_unit(result.metric)}".rstrip()
    rows = []
    for c in result.comparisons:
        seeds = zip(result.seeds, c.differences, strict=True)
        dots = [(at(d), f"seed {seed}: {scale_by * d:+.3g}{unit}") for seed, d in seeds]
        rows.append(IntervalRow(c, at(c.low), at(c.high), at(c.estimate), dots))
    better = "higher" if result.metric.goal == "max" else "lower"
    title = f"test {metric_name(result.metric)}, difference in{unit or ' it'}; to the right is {better}, so better"
    return IntervalChart(rows, scale.ticks, at(0.0), at(result.smallest_effect), title)


def curve_charts(result: TrialResult) -> list[CurveChart]:
    """The metric on the validation split along the runs, from their start and from their middle, where arms part.

    Empty where no run has a point with it.
    """
    if not any(_points(result, run) for arm in result.arms for run in arm.runs):
        return []
    longest = max(len(run.curve) for arm in result.arms for run in arm.runs)
    charts = [_curve_chart(result, "whole run", 0)]
    return charts + ([_curve_chart(result, "second half", longest // 2)] if longest >= 4 else [])


def series_charts(result: TrialResult) -> list[CurveChart]:
    """The figures that methods traced along the runs, each over the steps of the arms that have it."""
    names = dict.fromkeys(name for arm in result.arms for run in arm.runs for name in run.series)
    return [_series_chart(result, name) for name in names]


def _series_chart(result: TrialResult, name: str) -> CurveChart:
    arms = [i for i, arm in enumerate(result.arms) if any(run.series.get(name) for run in arm.runs)]
    runs = {i: [run for run in result.arms[i].runs if run.series.get(name)] for i in arms}
    heights = _scale([v for i in arms for run in runs[i] for _, v in run.series[name]], target=5, pad=0.04)
    widths = _scale([0.0, *(float(run.steps) for i in arms for run in runs[i])], target=5, pad=0.0)
    curves, ends = [], {}
    for i in arms:
        longest = max(run.steps for run in runs[i])
        at = np.unique(np.linspace(0, max(longest - 1, 0), PLACES).round())
        band = series_band(np.stack([_course(run, name, at) for run in runs[i]]), confidence=result.confidence)
        line, sides = _outline(at, band, widths, lambda value: round(100 - heights.at(value), 3))
        last = [run.series[name][-1][1] for run in runs[i]]
        mean = count(sum(last) / len(last))
        words = f"{result.arms[i].name}: {mean} at the end, after {count(longest)} steps at most"
        curves.append(Curve(i, _path(line), _path(sides), [(*line[-1], words)] if line else [], []))
        ends[i] = line[-1][1] if line else 50.0
    panel = CurvePanel("steps", CURRENCIES["steps"], widths.ticks, curves)
    ticks = [(100 - at, label) for at, label in heights.ticks]
    return CurveChart(name, [panel], ticks, _spread(ends, [arm.name for arm in result.arms]), name)


def _course(run: Record, name: str, at: np.ndarray) -> np.ndarray:
    """The figure's value at steps `at`, NaN before it was first traced and after the run's end."""
    steps, values = np.array(run.series[name]).T
    held = np.searchsorted(steps, at, side="right") - 1
    return np.where((held >= 0) & (at < run.steps), values[held], np.nan)


def _points(result: TrialResult, run: Record) -> list[dict[str, float]]:
    return [point for point in run.curve if f"valid/{result.metric.name}" in point]


def _curve_chart(result: TrialResult, view: str, first: int) -> CurveChart:
    metric, percent = result.metric, difference_scale(result.metric)
    points = [point for arm in result.arms for run in arm.runs for point in _points(result, run)[first:]]
    heights = _scale([percent * point[f"valid/{metric.name}"] for point in points], target=5, pad=0.04)
    panels = []
    for currency, title in CURRENCIES.items():
        spent = [point[currency] for point in points]
        if max(spent) > 0:  # a task without epochs counts none
            widths = _scale(spent if first else [0.0, *spent], target=5, pad=0.0)
            curves = [_curve(result, i, currency, first, widths, heights) for i in range(len(result.arms))]
            panels.append(CurvePanel(currency, title, widths.ticks, curves))
    ends = {curve.arm: curve.points[-1][1] for curve in panels[0].curves if curve.points}
    ticks = [(100 - at, label) for at, label in heights.ticks]
    title = f"validation {metric_name(metric)}{f', {metric.unit}' if metric.unit else ''}"
    return CurveChart(view, panels, ticks, _spread(ends, [arm.name for arm in result.arms]), title)


def _curve(result: TrialResult, number: int, currency: str, first: int, widths: Scale, heights: Scale) -> Curve:
    arm, metric, percent = result.arms[number], result.metric, difference_scale(result.metric)
    key = f"valid/{metric.name}"
    runs = [_points(result, run)[first:] for run in arm.runs]
    spent = series_band(_table(runs, currency)).mean
    band = series_band(_table(runs, key), confidence=result.confidence)

    def height(value: float) -> float:
        return round(100 - heights.at(percent * value), 3)

    line, sides = _outline(spent, band, widths, height)
    points = [
        (*place, f"{arm.name}: {metric_value(metric, mean)} after {count(x)} {CURRENCIES[currency]}")
        for place, mean, x in zip(line, band.mean.tolist(), spent.tolist(), strict=True)
    ]
    ended = []
    for run in arm.runs:
        at = widths.at(float(getattr(run, currency)))
        if run.status == "diverged" and at >= 0:
            last = [point[key] for point in _points(result, run)][-1:] or [metric.worst]
            words = f"{arm.name}, seed {run.seed}: diverged at step {run.diverged_at}"
            ended.append((min(at, 100.0), min(max(height(last[0]), 0.0), 100.0), words))
    return Curve(number, _path(line), _path(sides), points, ended)


def _outline(
    x: np.ndarray, band: Band, widths: Scale, height: Callable[[float], float]
) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    """The places of a mean curve where there is one, and those around its band."""
    line, upper, lower = [], [], []
    for x_i, mean, low, high in np.stack([x, band.mean, band.low, band.high], axis=1).tolist():
        if math.isfinite(mean):
            line.append((widths.at(x_i), height(mean)))
        if math.isfinite(low):
            upper.append((widths.at(x_i), height(high)))
            lower.append((widths.at(x_i), height(low)))
    return line, upper + lower[::-1]


def _table(runs: Sequence[Sequence[dict[str, float]]], key: str) -> np.ndarray:
    """[runs, points], NaN where a run ended before."""
    table = np.full((len(runs), max(len(points) for points in runs)), np.nan)
    for row, points in zip(table, runs, strict=True):
        row[: len(points)] = [point[key] for point in points]
    return table


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:g} {y:g}" for x, y in points) if points else ""


def _scale(values: Sequence[float], *, target: int, pad: float) -> Scale:
    """An axis over `values` with about `target` round ticks."""
    low, high = min(values), max(values)
    if high - low < TINY:
        half = (abs(low) if abs(low) > TINY else 1.0) / 2
        low, high = low - half, high + half
    room = pad * (high - low)
    low, high = low - room, high + room
    scale = Scale(low, high, [])
    for tick in round_ticks(low, high, target):
        label = f"{tick:.6g}" if high < 1e4 else count(tick)
        scale.ticks.append((scale.at(tick), label.replace("-", "\N{MINUS SIGN}")))
    return scale


def _spread(heights: dict[int, float], names: Sequence[str]) -> list[tuple[int, float | None]]:
    """Labels at `heights`, moved just so far that none overlaps another or leaves the plot."""
    order = sorted(heights, key=lambda key: heights[key])
    room = {key: LINE * math.ceil(len(names[key]) / LETTERS) + 1 for key in order}
    if sum(room.values()) > 100:
        return [(key, None) for key in order]
    placed: dict[int, float] = {}
    top = 0.0
    for key in order:
        placed[key] = max(heights[key], top + room[key] / 2)
        top = placed[key] + room[key] / 2
    bottom = 100.0
    for key in reversed(order):
        placed[key] = round(min(placed[key], bottom - room[key] / 2), 3)
        bottom = placed[key] - room[key] / 2
    return list(placed.items())
