"""What a trial found, in sentences: the report and the command line both take their wording from here."""

import math
from dataclasses import dataclass

from assay.engine import Metric
from assay.trials.quantities import decimals, difference_scale, difference_unit
from assay.trials.result import Comparison, TrialResult

VARIED = {
    "init": "initial weights and the noise of training",
    "order": "order of the data and its augmentation",
    "split": "the split into training, validation and test data",
}


@dataclass(frozen=True)
class Finding:
    """A comparison in words.

    Attributes:
        title: what was compared with what.
        verdict: the verdict as a word.
        change: the difference and its interval.
        meaning: what the verdict says about the smallest effect that counts, and what the trial could have found.
        notes: what a reader must know beside it.
    """

    comparison: Comparison
    title: str
    verdict: str
    change: str
    meaning: str
    notes: list[str]


def findings(result: TrialResult) -> list[Finding]:
    """Each comparison of the trial in words, in its order; a note that all of them bear is left to `cautions`."""
    shared = _shared_notes(result)
    return [
        Finding(
            comparison=c,
            title=_title(result, c),
            verdict=c.verdict.capitalize(),
            change=_change(result, c),
            meaning=f"{_meaning(result, c)} {_power(result, c)}",
            notes=[_sentence(note) for note in c.notes if note not in shared],
        )
        for c in result.comparisons
    ]


def cautions(result: TrialResult) -> list[str]:
    """What concerns the trial as a whole and could mislead a reader."""
    found = [_sentence(note) for note in _shared_notes(result)]
    if len({str(run.environment) for arm in result.arms for run in arm.runs}) > 1:
        found.append("The runs were made on different machines or versions, so their times do not compare.")
    return found


def summary_lines(result: TrialResult) -> list[str]:
    """The question and its answer as plain text, for a terminal."""
    lines = [result.question]
    for finding in findings(result):
        lines.append(f"{finding.title}: {finding.verdict.upper()}. {finding.change} {finding.meaning}")
        lines += [f"  Note: {note}" for note in finding.notes]
    return lines + [f"Note: {caution}" for caution in cautions(result)]


def metric_name(metric: Metric) -> str:
    """The metric as prose has it."""
    return metric.name.replace("_", " ")


def smallest_effect(result: TrialResult) -> str:
    """The smallest effect that counts, with its unit."""
    return _with_unit(result.metric, f"{result.smallest_effect * difference_scale(result.metric):g}")


def interval(metric: Metric, comparison: Comparison) -> str:
    """Both ends of the interval with their directions, such as `0.30 lower to 0.72 higher`."""
    c, places = comparison, places_of(metric, comparison)
    if not math.isfinite(c.low) and not math.isfinite(c.high):
        return "none can be given"
    if not math.isfinite(c.low):
        return f"no limit on the worse side, to {_directed(metric, c.high, places)}"
    if not math.isfinite(c.high):
        return f"{_directed(metric, c.low, places)}, no limit on the better side"
    if c.low * c.high > 0:
        return f"{_number(metric, c.low, places)} to {_directed(metric, c.high, places)}"
    return f"{_directed(metric, c.low, places)} to {_directed(metric, c.high, places)}"


def places_of(metric: Metric, comparison: Comparison) -> int:
    """Decimal places for a comparison's figures: two significant digits of its interval's half width."""
    width = (comparison.high - comparison.low) / 2
    return _places(metric, [width] if 0 < width < math.inf else [comparison.estimate])


def change_of(metric: Metric, comparison: Comparison) -> str:
    """The estimate in words, such as `0.21 points higher`."""
    c, places = comparison, places_of(metric, comparison)
    if math.isnan(c.estimate):
        return "not to be compared"
    if math.isinf(c.estimate):
        return "worse without limit" if c.estimate < 0 else "better without limit"
    if c.estimate == 0:
        return "unchanged"
    return f"{_amount(metric, c.estimate, places)} {_direction(metric, c.estimate)}"


def _title(result: TrialResult, c: Comparison) -> str:
    if _is_control(result, c):
        return f"{c.arm}, against the baseline given the same FLOPs"
    return f"{c.arm}, against {c.baseline}"


def _change(result: TrialResult, c: Comparison) -> str:
    metric, n = result.metric, len(c.differences)
    seeds = f"over {n} seeds" if n != 1 else "from a single seed"
    limits = f"{100 * c.confidence:g}% interval: {interval(metric, c)}"
    return f"Test {metric_name(metric)} was {change_of(metric, c)} ({limits}) {seeds}."


def _meaning(result: TrialResult, c: Comparison) -> str:
    if result.smallest_effect == 0:
        return {
            "supported": "An improvement is shown.",
            "refuted": "Any improvement is excluded: it did harm.",
            "inconclusive": "Neither an improvement nor harm is shown.",
        }[c.verdict]
    least = f"{smallest_effect(result)}, the smallest that counts here,"
    if c.verdict == "supported":
        return f"An improvement of more than {least} is shown."
    if c.verdict == "refuted":
        harm = " It did harm." if c.high < 0 else ""
        return f"An improvement of more than {least} is excluded.{harm}"
    return f"An improvement of {least} is neither shown nor excluded."


def _power(result: TrialResult, c: Comparison) -> str:
    if not math.isfinite(c.smallest_detectable):
        return "With so few runs, no effect of any size could have been found."
    least = _amount(result.metric, c.smallest_detectable, _places(result.metric, [c.smallest_detectable]))
    return f"A true effect of {least} or more would have been found four times in five."


def _shared_notes(result: TrialResult) -> list[str]:
    first, *others = [c.notes for c in result.comparisons] or [[]]
    return [note for note in first if others and all(note in notes for notes in others)]


def _sentence(note: str) -> str:
    return f"{note[:1].upper()}{note[1:]}".rstrip(".") + "."


def _is_control(result: TrialResult, c: Comparison) -> bool:
    return any(arm.control and arm.name == c.baseline for arm in result.arms)


def _places(metric: Metric, sizes: list[float]) -> int:
    return decimals(difference_scale(metric) * size for size in sizes)


def _number(metric: Metric, difference: float, places: int) -> str:
    return f"{abs(difference) * difference_scale(metric):.{places}f}"


def _amount(metric: Metric, difference: float, places: int) -> str:
    return _with_unit(metric, _number(metric, difference, places))


def _with_unit(metric: Metric, number: str) -> str:
    unit = difference_unit(metric)
    return f"{number} {'point' if unit == 'points' and number == '1' else unit}".rstrip()


def _direction(metric: Metric, difference: float) -> str:
    return "higher" if (difference > 0) == (metric.goal == "max") else "lower"


def _directed(metric: Metric, difference: float, places: int) -> str:
    return f"{_number(metric, difference, places)} {_direction(metric, difference)}"
