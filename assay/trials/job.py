"""A run to be done: what an executor is given, and how it is carried out in whichever process."""

import os
import pickle
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from threadpoolctl import threadpool_limits

import assay
from assay import errors
from assay.engine import Recipe, Record, Run, Task
from assay.engine.devices import is_rank
from assay.engine.record import run_key
from assay.errors import AssayError
from assay.trials.folders import alone_in
from assay.trials.logs import Log, RunLog

State = Literal["reused", "elsewhere", "running", "finished", "diverged"]
PATIENCE = 15.0  # seconds; a worker that has lost its parent is out of the run's folder by then


@dataclass(frozen=True, eq=False)
class Job:
    """What makes a `Run`, in this process or another.

    Attributes:
        label: what progress and errors call it, such as `"lamb, seed 3"`.
        arm: whose run it is; logs are sorted by it.
        log: where it is logged while it goes, if anywhere.
        threads: CPU threads; part of the key, since sums depend on it in the last bits.
        folder: where the checkpoints of all runs live, each in a folder of its key; none are written without it.

    The rest is as in `Run`.
    """

    task: Task
    recipe: Recipe
    seed: int
    budget: str
    label: str = ""
    arm: str = ""
    log: Log | None = None
    vary: tuple[str, ...] = ("init", "order")
    evaluations: int = 10
    test: bool = True
    accelerator: str = "cpu"
    devices: int = 1
    strategy: str | None = None
    threads: int = 1
    folder: Path | None = None
    checkpoint_every: float = 30.0

    def run(self, watch: Callable[[Run], None] | None = None) -> Run:
        """The run, not yet built."""
        return Run(
            self.task,
            self.recipe,
            self.seed,
            self.budget,
            vary=self.vary,
            folder=None if self.folder is None else self.folder / self.key,
            checkpoint_every=self.checkpoint_every,
            evaluations=self.evaluations,
            test=self.test,
            accelerator=self.accelerator,
            devices=self.devices,
            strategy=self.strategy,
            watch=watch,
        )

    @cached_property
    def key(self) -> str:
        """The content address of the run, whatever number of threads this process has now."""
        run = Run(
            self.task, self.recipe, self.seed, self.budget,
            vary=self.vary, evaluations=self.evaluations, test=self.test, accelerator=self.accelerator,
            devices=self.devices, strategy=self.strategy,
        )  # fmt: skip
        return run_key(run.identity() | {"threads": self.threads})


@runtime_checkable
class Stoppable(Protocol):
    """A run, begun or not, in this process or in others."""

    def stop(self) -> None: ...


@runtime_checkable
class Underway(Stoppable, Protocol):
    """A run that is being done."""

    @property
    def progress(self) -> float: ...


@dataclass(frozen=True)
class Progress:
    """How one run is getting on.

    Attributes:
        key, label: of the run.
        fraction: of its budget, in [0, 1].
        state: `reused` if the store had it, `elsewhere` while another process is doing it, else `running`, and
            `finished` or `diverged` at its end.
        done, total: runs of the present round (tuning, the trial, controls).
    """

    key: str
    label: str
    fraction: float
    state: State
    done: int
    total: int


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Hold torch and the BLAS libraries to `number` threads, so that a run gives the same bits wherever it is done."""
    before = torch.get_num_threads()
    with threadpool_limits(number):
        torch.set_num_threads(number)
        try:
            yield
        finally:
            torch.set_num_threads(before)


def pickled(task: Task, what: Any) -> bytes:
    """`what`, in which `task` is, as another process can read it.

    Raises:
        AssayError: it cannot be sent.
    """
    try:
        return pickle.dumps(what)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise AssayError(
            f"task {task.name!r} or one of its methods cannot be sent to a worker process ({error}); define it at the "
            "top level of a file, or run without workers (executor='serial')"
        ) from error


def failure(job: Job, error: Exception) -> AssayError:
    """What stopped a run, as an error whose message is enough to find the place; the whole story is its cause."""
    if isinstance(error, AssayError):
        return error
    methods = ", ".join(repr(method.name) for method in job.recipe.methods)
    what = f"task {job.task.name!r}" + (f" with {methods}" if methods else "")
    frames = traceback.extract_tb(error.__traceback__)
    roots = [str(Path(assay.__file__).parent), *map(sysconfig.get_path, ("stdlib", "purelib", "platlib"))]
    outside = ("<", *(root + os.sep for root in roots))
    users = [frame for frame in frames if not frame.filename.startswith(outside)]
    place = (users or frames)[-1]
    made = AssayError(
        f"{what}, seed {job.seed}: {type(error).__name__}: {error} ({place.filename}:{place.lineno}, in {place.name})"
    )
    made.__cause__ = error
    return made


def told(kind: str, text: str, story: str) -> AssayError:
    """The error that another process tells of: a class of `assay.errors`, its message, and the traceback there."""
    made: AssayError = AssayError.__new__(getattr(errors, kind), text)  # some take more than their text
    made.__cause__ = _Remote(story)
    return made


class _Remote(Exception):
    """The traceback of another process, as text."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


def perform(
    job: Job, watch: Callable[[Underway], None] | None = None, started: Callable[[Stoppable], None] = lambda run: None
) -> Record:
    """Carry `job` out in this process, or if it needs several in that many others.

    Args:
        job: the run to be done.
        watch: as in `Run`.
        started: told of the run before it trains, so that it can be stopped.
    """
    with ExitStack() as stack:
        # a lease may be taken over from a process that still trains, such as one that was suspended: without a folder
        # of its own, this one does the run from its beginning; ranks share the folder that their gang is alone in
        apart = job.folder is not None and not is_rank()
        if apart and not stack.enter_context(alone_in(job.folder / job.key, patience=PATIENCE)):  # type: ignore[operator]
            job = replace(job, folder=None)
        if job.devices > 1 and not is_rank():
            from assay.trials.ranks import Gang

            gang = Gang(job, watch)
            started(gang)
            return gang.run()
        stack.enter_context(threads(job.threads))
        logs = job.log is not None and os.environ.get("RANK", "0") == "0"  # the first rank's are the run's
        log = stack.enter_context(RunLog(job)) if logs else None
        run = job.run(watch if log is None else _both(log, watch))
        started(run)
        record = run.train()
        if log is not None:
            log.end(record)
        return record


def _both(log: RunLog, watch: Callable[[Run], None] | None) -> Callable[[Run], None]:
    def watched(run: Run) -> None:
        log(run)
        if watch is not None:
            watch(run)

    return watched
