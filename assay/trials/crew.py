"""Workers that do runs side by side, wherever they are: who does which, what if one dies, and how all are stopped."""

import signal
import threading
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from types import FrameType
from typing import Any, ClassVar, Generic, TypeVar

from assay.engine import Record
from assay.errors import AssayError, Interrupted
from assay.trials import worker
from assay.trials.job import Job, Progress, State, pickled, told

OnRecord = Callable[[Job, Record], None]
OnProgress = Callable[[Progress], None]
Begin = Callable[[Job], bool]

DEATHS = 3  # of one run's workers, before the run is given up
TICK = 0.2  # seconds between looks at whether a signal has come


class Worker(ABC):
    """A worker as it is seen from here; `assay.trials.worker.Worker` is what it does there.

    Attributes:
        ready: whether it has said that it can be given runs.
        job: the run it is doing.
    """

    def __init__(self) -> None:
        self.ready = False
        self.job: Job | None = None
        self._task = b""  # the pickled task it holds

    def give(self, job: Job, task: bytes) -> None:
        """Have it do `job`, whose task is `task` when pickled."""
        self.job = job
        rest = {f.name: getattr(job, f.name) for f in fields(job) if f.name != "task"}
        sent = None if task == self._task else job.task
        self._task = task
        self.send(pickled(job.task, (sent, rest, job.key)))

    @abstractmethod
    def send(self, order: bytes) -> None:
        """Nothing happens if it has died: its messages tell of that."""

    @abstractmethod
    def messages(self) -> Iterator[tuple[Any, ...]]:
        """What it has sent until now; `("dead", how)` is the last thing to be heard of it."""

    @abstractmethod
    def kill(self) -> None:
        """End it at once."""

    @abstractmethod
    def release(self) -> None:
        """Give back what is held here of one that is dead."""


W = TypeVar("W", bound=Worker)
C = TypeVar("C", bound="Crew[Any]")


class Crew(ABC, Generic[W]):
    """An executor by workers. Inside a `with` block they stay for the next call; outside, each call ends its own.

    A worker that dies is replaced and its run goes on from its last checkpoint.

    Attributes:
        workers: those that live now.
    """

    starts: ClassVar[int]  # how many workers may die before they are ready: the next is a mistake in the set-up
    not_started: ClassVar[str]  # what a person can do about that
    keep_dying: ClassVar[str]  # and about runs whose workers die

    def __init__(self) -> None:
        self.workers: list[W] = []
        self._staying = False

    def __enter__(self: C) -> C:
        self._staying = True
        return self

    def __exit__(self, *_: object) -> None:
        self._staying = False
        self.close()

    def run(
        self, jobs: Sequence[Job], *, on_record: OnRecord, on_progress: OnProgress, begin: Begin = lambda job: True
    ) -> None:
        """As `Executor.run`."""
        try:
            self.open(jobs)
            with signals() as received:
                _Round(self, jobs, on_record, on_progress, begin, received).run()
        except BaseException:
            self.close()
            raise
        if not self._staying:
            self.close()

    def open(self, jobs: Sequence[Job]) -> None:
        """Prepare what workers for `jobs` need; it may be there from the call before."""
        return

    @abstractmethod
    def at_once(self) -> int:
        """How many workers there can be now."""

    @abstractmethod
    def hire(self) -> W:
        """Begin to start a worker."""

    @abstractmethod
    def listen(self, seconds: float) -> Sequence[W]:
        """Workers that may have sent something, as soon as there are any, after `seconds` at the latest."""

    @abstractmethod
    def close(self) -> None:
        """End the workers: at once where they are idle, else after the checkpoint of their present run."""


class _Round(Generic[W]):
    """One call of `Crew.run`."""

    def __init__(
        self,
        crew: Crew[W],
        jobs: Sequence[Job],
        on_record: OnRecord,
        on_progress: OnProgress,
        begin: Begin,
        received: list[int],
    ) -> None:
        self.crew, self.on_record, self.on_progress, self.received = crew, on_record, on_progress, received
        self.begin = begin
        self.waiting, self.done, self.total = deque(jobs), 0, len(jobs)
        self.deaths: Counter[str] = Counter()
        self.false_starts = 0
        self.trouble: AssayError | None = None  # why no more runs are begun
        self.tasks = {id(job.task): pickled(job.task, job.task) for job in jobs}

    def run(self) -> None:
        workers = self.crew.workers
        while (busy := sum(one.job is not None for one in workers)) or (self.waiting and self.trouble is None):
            if self.received and self.trouble is None:
                self.stop(Interrupted("stopped"))
            if len(self.received) > 1:  # the second Ctrl-C does not wait for checkpoints
                for one in workers:
                    one.kill()
            if self.trouble is None:
                for _ in range(min(busy + len(self.waiting), self.crew.at_once()) - len(workers)):
                    workers.append(self.crew.hire())
                self.give()
            for one in self.crew.listen(TICK):
                for message in one.messages():
                    self.hear(one, message)
        if self.trouble is not None:
            raise self.trouble

    def give(self) -> None:
        for one in self.crew.workers:
            while one.ready and one.job is None and self.waiting:
                job = self.waiting.popleft()
                if self.begin(job):
                    one.give(job, self.tasks[id(job.task)])
                    self.progress(job, 0.0)

    def hear(self, one: W, message: tuple[Any, ...]) -> None:
        kind, job = message[0], one.job
        if kind == "dead":
            self.bury(one, message[1])
        elif kind == "ready" or job is None:
            one.ready = True
        elif kind == "progress":
            self.progress(job, message[1])
        else:
            one.job = None
            self.end(job, *message)

    def end(self, job: Job, kind: str, result: Any, text: str = "", story: str = "") -> None:
        if kind == "record":
            self.done += 1
            self.on_record(job, result)
            self.on_progress(ended(job, result, self.done, self.total))
        elif kind == "interrupted":
            self.stop(Interrupted(result))
        else:
            self.stop(told(result, text, story))

    def bury(self, one: W, how: str) -> None:
        one.release()
        self.crew.workers.remove(one)
        if not one.ready:
            self.false_starts += 1
            if self.false_starts > self.crew.starts:
                self.stop(AssayError(f"a worker process did not start ({how}); {self.crew.not_started}"))
        job = one.job
        if job is None or self.trouble is not None:
            return
        self.deaths[job.key] += 1
        self.waiting.appendleft(job)
        if self.deaths[job.key] == DEATHS:
            who = job.label or f"seed {job.seed}"
            self.stop(AssayError(f"the worker doing {who} died {DEATHS} times ({how}); {self.crew.keep_dying}"))

    def stop(self, trouble: AssayError) -> None:
        """Begin no more runs, and have those under way checkpoint."""
        if self.trouble is None:  # Ctrl-C reaches the workers too, so that theirs may be heard of first
            self.trouble = Interrupted("stopped") if self.received else trouble
        for one in self.crew.workers:
            one.send(worker.STOP)

    def progress(self, job: Job, fraction: float) -> None:
        self.on_progress(Progress(job.key, job.label, fraction, "running", self.done, self.total))


def ended(job: Job, record: Record, done: int, total: int) -> Progress:
    """What is told of a run at its end."""
    state: State = "diverged" if record.status == "diverged" else "finished"
    return Progress(job.key, job.label, 1.0, state, done, total)


@contextmanager
def signals() -> Iterator[list[int]]:
    """Collect Ctrl-C and SIGTERM instead of acting on them."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return

    def handle(number: int, frame: FrameType | None) -> None:
        received.append(number)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
