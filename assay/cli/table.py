"""What the terminal shows of a finished trial."""

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from assay.trials.result import TrialResult
from assay.trials.words import cautions, change_of, findings, interval

COLOURS = {"supported": "green", "refuted": "red", "inconclusive": "yellow"}


def verdicts(result: TrialResult) -> RenderableType:
    """The question, a line for each comparison, and what a reader must know beside them."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("arm", overflow="fold")
    table.add_column("against", overflow="fold")
    table.add_column(f"{result.metric.name.replace('_', ' ')}")
    table.add_column("interval")
    table.add_column("p", justify="right")
    table.add_column("verdict")
    for c in result.comparisons:
        table.add_row(
            Text(c.arm),
            Text(c.baseline),
            change_of(result.metric, c),
            interval(result.metric, c),
            f"{c.p_holm:.2g}",
            Text(c.verdict, style=COLOURS[c.verdict]),
        )
    found = findings(result)
    several = len(found) > 1
    meanings = [Text(f"{f.title}: {f.meaning}" if several else f.meaning) for f in found]
    notes = [Text(f"Note: {note}") for note in dict.fromkeys([n for f in found for n in f.notes] + cautions(result))]
    return Group(Text(result.question, style="bold"), table, *meanings, *notes)
