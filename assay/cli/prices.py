"""What the terminal shows of a plan."""

from typing import TYPE_CHECKING

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from assay.trials.quantities import count, duration, memory

if TYPE_CHECKING:
    from assay.claims.card import Paper
    from assay.trials.gpus import Estimate, Gpu
    from assay.trials.plan import Part, Plan

PURPOSES = {"trial": "the trial", "tuning": "tuning", "control": "control"}


def rendered(
    plan: "Plan", card: "Paper | None", on: "Gpu | None", price: float | None, utilisation: float | None
) -> RenderableType:
    """A line for each kind of runs, the sum, what it costs here and on the GPU, and the paper's own scale."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("arm", overflow="fold")
    table.add_column("for")
    for heading in ("runs", "steps", "FLOPs", "time", "memory"):
        table.add_column(heading, justify="right", no_wrap=True)
    for part in plan.parts:
        table.add_row(*_cells(part))
    cores = plan.workers if plan.runs >= plan.workers else plan.runs
    lines: list[RenderableType] = [
        table,
        Text("Steps, FLOPs and time are of one run, evaluations within the time. Memory is that of a step's tensors."),
        Text(
            f"In all {plan.runs} runs, {count(plan.flops)} FLOPs of training and {count(plan.evaluation_flops)} of "
            f"evaluation; here {duration(plan.seconds)} of computing, about {duration(plan.seconds / cores)} with "
            f"{cores} at a time ({plan.environment['device']}, as busy as it is now)."
        ),
    ]
    if on is not None:
        lines.append(Text(on_gpu(on, plan.on(on, price=price, utilisation=utilisation), plan.memory)))
    lines += [Text(f"Note: {note}") for note in plan.notes]
    if card is not None:
        lines += _scales(card, on, price, utilisation)
    return Group(*lines)


def on_gpu(on: "Gpu", found: "Estimate", size: int) -> str:
    """One paragraph: time, money, the assumption behind them, and whether a step's `size` bytes fit."""
    low, high = found.utilisation
    share = f"{100 * low:.3g}%" if low == high else f"{100 * low:.3g} to {100 * high:.3g}%"
    text = (
        f"On one {on.title}, at {share} of its peak rate, {_cost(found)}. Small networks reach less of the peak: for "
        "them this is too little."
    )
    if found.price is None:
        text += " No price is known; give one by --price."
    elif found.price_source:
        text += f" ${found.price:g} an hour is an example ({found.price_source}); give your own by --price."
    if not found.fits:
        text += f" A step's {memory(size)} does not fit into its {memory(on.memory)}."
    return text


def _cost(found: "Estimate") -> str:
    money = "" if found.dollars is None else f", {_between(*map(dollars, found.dollars))}"
    return _between(*map(duration, found.seconds)) + money


def dollars(amount: float) -> str:
    """`$12.30`, `$0.0021`, `$1200`."""
    return f"${amount:.2f}" if 0.1 <= amount < 1000 else f"${amount:.0f}" if amount >= 1000 else f"${amount:.2g}"


def _between(low: str, high: str) -> str:
    return low if low == high else f"{low} to {high}"


def _cells(part: "Part") -> list[str]:
    seconds = part.seconds + part.evaluation_seconds
    figures = (f"{part.steps:,.0f}", count(part.flops), duration(seconds), memory(part.memory))
    return [part.arm, PURPOSES[part.purpose], str(part.runs), *figures]


def _scales(card: "Paper", on: "Gpu | None", price: float | None, utilisation: float | None) -> list[RenderableType]:
    from assay.claims.scale import price_scale

    lines: list[RenderableType] = []
    if card.paper_scale:
        lines += [Text(""), Text(f"The paper's own scale: {card.paper_scale}.")]
        if not card.scales:
            lines.append(Text("None of it can be priced: its networks are not here."))
    for scale in card.scales:
        found = price_scale(scale)
        holds = f"; {memory(found.memory)} a step of {scale.batch} in float32" if found.memory is not None else ""
        note = f" ({found.note})" if found.note else ""
        there = "" if on is None else f"; {_cost(found.on(on, price=price, utilisation=utilisation))} in bfloat16"
        lines.append(Text(f"{found.what}: {count(found.flops)} FLOPs{there}{holds}{note}."))
    return lines
