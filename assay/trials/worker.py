"""A worker process: it does the runs it is sent, one after another, and ends with the process that started it.

Nothing heavy is imported before it is needed, so that `warm_up` can be the first thing a program does.
"""

import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from assay.trials.job import Job, Stoppable, Underway

GRACE = 10.0  # seconds from the parent's death to the worker's, for the checkpoint of the present run
REPORTS = 0.2  # seconds between two reports of progress
STOP = b""


def context() -> BaseContext:
    """How workers are started: on Linux forked from a small server that has done the imports once for all of them,
    elsewhere each from nothing."""
    if not sys.platform.startswith("linux"):
        return multiprocessing.get_context("spawn")
    made = multiprocessing.get_context("forkserver")
    made.set_forkserver_preload(["assay.trials.job", "torch._dynamo"])  # the latter every optimizer imports as it steps
    return made


def warm_up() -> None:
    """Begin the workers' imports now, beside whatever this process does next; a `PoolExecutor` then starts at once."""
    if context().get_start_method() != "forkserver":
        return
    from multiprocessing.forkserver import ensure_running

    if threading.current_thread() is not threading.main_thread():
        ensure_running()
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # inherited: Ctrl-C must not end the server at its imports
    try:
        ensure_running()
    finally:
        signal.signal(signal.SIGINT, before)


def work(pipe: Connection) -> None:
    """Do what comes through `pipe` until it closes."""

    def send(message: tuple[Any, ...]) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):  # nobody is left to be told, and `listen` ends the work
            pipe.send(message)

    def listen() -> None:
        while True:
            try:
                order = pipe.recv_bytes()
            except (EOFError, OSError):  # the parent has closed the pipe, or died
                me.stop()
                me.end()
                time.sleep(GRACE)
                os._exit(1)
            me.take(order)

    me = Worker(send)
    for number in (signal.SIGINT, signal.SIGTERM):  # a run under way puts its own handlers over these
        signal.signal(number, me.stop)
    threading.Thread(target=listen, daemon=True).start()
    me.work()


class Worker:
    """Does the runs it is given, in whichever process, and `send`s what comes of them.

    It takes `STOP`, or a pickled (task or `None` for the one before, the job's other fields, the key that the job has
    where it comes from), and sends `("ready",)` at its start, `("progress", fraction)`, and for each job one of
    `("record", record)`, `("interrupted", message)` and
    `("error", name of a class in assay.errors, message, traceback)`.
    """

    def __init__(self, send: Callable[[tuple[Any, ...]], None]) -> None:
        self.send = send
        self.orders = SimpleQueue[bytes | None]()
        self.stopping = False
        self.task: Any = None
        self.run: Stoppable | None = None

    def work(self) -> None:
        """Do what is taken, one after another, until `end`."""
        self.send(("ready",))
        while (order := self.orders.get()) is not None:
            self.send(self.answer(order))

    def take(self, order: bytes) -> None:
        """Any thread may call this, and `stop` and `end` too."""
        if order == STOP:
            self.stop()
        else:
            self.orders.put(order)

    def end(self) -> None:
        """Have `work` end after what was taken before."""
        self.orders.put(None)

    def stop(self, *_: object) -> None:
        """Have the run checkpoint and end, whether it has begun yet or not."""
        self.stopping = True
        if self.run is not None:
            self.run.stop()

    def started(self, run: "Stoppable") -> None:
        self.run = run
        if self.stopping:
            run.stop()

    def placed(self, job: "Job", key: str) -> "Job":
        """`job`, whose key is `key` where it comes from, as it is to be done here."""
        return job

    def answer(self, order: bytes) -> tuple[Any, ...]:
        from assay.errors import AssayError, Interrupted
        from assay.trials.job import Job, failure, perform

        told = time.monotonic()

        def watch(run: "Underway") -> None:
            nonlocal told
            if time.monotonic() - told >= REPORTS:
                told = time.monotonic()
                self.send(("progress", run.progress))

        try:
            task, fields, key = pickle.loads(order)
        except Exception as error:  # whatever a user's module raises as it is imported
            text = (
                f"a worker process cannot rebuild the task or its methods ({type(error).__name__}: {error}); define "
                "them in a file, or run without workers (executor='serial')"
            )
            return "error", "AssayError", text, traceback.format_exc()
        if task is not None:
            self.task = task
        job = Job(task=self.task, **fields)
        try:
            return "record", perform(self.placed(job, key), watch, self.started)
        except Interrupted as stopped:
            return "interrupted", str(stopped)
        except Exception as error:
            told_as = failure(job, error)
            kind = next(c.__name__ for c in type(told_as).__mro__ if c.__module__ == AssayError.__module__)
            return "error", kind, str(told_as), "".join(traceback.format_exception(error))
        finally:
            self.run = None
