"""Who does the runs: this process, or a pool of worker processes. Both give the same bits.

A cluster's is in `assay.trials.on_ray`.
"""

import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import wait
from typing import Any, ClassVar, Protocol, runtime_checkable

from joblib import cpu_count

from assay.errors import AssayError
from assay.trials import worker
from assay.trials.crew import Begin, Crew, OnProgress, OnRecord, Worker, ended
from assay.trials.job import Job, Progress, Underway, failure, perform


@runtime_checkable
class Executor(Protocol):
    """Carries out jobs, in any order."""

    def run(
        self, jobs: Sequence[Job], *, on_record: OnRecord, on_progress: OnProgress, begin: Begin = lambda job: True
    ) -> None:
        """Do `jobs`, telling of each as it is done. `begin` is asked in this process right before each is begun, and
        where it says no, that one is left out: another process is doing it.

        Raises:
            AssayError: a run failed; what was done before has been told of.
            Interrupted: Ctrl-C or SIGTERM; runs under way have left checkpoints where they have a folder.
        """
        ...

    def __enter__(self) -> "Executor": ...

    def __exit__(self, *_: object) -> None: ...


class SerialExecutor:
    """Runs one after another in this process."""

    def run(
        self, jobs: Sequence[Job], *, on_record: OnRecord, on_progress: OnProgress, begin: Begin = lambda job: True
    ) -> None:
        done = 0
        for job in jobs:
            if not begin(job):
                continue
            last = time.monotonic()

            def watch(run: Underway, job: Job = job, done: int = done) -> None:
                nonlocal last
                if time.monotonic() - last >= worker.REPORTS:
                    last = time.monotonic()
                    on_progress(Progress(job.key, job.label, run.progress, "running", done, len(jobs)))

            on_progress(Progress(job.key, job.label, 0.0, "running", done, len(jobs)))
            try:
                record = perform(job, watch)
            except Exception as error:
                raise failure(job, error)  # noqa: B904 - the cause is set already, and an AssayError has its own
            on_record(job, record)
            done += 1
            on_progress(ended(job, record, done, len(jobs)))

    def __enter__(self) -> "SerialExecutor":
        return self

    def __exit__(self, *_: object) -> None:
        return


class PoolExecutor(Crew["_PoolWorker"]):
    """Runs in worker processes, which end by themselves if this process dies; for the rest see `Crew`.

    Args:
        limit: processes at most, and never more than runs are left; as many as this process may use cores by default.
    """

    starts: ClassVar[int] = 0
    not_started: ClassVar[str] = (
        "a script that calls this must do so under `if __name__ == '__main__':`, or run without workers "
        "(executor='serial')"
    )
    keep_dying: ClassVar[str] = "if memory ran out, use fewer workers or a smaller batch_size"

    def __init__(self, limit: int | None = None) -> None:
        super().__init__()
        if limit is not None and limit < 1:
            raise AssayError(f"workers must be at least 1, got {limit}")
        self.limit = limit or cpu_count()  # knows of affinity and of containers' quotas

    def at_once(self) -> int:
        return self.limit

    def hire(self) -> "_PoolWorker":
        return _PoolWorker()

    def listen(self, seconds: float) -> "list[_PoolWorker]":
        heard = wait([source for one in self.workers for source in (one.pipe, one.process.sentinel)], seconds)
        return [one for one in self.workers if one.pipe in heard or one.process.sentinel in heard]

    def close(self) -> None:
        for one in self.workers:
            one.pipe.close()
        end = time.monotonic() + worker.GRACE
        for one in self.workers:
            one.process.join(max(end - time.monotonic(), 0.1))
            if one.process.exitcode is None:
                one.process.kill()
                one.process.join()
        self.workers.clear()


class _PoolWorker(Worker):
    def __init__(self) -> None:
        super().__init__()
        worker.warm_up()
        context = worker.context()
        self.pipe, there = context.Pipe()
        self.process = context.Process(target=worker.work, args=(there,))  # type: ignore[attr-defined]
        self.process.start()
        there.close()

    def send(self, order: bytes) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):
            self.pipe.send_bytes(order)

    def messages(self) -> Iterator[tuple[Any, ...]]:
        code = self.process.exitcode  # looked at first: what it sent before its death comes before the news of it
        with suppress(EOFError, ConnectionResetError):
            while self.pipe.poll():
                yield self.pipe.recv()
        if code is not None:
            yield "dead", f"ended by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    def kill(self) -> None:
        self.process.kill()

    def release(self) -> None:
        self.process.join()
        self.pipe.close()
