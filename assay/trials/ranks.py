"""A run on several devices, done by a process for each: started, watched and, where one dies, started again.

They find each other as torchrun's do, by its variables and a store in this process, and are workers as a pool's are.
torchrun itself would import torch anew for every run, answer Ctrl-C by a kill, and tell nothing of progress.
"""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from assay.engine import Record
from assay.engine.stopping import stoppable
from assay.errors import AssayError, Interrupted
from assay.trials import worker
from assay.trials.job import Job, Underway, pickled, told

DEATHS = 3  # of one run's ranks, before the run is given up
TICK = 0.2  # seconds between looks at whether a rank has ended
LATE = 5.0  # seconds after which a rank that says nothing has not seen that the run diverged
SETTLE = 1.0  # seconds from a rank's error, within which the death of another explains it


class Gang:
    """The ranks of one run.

    Args:
        job: the run; its checkpoints are what it goes on from if a rank dies.
        watch: told how it is getting on.

    Attributes:
        progress: share of the budget that is spent.
    """

    def __init__(self, job: Job, watch: Callable[[Underway], None] | None = None) -> None:
        self.job, self.watch, self.progress = job, watch, 0.0
        self._ranks: list[_Rank] = []
        self._stopping = False

    def stop(self) -> None:
        """Have the run checkpoint and end."""
        self._stopping = True
        for rank in self._ranks:
            rank.stop()

    def run(self) -> Record:
        """Do the run.

        Raises:
            Interrupted: it was asked to stop.
            AssayError: it failed, or its ranks died again and again.
        """
        how = ""
        with stoppable(self.stop):
            for _ in range(DEATHS):
                with self._started() as ranks:
                    how = self._listen(ranks)
                    if not how:
                        return _record(ranks)
                if self._stopping:
                    raise Interrupted(f"stopped; one of the ranks had just ended ({how})")
        raise AssayError(
            f"a process of {self.job.label or f'seed {self.job.seed}'} died {DEATHS} times ({how}); if memory ran out, "
            "use more devices, strategy fsdp or a smaller batch_size"
        )

    @contextmanager
    def _started(self) -> Iterator["list[_Rank]"]:
        from torch.distributed import TCPStore  # type: ignore[attr-defined]

        # on a port that the system chooses, and only then told to the ranks
        store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        order = {f.name: getattr(self.job, f.name) for f in fields(self.job) if f.name != "task"}
        sent = pickled(self.job.task, (self.job.task, order, self.job.key))
        try:
            self._ranks = [_Rank.start(rank, self.job.devices, store.port) for rank in range(self.job.devices)]
            for rank in self._ranks:
                rank.send(sent)
            if self._stopping:
                self.stop()
            yield self._ranks
        finally:
            ranks, self._ranks = self._ranks, []
            for rank in ranks:
                rank.end()

    def _listen(self, ranks: "list[_Rank]") -> str:
        """Wait until the run is over; tell how a rank died, if one did before that."""
        late = float("inf")
        while any(rank.answer is None for rank in ranks) and time.monotonic() < late:
            wait([*(rank.pipe for rank in ranks), *(rank.process.sentinel for rank in ranks)], TICK)
            dead = [rank for rank in ranks if rank.process.exitcode is not None]
            for rank in ranks:
                rank.hear()
            if any(rank.kind == "error" for rank in ranks) and not dead:
                wait([rank.process.sentinel for rank in ranks], SETTLE)
                dead = [rank for rank in ranks if rank.process.exitcode is not None]
            if gone := [rank for rank in dead if rank.answer is None]:
                code = gone[0].process.exitcode or 0
                return f"ended by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
            if any(rank.kind == "error" for rank in ranks):
                return ""
            if late == float("inf") and any(rank.kind == "record" and rank.diverged for rank in ranks):
                late = time.monotonic() + LATE
            if ranks[0].progress != self.progress:
                self.progress = ranks[0].progress
                if self.watch is not None:
                    self.watch(self)
        return ""


def _record(ranks: "list[_Rank]") -> Record:
    """The first rank's, or that of the rank that diverged first."""
    for rank in ranks:
        if rank.kind == "error":
            raise told(*(rank.answer or ())[1:])
    for rank in ranks:
        if rank.kind == "interrupted":
            raise Interrupted((rank.answer or ())[1])
    records: list[Record] = [rank.answer[1] for rank in ranks if rank.answer is not None]
    return min(records, key=lambda record: record.diverged_at or float("inf"))


@dataclass(eq=False)
class _Rank:
    process: BaseProcess
    pipe: Connection
    progress: float = 0.0
    answer: tuple[Any, ...] | None = None

    @classmethod
    def start(cls, rank: int, size: int, port: int) -> "_Rank":
        worker.warm_up()
        context = worker.context()
        here, there = context.Pipe()
        process = context.Process(target=_work, args=(there, rank, size, port))  # type: ignore[attr-defined]
        process.start()
        there.close()
        return cls(process, here)

    @property
    def kind(self) -> str:
        """Of its answer: `record`, `interrupted` or `error`, or nothing yet."""
        return self.answer[0] if self.answer is not None else ""

    @property
    def diverged(self) -> bool:
        """Whether its answer is the record of a run that diverged."""
        return self.answer is not None and getattr(self.answer[1], "status", "") == "diverged"

    def send(self, order: bytes) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):  # it has died, which its exit code will tell
            self.pipe.send_bytes(order)

    def stop(self) -> None:
        self.send(worker.STOP)

    def hear(self) -> None:
        """Take note of what it has sent until now."""
        with suppress(EOFError, ConnectionResetError):  # likewise
            while self.pipe.poll():
                kind, *rest = self.pipe.recv()
                if kind == "progress":
                    (self.progress,) = rest
                elif kind != "ready":
                    self.answer = (kind, *rest)

    def end(self) -> None:
        """At once: what it had to give it has given, or it waits for a rank that is gone."""
        self.pipe.close()
        self.process.join(0.0 if self.answer is None else 2.0)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()


def _work(pipe: Connection, rank: int, size: int, port: int) -> None:
    """A rank's process."""
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "MASTER_PORT": port}
    os.environ.update({name: str(number) for name, number in numbers.items()}, MASTER_ADDR="127.0.0.1")
    os.environ.update(TORCHELASTIC_USE_AGENT_STORE="True", TORCHELASTIC_RESTART_COUNT="0")
    if sys.platform.startswith("linux"):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # all are on this machine, and nobody else is to reach them
    try:
        worker.work(pipe)
    finally:
        from torch import distributed

        if distributed.is_initialized():
            distributed.destroy_process_group()
