"""Logs of runs for the viewers that people have: what is logged of a run, and when.

A run is watched and knows nothing of it: its bits and its key are the same with a log and without.
"""

import hashlib
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from assay.engine import Record, Run, chance
from assay.errors import AssayError, Interrupted, UnknownName

if TYPE_CHECKING:
    from assay.trials.job import Job

KINDS = {  # what each needs beyond assay itself, all of it in the extra of this name
    "tensorboard": ("tensorboard",),
    "csv": (),
    "wandb": ("lightning", "wandb"),
    "mlflow": ("lightning", "mlflow", "alembic"),
}
FOLDER = ".assay/logs"
EVERY = 1.0  # seconds between two rows of training figures, at least


@dataclass(frozen=True)
class Log:
    """Where runs are logged.

    Attributes:
        kind: `tensorboard`, `csv`, `wandb` (offline) or `mlflow`.
        folder: absolute, since workers may be elsewhere.
    """

    kind: str
    folder: Path

    @classmethod
    def make(cls, kind: str, folder: str | Path | None, task: str) -> "Log":
        """A log that can be written here.

        Args:
            kind: as above.
            folder: `.assay/logs` by default.
            task: whose runs are to be logged.

        Raises:
            AssayError: the kind is unknown, or what it needs is not installed.
        """
        if kind not in KINDS:
            raise UnknownName("log", kind, KINDS)
        missing = [name for name in KINDS[kind] if find_spec(name) is None]
        if missing:
            raise AssayError(
                f"a log of kind {kind!r} needs {' and '.join(missing)}, not installed here: pip install 'assay[{kind}]'"
            )
        made = cls(kind, Path(folder or FOLDER).absolute())
        if kind == "mlflow":
            from assay.trials.loggers import mlflow_experiment

            mlflow_experiment(made.folder, task)  # now, since workers that all make it would be in each other's way
        return made

    def sink(self, name: "Name", after: int) -> "Sink":
        """Open the log of a run; of an earlier one of the same run, what comes after step `after` is dropped."""
        from assay.trials import loggers

        return loggers.SINKS[self.kind](self.folder, name, after)

    def has(self, name: "Name") -> bool:
        """Whether there is a log of the run."""
        from assay.trials import loggers

        return loggers.SINKS[self.kind].has(self.folder, name)


@dataclass(frozen=True)
class Name:
    """What a run is called in logs.

    Attributes:
        task, arm: by their names.
        run: such as `seed-3-1f0a52c4`, with the beginning of the run's key; `tuning-...` where it tunes its arm.
        key: of the run.
        settings: its hyperparameters, flat.
    """

    task: str
    arm: str
    run: str
    key: str
    settings: dict[str, Any]

    @classmethod
    def of(cls, job: "Job") -> "Name":
        """The name of the run that `job` makes."""
        recipe = job.recipe.describe()
        methods = recipe.pop("methods")
        settings = {"task": job.task.name, "arm": job.arm, "seed": job.seed, "budget": job.budget, **recipe}
        settings["methods"] = "+".join(method["name"] for method in methods) or "none"
        settings |= {f"task.{name}": value for name, value in job.task.settings().items()}
        for method in methods:
            settings |= {f"{method['name']}.{name}": value for name, value in method.items() if name != "name"}
        purpose = f"seed-{job.seed}" if job.test else "tuning"
        return cls(job.task.name, job.arm, f"{purpose}-{job.key[:8]}", job.key, settings)

    @property
    def folders(self) -> str:
        """`task/arm` in letters that every file system takes."""
        return f"{_plain(self.task)}/{_plain(self.arm)}"


@runtime_checkable
class Sink(Protocol):
    """The log of one run, open.

    Attributes:
        fresh: there was none before.
    """

    fresh: bool

    def __init__(self, folder: Path, name: Name, after: int) -> None: ...

    @staticmethod
    def has(folder: Path, name: Name) -> bool: ...

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """Write down what holds after `step`, so that it outlives this process."""

    def end(self, figures: Mapping[str, float], step: int) -> None:
        """The same of the figures that a run ends with."""

    def close(self, how: str) -> None:
        """No more will come; `how` is `success`, `failed` or `stopped`."""


class RunLog:
    """Logs a run as it goes: a context, and what the run is to be watched by.

    Training figures are means over the steps since those before. What the last step gave is logged with the figures of
    the end and not before, since a run may go on from the checkpoint of its last step and come to its end once more.

    Args:
        job: with a `log`.
    """

    def __init__(self, job: "Job") -> None:
        assert job.log is not None
        self._log, self._name = job.log, Name.of(job)
        self._sink: Sink | None = None
        self._points, self._told = 0, 0.0  # points logged, and when the last row was
        self._seen = self._losses = 0.0, 0  # sum and number of losses: of the run when last seen, and of no row yet
        self._spent = 0, 0.0  # samples and seconds up to the last row

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._sink is not None:
            with chance.kept():
                self._sink.close("success" if kind is None else "stopped" if kind is Interrupted else "failed")

    def __call__(self, run: Run) -> None:
        with chance.kept():  # whatever a logger draws, the run draws what it would have drawn
            if self._sink is None:
                self._sink = self._begin(run)
            else:
                self._go_on(run, self._sink)

    def end(self, record: Record) -> None:
        """Log what the run came to."""
        assert self._sink is not None
        with chance.kept():
            self._sink.end(_final(record), record.steps)

    def _begin(self, run: Run) -> Sink:
        ended = run.progress == 1
        sink = self._log.sink(self._name, run.steps - 1 if ended else run.steps)
        if sink.fresh:
            for point in run.curve:
                sink.log(*_point(point))
        self._points, self._seen = len(run.curve), (run.loss_sum, run.loss_count)
        self._since(run, self._seen if ended else (0.0, 0))
        return sink

    def _go_on(self, run: Run, sink: Sink) -> None:
        point = len(run.curve) > self._points
        if point:  # it began the sums anew; the run has been here with the losses before it
            self._points, self._seen = len(run.curve), (0.0, 0)
        else:
            (total, count), (seen, number) = self._losses, self._seen
            self._seen = run.loss_sum, run.loss_count
            self._losses = total + run.loss_sum - seen, count + run.loss_count - number
        due = point or (run.progress < 1 and time.monotonic() - self._told >= EVERY)
        if due and self._losses[1]:
            sink.log(self._training(run), run.steps)
            self._since(run, (0.0, 0))
        if point:
            figures, step = _point(run.curve[-1])
            sink.log({name: value for name, value in figures.items() if name != "train/loss"}, step)

    def _since(self, run: Run, losses: tuple[float, int]) -> None:
        """Begin the next row of training figures."""
        self._told, self._losses, self._spent = time.monotonic(), losses, (run.samples, run.seconds)

    def _training(self, run: Run) -> dict[str, float]:
        """Means since the row before, and the rates that the next step will have."""
        rates = {name: float(optimizer.param_groups[0]["lr"]) for name, optimizer in run.optimizers.items()}
        figures = {f"train/lr/{name}" if len(rates) > 1 else "train/lr": rate for name, rate in rates.items()}
        (total, count), (samples, seconds) = self._losses, self._spent
        figures["train/loss"] = total / count
        if run.seconds > seconds and run.samples > samples:
            figures["train/samples_per_second"] = (run.samples - samples) / (run.seconds - seconds)
        return figures


def write(job: "Job", record: Record) -> None:
    """Log a run that was done before, unless it was logged then: its learning curve and what it came to."""
    assert job.log is not None
    name = Name.of(job)
    if job.log.has(name):
        return
    with chance.kept():
        sink = job.log.sink(name, 0)
        for point in record.curve:
            sink.log(*_point(point))
        sink.end(_final(record), record.steps)
        sink.close("success")


def _point(point: Mapping[str, float]) -> tuple[dict[str, float], int]:
    """A point of a learning curve as its figures and its step."""
    figures = {"train/loss" if name == "train_loss" else name: value for name, value in point.items()}
    return figures, int(figures.pop("steps"))


def _final(record: Record) -> dict[str, float]:
    figures = {f"test/{name}": value for name, value in record.metrics.get("test", {}).items()}
    figures |= {f"methods/{name}": value for name, value in record.extras.items()}
    ended = {name: getattr(record, name) for name in ("parameters", "peak_memory", "wall_seconds", "diverged_at")}
    return figures | {f"final/{name}": float(value) for name, value in ended.items() if value is not None}


def _plain(text: str) -> str:
    """`text` as the name of a folder."""
    name = re.sub(r"[^A-Za-z0-9.=,+_-]+", "-", text).strip("-.") or "-"
    return name if len(name) <= 100 else f"{name[:80]}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
