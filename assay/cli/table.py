"""What the terminal shows of a finished trial."""

import re

from rich import box
from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from assay.trials.result import TrialResult
from assay.trials.words import cautions, change_of, findings, interval, metric_name

COLOURS = {"supported": "green", "refuted": "red", "inconclusive": "yellow"}


def verdicts(result: TrialResult) -> RenderableType:
    """The question, a line for each comparison, and what a reader must know beside them."""
    several = len(result.comparisons) > 1
    baselines = {c.baseline for c in result.comparisons}
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    names = [_name(c.arm) for c in result.comparisons]
    short = all(cell_len(line) <= 24 for name in names for line in name.plain.splitlines())
    table.add_column("arm", no_wrap=short, overflow="fold")
    if len(baselines) > 1:
        table.add_column("against", overflow="fold")
    table.add_column(metric_name(result.metric), overflow="fold")
    table.add_column(f"{100 * result.confidence:g}% interval")
    table.add_column("p (Holm)" if several else "p", justify="right")
    table.add_column("verdict", no_wrap=True)
    for name, c in zip(names, result.comparisons, strict=True):
        against = [_name(c.baseline)] if len(baselines) > 1 else []
        change, verdict = change_of(result.metric, c), Text(c.verdict, style=COLOURS[c.verdict])
        table.add_row(name, *against, change, interval(result.metric, c), f"{c.p_holm:.2g}", verdict)
    found = findings(result)
    meanings = [Text(f"{f.title}: {f.meaning}" if several else f.meaning) for f in found]
    notes = [Text(f"Note: {note}") for note in dict.fromkeys([n for f in found for n in f.notes] + cautions(result))]
    return Group(Text(result.question, style="bold"), table, *meanings, *notes)


def _name(arm: str) -> Text:
    """An arm's name, a long one broken between a method and its options rather than within a word."""
    return Text(re.sub(r"([:,+])(?=\D)", r"\1\n", arm) if len(arm) > 24 else arm)
