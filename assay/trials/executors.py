"""Who does the runs: this process, or a pool of worker processes. Both give the same bits."""

import pickle
import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any, Protocol, runtime_checkable

from joblib import cpu_count

from assay import errors
from assay.engine import Record, Run, Task
from assay.errors import AssayError, Interrupted
from assay.trials import worker
from assay.trials.job import Job, Progress, State, failure, perform

OnRecord = Callable[[Job, Record], None]
OnProgress = Callable[[Progress], None]

DEATHS = 3  # of one run's workers, before the run is given up
TICK = 0.2  # seconds between looks at whether a signal has come


@runtime_checkable
class Executor(Protocol):
    """Carries out jobs, in any order."""

    def run(self, jobs: Sequence[Job], *, on_record: OnRecord, on_progress: OnProgress) -> None:
        """Do `jobs`, telling of each as it is done.

        Raises:
            AssayError: a run failed; what was done before has been told of.
            Interrupted: Ctrl-C or SIGTERM; runs under way have left checkpoints where they have a folder.
        """
        ...

    def __enter__(self) -> "Executor": ...

    def __exit__(self, *_: object) -> None: ...


class SerialExecutor:
    """Runs one after another in this process."""

    def run(self, jobs: Sequence[Job], *, on_record: OnRecord, on_progress: OnProgress) -> None:
        for done, job in enumerate(jobs):
            told = time.monotonic()

            def watch(run: Run, job: Job = job, done: int = done) -> None:
                nonlocal told
                if time.monotonic() - told >= worker.REPORTS:
                    told = time.monotonic()
                    on_progress(Progress(job.key, job.label, run.progress, "running", done, len(jobs)))

            on_progress(Progress(job.key, job.label, 0.0, "running", done, len(jobs)))
            try:
                record = perform(job, watch)
            except Exception as error:
                raise failure(job, error)  # noqa: B904 - the cause is set already, and an AssayError has its own
            on_record(job, record)
            on_progress(_ended(job, record, done + 1, len(jobs)))

    def __enter__(self) -> "SerialExecutor":
        return self

    def __exit__(self, *_: object) -> None:
        return


class PoolExecutor:
    """Runs in worker processes. Inside a `with` block they stay for the next call; outside, each call ends its own.

    A worker that dies (killed, out of memory) is replaced and its run goes on from its last checkpoint. Workers end by
    themselves if this process dies.

    Args:
        limit: processes at most, and never more than runs are left; as many as this process may use cores by default.

    Attributes:
        workers: those that live now.
    """

    def __init__(self, limit: int | None = None) -> None:
        if limit is not None and limit < 1:
            raise AssayError(f"workers must be at least 1, got {limit}")
        self.limit = limit or cpu_count()  # knows of affinity and of containers' quotas
        self.workers: list[_Worker] = []
        self._staying = False

    def __enter__(self) -> "PoolExecutor":
        self._staying = True
        return self

    def __exit__(self, *_: object) -> None:
        self._staying = False
        self._close()

    def run(self, jobs: Sequence[Job], *, on_record: OnRecord, on_progress: OnProgress) -> None:
        try:
            with _signals() as received:
                _Round(self, jobs, on_record, on_progress, received).run()
        except BaseException:
            self._close()
            raise
        if not self._staying:
            self._close()

    def _close(self) -> None:
        """End the workers: at once where they are idle, else after the checkpoint of their present run."""
        for one in self.workers:
            one.pipe.close()
        end = time.monotonic() + worker.GRACE
        for one in self.workers:
            one.process.join(max(end - time.monotonic(), 0.1))
            if one.process.exitcode is None:
                one.process.kill()
                one.process.join()
        self.workers.clear()


@dataclass(eq=False)
class _Worker:
    process: BaseProcess
    pipe: Connection
    ready: bool = False
    job: Job | None = None
    task: bytes = b""  # the pickled task it holds

    @classmethod
    def start(cls) -> "_Worker":
        worker.warm_up()
        context = worker.context()
        here, there = context.Pipe()
        process = context.Process(target=worker.work, args=(there,))  # type: ignore[attr-defined]
        process.start()
        there.close()
        return cls(process, here)

    def give(self, job: Job, task: bytes) -> None:
        self.job = job
        rest = {f.name: getattr(job, f.name) for f in fields(job) if f.name != "task"}
        sent = None if task == self.task else job.task
        self.task = task
        with suppress(BrokenPipeError, ConnectionResetError):  # it has died, which its sentinel will tell
            self.pipe.send_bytes(_pickled(job.task, (sent, rest)))

    def stop(self) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):
            self.pipe.send_bytes(worker.STOP)

    def messages(self) -> Iterator[tuple[Any, ...]]:
        """What it has sent until now."""
        with suppress(EOFError, ConnectionResetError):  # it has died, which its sentinel will tell
            while self.pipe.poll():
                yield self.pipe.recv()


class _Round:
    """One call of `PoolExecutor.run`."""

    def __init__(
        self,
        pool: PoolExecutor,
        jobs: Sequence[Job],
        on_record: OnRecord,
        on_progress: OnProgress,
        received: list[int],
    ) -> None:
        self.pool, self.on_record, self.on_progress, self.received = pool, on_record, on_progress, received
        self.waiting, self.done, self.total = deque(jobs), 0, len(jobs)
        self.deaths: Counter[str] = Counter()
        self.trouble: AssayError | None = None  # why no more runs are begun
        self.tasks = {id(job.task): _pickled(job.task, job.task) for job in jobs}

    def run(self) -> None:
        workers = self.pool.workers
        while (busy := sum(one.job is not None for one in workers)) or (self.waiting and self.trouble is None):
            if self.received and self.trouble is None:
                self.stop(Interrupted("stopped"))
            if len(self.received) > 1:  # the second Ctrl-C does not wait for checkpoints
                for one in workers:
                    one.process.kill()
            if self.trouble is None:
                while len(workers) < min(busy + len(self.waiting), self.pool.limit):
                    workers.append(_Worker.start())
                self.give()
            heard = wait([*(one.pipe for one in workers), *(one.process.sentinel for one in workers)], TICK)
            for one in list(workers):
                dead = one.process.sentinel in heard
                for message in one.messages() if dead or one.pipe in heard else ():
                    self.hear(one, message)
                if dead:
                    self.bury(one)
        if self.trouble is not None:
            raise self.trouble

    def give(self) -> None:
        for one in self.pool.workers:
            if one.ready and one.job is None and self.waiting:
                job = self.waiting.popleft()
                one.give(job, self.tasks[id(job.task)])
                self.progress(job, 0.0)

    def hear(self, one: _Worker, message: tuple[Any, ...]) -> None:
        kind, job = message[0], one.job
        if kind == "ready" or job is None:
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
            self.on_progress(_ended(job, result, self.done, self.total))
        elif kind == "interrupted":
            self.stop(Interrupted(result))
        else:
            made: AssayError = AssayError.__new__(getattr(errors, result), text)  # some take more than their text
            made.__cause__ = _Remote(story)
            self.stop(made)

    def bury(self, one: _Worker) -> None:
        one.process.join()
        one.pipe.close()
        self.pool.workers.remove(one)
        job, code = one.job, one.process.exitcode or 0
        how = f"ended by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        if not one.ready:
            self.stop(
                AssayError(
                    f"a worker process did not start ({how}); a script that calls this must do so under "
                    "`if __name__ == '__main__':`, or run without workers (executor='serial')"
                )
            )
        if job is None or self.trouble is not None:
            return
        self.deaths[job.key] += 1
        self.waiting.appendleft(job)
        if self.deaths[job.key] == DEATHS:
            self.stop(
                AssayError(
                    f"the worker doing {job.label or f'seed {job.seed}'} died {DEATHS} times ({how}); if memory "
                    "ran out, use fewer workers or a smaller batch_size"
                )
            )

    def stop(self, trouble: AssayError) -> None:
        """Begin no more runs, and have those under way checkpoint."""
        if self.trouble is None:  # Ctrl-C reaches the workers too, so that theirs may be heard of first
            self.trouble = Interrupted("stopped") if self.received else trouble
        for one in self.pool.workers:
            one.stop()

    def progress(self, job: Job, fraction: float) -> None:
        self.on_progress(Progress(job.key, job.label, fraction, "running", self.done, self.total))


class _Remote(Exception):
    """The traceback of another process, as text."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


def _ended(job: Job, record: Record, done: int, total: int) -> Progress:
    state: State = "diverged" if record.status == "diverged" else "finished"
    return Progress(job.key, job.label, 1.0, state, done, total)


def _pickled(task: Task, what: Any) -> bytes:
    try:
        return pickle.dumps(what)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise AssayError(
            f"task {task.name!r} or one of its methods cannot be sent to a worker process ({error}); define it at the "
            "top level of a file, or run without workers (executor='serial')"
        ) from error


@contextmanager
def _signals() -> Iterator[list[int]]:
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
