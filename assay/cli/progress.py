"""Bars for a trial under way: all its runs, and each that is being done now."""

from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from assay.trials import Progress as Event


class Bars:
    """Called with each event of a trial, inside a `with` block; shows nothing where `console` is no terminal.

    Args:
        console: of stderr, since stdout is for the result.
    """

    def __init__(self, console: Console) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeRemainingColumn(compact=True),
        )
        self._shown = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._whole = self._shown.add_task("starting", total=None)
        self._under_way: dict[str, tuple[TaskID, float]] = {}

    def __enter__(self) -> "Bars":
        self._shown.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._shown.stop()

    def __call__(self, event: "Event") -> None:
        shown, _ = self._under_way.get(event.key, (None, 0.0))
        if event.state in ("running", "elsewhere"):
            label = event.label if event.state == "running" else f"{event.label} (by another process)"
            if shown is None:
                shown = self._shown.add_task(label, total=1.0)
            self._shown.update(shown, description=label, completed=event.fraction)
            self._under_way[event.key] = shown, event.fraction
        elif shown is not None:
            self._shown.remove_task(shown)
            del self._under_way[event.key]
        done = event.done + sum(fraction for _, fraction in self._under_way.values())
        self._shown.update(
            self._whole, description=f"{event.done} of {event.total} runs", total=event.total, completed=done
        )
