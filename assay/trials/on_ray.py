"""Runs by the workers of a Ray cluster: one actor a worker, which does one run after another.

Ray is imported by `RayExecutor` alone, and not before it has something to do.
"""

import logging
import multiprocessing.spawn
import os
import pickle
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from queue import SimpleQueue
from typing import Any, ClassVar

import torch
from joblib import cpu_count

from assay.errors import AssayError
from assay.trials import worker
from assay.trials.crew import TICK, Crew, Worker
from assay.trials.job import Job

STORE = 128 * 2**20  # bytes for objects on their way in a local Ray: records are small, and more goes to the disk
ANSWER = 5.0  # seconds for an address to answer; Ray itself tries for minutes
LOOK = 1.0  # seconds between looks at which nodes there are


class RayExecutor(Crew["_RayWorker"]):
    """Runs on a Ray cluster; for the rest see `Crew`. docs/ray.md says what the nodes must have.

    Args:
        address: of the cluster, `"HOST:PORT"` or `"auto"`. Without one, a Ray of this machine alone is started, and
            stopped at the end; where the program is connected to Ray already, that is taken.
        cpus_per_run: CPUs that Ray sets aside for a run, which has as many threads.
        gpus_per_run: GPUs that Ray sets aside for a run: 0, 1, or a fraction where runs share one.
        limit: runs at a time, also if the cluster must grow first; by default as many as it holds.

    Raises:
        AssayError: Ray is not installed, or an argument is out of range.
    """

    starts: ClassVar[int] = 2  # a node may be lost while one starts on it
    not_started: ClassVar[str] = (
        "every node needs the same assay, Python and Ray as this one, and a script that calls this must do so under "
        "`if __name__ == '__main__':`"
    )
    keep_dying: ClassVar[str] = "if memory ran out, give runs more CPUs each, so that fewer share a node"

    def __init__(
        self,
        address: str | None = None,
        *,
        cpus_per_run: int = 1,
        gpus_per_run: float = 0.0,
        limit: int | None = None,
    ) -> None:
        super().__init__()
        if find_spec("ray") is None:
            raise AssayError("executor 'ray' needs Ray, which is not installed: pip install 'assay[ray]'")
        if cpus_per_run < 1:
            raise AssayError(f"cpus_per_run must be at least 1, got {cpus_per_run}")
        if not 0 <= gpus_per_run <= 1:
            raise AssayError(f"gpus_per_run must lie between 0 and 1, a run has one device at most; got {gpus_per_run}")
        if limit is not None and limit < 1:
            raise AssayError(f"workers must be at least 1, got {limit}")
        if address is not None and address.startswith("ray://"):
            raise AssayError(
                f"address {address!r} is for a Ray client; run this on a node of the cluster, with HOST:PORT or 'auto'"
            )
        self.address, self.cpus_per_run, self.gpus_per_run, self.limit = address, cpus_per_run, gpus_per_run, limit
        self._ray: Any = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None  # of a Ray started here
        self._borrowed = False  # the connection is the program's own
        self._looked, self._room = -LOOK, 0

    def open(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            if job.threads != self.cpus_per_run:
                raise AssayError(
                    f"a run of {job.threads} threads needs cpus_per_run={job.threads}, got {self.cpus_per_run}"
                )
            if job.accelerator != ("cuda" if self.gpus_per_run else "cpu"):
                raise AssayError(
                    "on Ray, accelerator cpu goes with gpus_per_run 0, and cuda with 1 or a fraction; got accelerator "
                    f"{job.accelerator} and gpus_per_run {self.gpus_per_run:g}"
                )
        self._connect()
        self._looked = -LOOK

    def at_once(self) -> int:
        """How many runs the cluster has room for, whoever else uses it.

        Raises:
            AssayError: no node is large enough for even one.
        """
        if time.monotonic() - self._looked >= LOOK:
            self._room = self._count(self._nodes())
            self._looked = time.monotonic()
        return self.limit or self._room

    def hire(self) -> "_RayWorker":
        seat = self._ray.remote(concurrency_groups={"orders": 1})(_Seat)
        options = {"num_cpus": self.cpus_per_run, "num_gpus": self.gpus_per_run, "max_restarts": 0}
        return _RayWorker(self._ray, seat.options(**options).remote(_origin()))

    def listen(self, seconds: float) -> "list[_RayWorker]":
        self._ray.wait([one.stream for one in self.workers], timeout=seconds)
        return list(self.workers)

    def close(self) -> None:
        busy = [one for one in self.workers if one.job is not None]
        for one in busy:
            one.send(worker.STOP)
        end = time.monotonic() + worker.GRACE
        while busy and time.monotonic() < end:
            self.listen(TICK)
            busy = [one for one in busy if all(message[0] == "progress" for message in one.messages())]
        for one in self.workers:
            one.kill()
        self.workers.clear()
        self._disconnect()

    def _connect(self) -> None:
        if self._ray is not None:
            return
        if self.address is not None:
            _knock(self.address)
        # Ray reads both as it is imported
        os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")  # its news of lost workers, which go to stdout
        if self.address is None:
            os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # servers that this machine alone reaches
        import ray

        if ray.is_initialized():
            context = ray.get_runtime_context()
            if context.worker.mode == ray.WORKER_MODE:  # in a program that its own workers import
                raise AssayError("a worker of Ray cannot start workers")
            there = context.gcs_address
            if self.address not in (None, "auto", there):
                raise AssayError(
                    f"this program uses the Ray cluster at {there} already, so it cannot use {self.address}"
                )
            self._ray, self._borrowed = ray, True
            return
        if self.address is None:
            self._count([_here()])  # what cannot be is told before Ray is started
            self._folder = tempfile.TemporaryDirectory(prefix="ray-", dir=_short(), ignore_cleanup_errors=True)
            cpus, gpus = map(int, _here())
            how: dict[str, Any] = {
                "address": "local",
                "num_cpus": cpus,
                "num_gpus": gpus,
                "include_dashboard": False,
                "object_store_memory": STORE,
                "_temp_dir": self._folder.name,
            }
        else:
            how = {"address": self.address}
        main = threading.current_thread() is threading.main_thread()
        before = signal.getsignal(signal.SIGTERM)
        self._ray = ray
        try:
            ray.init(**how, log_to_driver=False, logging_level=logging.CRITICAL)
        except Exception as error:  # of many kinds, a plain `Exception` among them
            self._disconnect()
            where = f"cannot use the Ray cluster at {self.address!r}" if self.address else "Ray does not start"
            raise AssayError(f"{where}: {' '.join(str(error).split())}") from error
        except BaseException:
            self._disconnect()
            raise
        finally:
            if main:
                signal.signal(signal.SIGTERM, before)  # Ray puts its own there

    def _disconnect(self) -> None:
        if self._ray is not None and not self._borrowed:
            self._ray.shutdown()
        self._ray, self._borrowed, self._looked = None, False, -LOOK
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def _nodes(self) -> list[tuple[float, float]]:
        """CPUs and GPUs of each; this machine's before it is started as a cluster."""
        if self._ray is None and self.address is None:
            return [_here()]
        self._connect()
        alive = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        return [(found.get("CPU", 0.0), found.get("GPU", 0.0)) for found in alive]

    def _count(self, nodes: Sequence[tuple[float, float]]) -> int:
        """The runs that `nodes` of these CPUs and GPUs hold."""
        shares = int(1 / self.gpus_per_run + 1e-9) if self.gpus_per_run else 0
        room = sum(int(min(cpus // self.cpus_per_run, gpus * shares if shares else cpus)) for cpus, gpus in nodes)
        if room < 1:
            there = "; ".join(sorted({f"{cpus:g} CPUs and {gpus:g} GPUs" for cpus, gpus in nodes})) or "nothing"
            raise AssayError(
                f"a run is to have {self.cpus_per_run} CPUs and {self.gpus_per_run:g} GPUs, and no node of the Ray "
                f"cluster has as many; nodes have {there}"
            )
        return room


class _RayWorker(Worker):
    def __init__(self, ray: Any, seat: Any) -> None:
        super().__init__()
        self._ray, self._seat = ray, seat
        self.stream = seat.messages.options(num_returns="streaming").remote()

    def give(self, job: Job, task: bytes) -> None:
        if job.folder is not None:  # where a worker does not see it, there is no use in its checkpoints
            folder = job.folder / job.key
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise AssayError(f"cannot write checkpoints into {folder}: {error.strerror or error}") from error
        super().give(job, task)

    def send(self, order: bytes) -> None:
        self._seat.take.options(concurrency_group="orders").remote(order)

    def messages(self) -> Iterator[tuple[Any, ...]]:
        while self._ray.wait([self.stream], timeout=0)[0]:
            try:
                sent = self._ray.get(next(self.stream))
            except self._ray.exceptions.RayError as error:
                yield "dead", _in_words(str(error))
                return
            yield pickle.loads(sent)

    def kill(self) -> None:
        self._ray.kill(self._seat)

    def release(self) -> None:
        return


class _Seat:
    """The actor: a worker whose messages are a stream. It runs at the node."""

    def __init__(self, origin: dict[str, Any]) -> None:
        sys.path += [entry for entry in origin["path"] if entry not in sys.path]
        if Path(origin["folder"]).is_dir():  # for what the task names by a relative path
            os.chdir(origin["folder"])
        # classes of the program itself are found as in any spawned process
        multiprocessing.spawn.prepare(origin["main"])
        self.sent = SimpleQueue[tuple[Any, ...]]()
        self.worker = _Placed(self.sent.put)
        threading.Thread(target=self.worker.work, daemon=True).start()

    def messages(self) -> Iterator[bytes]:
        while True:
            yield pickle.dumps(self.sent.get())

    def take(self, order: bytes) -> None:
        self.worker.take(order)


class _Placed(worker.Worker):
    """A worker that may be on another machine than the caller."""

    def placed(self, job: Job, key: str) -> Job:
        if job.key != key:
            raise AssayError(
                f"node {socket.gethostname()} has another code of assay, of the task or of a method, or another torch "
                "than the caller, so its figures would not be comparable; make them equal, and edit nothing meanwhile"
            )
        if job.folder is None or (job.folder / key).is_dir():
            return job
        return replace(job, folder=None)  # the caller's disk is not seen from here: a checkpoint would help nobody


def _origin() -> dict[str, Any]:
    """What a worker needs to know of this process to import what it imports."""
    found = multiprocessing.spawn.get_preparation_data("assay")
    main = {name: value for name, value in found.items() if name.startswith("init_main")}
    if not Path(main.get("init_main_from_path", __file__)).is_file():  # an interactive session has none
        main = {}
    return {"path": [os.path.abspath(entry) for entry in sys.path], "folder": os.getcwd(), "main": main}


def _here() -> tuple[float, float]:
    """CPUs and GPUs of this machine, as far as this process may use them."""
    return float(cpu_count()), float(torch.cuda.device_count())


def _short() -> str:
    """A folder for temporary files whose path leaves room for those of Ray's sockets, of 107 bytes at most."""
    usual = tempfile.gettempdir()
    return usual if len(os.fsencode(usual)) <= 30 else "/tmp"


def _knock(address: str) -> None:
    """Raise AssayError if nobody is there."""
    host, colon, port = address.rpartition(":")
    if address == "auto":
        return
    if not colon or not port.isdecimal():
        raise AssayError(f"address of a Ray cluster must be HOST:PORT or auto, got {address!r}")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER).close()
    except (OSError, OverflowError) as error:
        raise AssayError(f"no Ray cluster answers at {address}: {error}; is its head node started?") from error


def _in_words(story: str) -> str:
    """How a worker died, of the page that Ray tells about it."""
    for sign, words in (
        ("low on memory", "its node ran out of memory"),
        ("node has died", "its node was lost"),
        ("creation task", story.strip().splitlines()[-1]),
    ):
        if sign in story:
            return words
    return "its process ended"
