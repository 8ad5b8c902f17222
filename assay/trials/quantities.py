"""How quantities are written for people: metrics, times, sizes and counts, with digits that carry information."""

import math
from collections.abc import Iterable

from assay.engine import Budget, Metric

_PREFIXES = ("", "k", "M", "G", "T", "P", "E")


def metric_value(metric: Metric, value: float) -> str:
    """`91.32%` of a fraction, `1.234 bits/byte` of anything else."""
    if not math.isfinite(value):
        return "not finite"
    if metric.unit == "%":
        return f"{100 * value:.2f}%"
    return f"{value:.4g} {metric.unit}".rstrip()


def difference_unit(metric: Metric) -> str:
    """What differences of `metric` are counted in: percentage points where it is shown in per cent."""
    return "points" if metric.unit == "%" else metric.unit


def difference_scale(metric: Metric) -> float:
    """From differences of `metric` to what is shown of them."""
    return 100.0 if metric.unit == "%" else 1.0


def decimals(sizes: Iterable[float]) -> int:
    """Decimal places that show two significant digits of the smallest of `sizes` that is not zero."""
    shown = [abs(size) for size in sizes if math.isfinite(size) and size != 0]
    return min(max(1 - math.floor(math.log10(min(shown))), 0), 9) if shown else 2


def count(value: int | float, digits: int = 3) -> str:
    """`12.5k`, `1.23G`: `digits` significant digits and an SI prefix."""
    if not math.isfinite(value):
        return "not finite"
    rounded = float(f"{value:.{digits}g}")
    power = min(max(int(math.log10(abs(rounded)) // 3), 0), len(_PREFIXES) - 1) if rounded else 0
    return f"{rounded / 1000**power:.{max(digits, 3)}g}{_PREFIXES[power]}"


def memory(size: int | float) -> str:
    """`512 MiB`, `1.46 GiB`."""
    for unit in ("B", "KiB", "MiB"):
        if size < 999.5:
            return f"{size:.3g} {unit}"
        size /= 1024
    return f"{size:.3g} GiB"


def duration(seconds: float) -> str:
    """`0.52 s`, `12.3 s`, `3 min 20 s`, `2 h 5 min`."""
    if seconds < 99.95:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min"


def budget(text: str) -> str:
    """`10 epochs` of `10epochs`."""
    parsed = Budget.parse(text)
    return f"{parsed.amount:g} {parsed.unit}"


def listed(items: Iterable[object]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    *others, last = [str(item) for item in items]
    return f"{', '.join(others)} and {last}" if others else last
