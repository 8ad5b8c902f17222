"""The report of a trial: one HTML file that needs no network and runs no script, and the same as JSON and CSV."""

import csv
import io
import json
import math
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from assay.engine import Record
from assay.errors import AssayError
from assay.trials import charts, words
from assay.trials.files import NON_FINITE, json_text, write_whole
from assay.trials.quantities import budget, count, duration, listed, memory, metric_value
from assay.trials.result import ArmResult, TrialResult

if TYPE_CHECKING:
    from jinja2 import Environment

# Names and notes may read "NaN" and mean it; only under these keys do the words stand for numbers.
_NUMBERS = frozenset(
    {"differences", "estimate", "low", "high", "p", "p_holm", "smallest_detectable", "smallest_effect", "worst"}
    | {"metrics", "curve", "extras", "tuned", "recipe", "settings", "seconds", "wall_seconds", "training_seconds"}
)


def write_report(result: TrialResult, path: Path) -> list[Path]:
    """Write the report to `path`, and beside it the same trial as `.json` and as `.csv`, one row a run.

    Args:
        path: ends in `.html`; folders on the way are made.

    Returns:
        the three files, HTML first. Each is written whole or not at all.

    Raises:
        AssayError: the name has another ending, or a file cannot be written.
    """
    if path.suffix != ".html":
        raise AssayError(f"a report's file name must end in .html, got {path}")
    texts = {
        path: as_html(result),
        path.with_suffix(".json"): as_json(result),
        path.with_suffix(".csv"): as_csv(result),
    }
    for file, text in texts.items():
        write_whole(file, text, what="report")
    return list(texts)


def read_report(path: Path) -> TrialResult:
    """The trial in a report's JSON file.

    Raises:
        AssayError: there is no such file, or it is not a report.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AssayError(f"cannot read report {path}: {error}") from error
    if not isinstance(data, dict) or data.get("schema") != 1:
        raise AssayError(f"{path} is not the JSON of a trial's report")
    return from_strict_json(data)


def from_strict_json(data: Mapping[str, Any]) -> TrialResult:
    """The trial whose `as_json` was parsed to `data`."""
    return TrialResult.from_json(_numbers_from_words(data, under=False))


def as_json(result: TrialResult) -> str:
    """Strict JSON: numbers that are not finite are the strings `Infinity`, `-Infinity` and `NaN`."""
    return json_text(result.to_json())


def as_csv(result: TrialResult) -> str:
    """One row a run: arm, seed, status, what it spent and its metrics; what a run does not have is left empty."""
    runs = [(arm, run) for arm in result.arms for run in arm.runs]
    plain = ["seed", "status", "diverged_at", *charts.CURRENCIES, "wall_seconds", "peak_memory", "parameters"]
    text = io.StringIO()
    table = csv.DictWriter(text, ["arm", *plain, *_metrics(result)], lineterminator="\n")
    table.writeheader()
    for arm, run in runs:
        found = {f"{part}/{name}": value for part, values in run.metrics.items() for name, value in values.items()}
        table.writerow({"arm": arm.name} | {name: getattr(run, name) for name in plain} | found)
    return text.getvalue()


def as_html(result: TrialResult) -> str:
    """The page: the answer in words first, then what it rests on."""
    return (
        templates("assay.trials")
        .get_template("report.html")
        .render(
            plots(result),
            findings=words.findings(result),
            cautions=words.cautions(result),
            varied=[words.VARIED[name] for name in result.vary],
            fixed=[text for name, text in words.VARIED.items() if name not in result.vary],
            costs=_costs(result),
            metrics=_metrics(result),
            metric=words.metric_name(result.metric),
            value=lambda value: metric_value(result.metric, value),
            figure=lambda run, name: _figure(result, run, name),
            options=lambda settings: ", ".join(f"{name} {_short(value)}" for name, value in settings.items()),
            shared=_shared(result),
            own=lambda arm: {k: v for k, v in _settings(arm).items() if k not in _shared(result)},
            budget=budget,
            duration=duration,
            listed=listed,
        )
    )


@cache
def templates(*packages: str) -> "Environment":
    """The templates of these packages, the first to have one winning; what they show is escaped."""
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=ChoiceLoader([PackageLoader(package) for package in packages]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def plots(result: TrialResult) -> dict[str, Any]:
    """What `intervals.html`, `curves.html` and `series.html`, the plots as parts of a page, are rendered with."""
    return {
        "result": result,
        "smallest_effect": words.smallest_effect(result),
        "intervals": charts.interval_chart(result),
        "charts": charts.curve_charts(result),
        "series": charts.series_charts(result),
        "change": lambda comparison: words.change_of(result.metric, comparison),
        "interval": lambda comparison: words.interval(result.metric, comparison),
    }


def _metrics(result: TrialResult) -> list[str]:
    """Every `split/metric` that a run has."""
    runs = [run for arm in result.arms for run in arm.runs]
    return list(dict.fromkeys(f"{part}/{name}" for run in runs for part in run.metrics for name in run.metrics[part]))


def _costs(result: TrialResult) -> list[tuple[ArmResult, list[tuple[str, str, str]]]]:
    """An arm's (heading, mean over its finished runs, ratio to the first arm's)."""
    kinds: list[tuple[str, Callable[[list[Record]], float], Callable[[float], str]]] = [
        ("Training time", lambda runs: fmean(r.seconds for r in runs), duration),
        ("Samples/s", lambda runs: sum(r.samples for r in runs) / (sum(r.seconds for r in runs) or math.nan), count),
        ("FLOPs", lambda runs: fmean(r.flops for r in runs), count),
        ("Peak memory", lambda runs: float(max(r.peak_memory for r in runs)), memory),
        ("Parameters", lambda runs: fmean(r.parameters for r in runs), count),
    ]
    first: dict[str, float] = {}
    rows = []
    for arm in result.arms:
        runs = [run for run in arm.runs if run.status == "finished"]
        cells = []
        for heading, measure, text in kinds:
            value = measure(runs) if runs else math.nan
            base = first.setdefault(heading, value)
            known = arm is not result.arms[0] and base and math.isfinite(value / base)
            cells.append((heading, text(value) if runs else "—", f"{value / base:.2f}" if known else ""))
        rows.append((arm, cells))
    return rows


def _figure(result: TrialResult, run: Record, name: str) -> str:
    part, _, metric = name.partition("/")
    if metric not in run.metrics.get(part, {}):
        return "—"
    value = run.metrics[part][metric]
    return metric_value(result.metric, value) if metric == result.metric.name else f"{value:.4g}"


def _settings(arm: ArmResult) -> dict[str, str]:
    """An arm's settings as text, its methods and budget among them."""
    settings = {name: str(value) for name, value in arm.recipe.items() if name != "methods"}
    methods = []
    for method in arm.recipe.get("methods", []):
        options = ", ".join(f"{k}={v}" for k, v in method.items() if k != "name")
        methods.append(f"{method['name']} ({options})" if options else method["name"])
    return {"methods": ", ".join(methods) or "none", **settings, "budget": budget(arm.budget)}


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _shared(result: TrialResult) -> dict[str, str]:
    """The settings on which all arms agree."""
    first, *others = [_settings(arm) for arm in result.arms]
    return {name: value for name, value in first.items() if all(o.get(name) == value for o in others)}


def _numbers_from_words(value: Any, *, under: bool) -> Any:
    if under and isinstance(value, str):
        return NON_FINITE.get(value, value)
    if isinstance(value, dict):
        return {key: _numbers_from_words(item, under=under or key in _NUMBERS) for key, item in value.items()}
    return [_numbers_from_words(item, under=under) for item in value] if isinstance(value, list) else value
