"""What charts written as SVG have in common."""

import math
from html import escape

LEFT, TOP = 52, 40  # user units of the margins


def document(title: str, description: str, size: tuple[int, int], parts: list[str]) -> str:
    """A document of its own, in the colours of the page around it.

    Args:
        title, description: for who does not see it.
        size: width and height in user units.
        parts: elements, escaped already.
    """
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size[0]} {size[1]}" role="img" '
        'font-family="system-ui, sans-serif" font-size="12" stroke="currentColor" fill="none">'
        f"<title>{escape(title)}</title><desc>{escape(description)}</desc>" + "".join(parts) + "</svg>"
    )


def text(x: float | int | str, y: float | int, words: str, anchor: str, weight: str = "normal") -> str:
    """Words at a place; `anchor` is start, middle or end."""
    return (
        f'<text x="{x}" y="{y:g}" text-anchor="{anchor}" font-weight="{weight}" fill="currentColor" '
        f'stroke="none">{escape(words)}</text>'
    )


def frame(width: int, height: int) -> str:
    """The outline of a plot of that size."""
    return f'<rect x="{LEFT}" y="{TOP}" width="{width}" height="{height}" opacity="0.4"/>'


def axis_name(words: str, height: int) -> str:
    """The name of the upright axis of a plot of that height."""
    middle = TOP + height / 2
    return f'<g transform="rotate(-90 14 {middle:g})">{text(14, middle, words, "middle")}</g>'


def round_ticks(low: float, high: float, target: int = 5) -> list[float]:
    """About `target` round numbers from `low` to `high`, which is larger."""
    power = 10.0 ** math.floor(math.log10((high - low) / target))
    step = power * next(m for m in (1, 2, 2.5, 5, 10) if m * power >= (high - low) / target * 0.99)
    return [k * step for k in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]
