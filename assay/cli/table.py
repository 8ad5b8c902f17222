"""What the terminal shows of a finished trial."""

import re

from rich import box
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
    longest = max((len(word) for c in result.comparisons for word in _name(c.arm).plain.split()), default=0)
    table.add_column("arm", overflow="fold", min_width=min(longest, 24))
    if len(baselines) > 1:
        table.add_column("against", overflow="fold")
    table.add_column(metric_name(result.metric), overflow="fold")
    table.add_column(f"{100 * result.confidence:g}% interval")
    table.add_column("p (Holm)" if several else "p", justify="right")
    table.add_column("verdict", no_wrap=True)
    for c in result.comparisons:
        against = [_name(c.baseline)] if len(baselines) > 1 else []
        change, verdict = change_of(result.metric, c), Text(c.verdict, style=COLOURS[c.verdict])
        table.add_row(_name(c.arm), *against, change, interval(result.metric, c), f"{c.p_holm:.2g}", verdict)
    found = findings(result)
    meanings = [Text(f"{f.title}: {f.meaning}" if several else f.meaning) for f in found]
    notes = [Text(f"Note: {note}") for note in dict.fromkeys([n for f in found for n in f.notes] + cautions(result))]
    return Group(Text(result.question, style="bold"), table, *meanings, *notes)


def _name(arm: str) -> Text:
    """An arm's name, which a narrow column breaks between a method and its options rather than within a word."""
    return Text(re.sub(r"([:,+])(?=\D)", r"\1 ", arm))
