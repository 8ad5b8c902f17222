"""Methods for runs on several devices, in a file that their processes can import; and such a run as a program."""

import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from tiny import Tiny

from assay.engine import Method, Recipe, Run
from assay.trials import Job, SerialExecutor

STRATEGIES = frozenset({"ddp", "fsdp"})


@dataclass
class Lose(Method):
    """Rank `rank` is killed in step `at`, as often as `times`; `log` has a line for every step that it begins."""

    name = "lose"
    strategies = STRATEGIES
    log: str = ""
    rank: int = 1
    at: int = 20
    times: int = 1

    def batch(self, run, batch):
        if run.ranks.rank == self.rank:
            with open(self.log, "a+") as file:
                file.write(f"{run.steps}\n")
                file.seek(0)
                deaths = file.read().split().count(str(self.at))
            if run.steps == self.at and deaths <= self.times:
                os.kill(os.getpid(), signal.SIGKILL)
        return batch


@dataclass
class Wrong(Method):
    """A mistake in a user's code that shows on one rank; with `spoilt` its loss was not finite before."""

    name = "wrong"
    strategies = STRATEGIES
    spoilt: bool = False

    def objective(self, run, batch, proceed):
        if run.ranks.rank == 1 and run.steps == 4:
            raise KeyError("no such column")
        return proceed(batch) * (float("nan") if self.spoilt and run.ranks.rank == 1 and run.steps == 3 else 1.0)


@dataclass
class Slow(Method):
    """Steps take a while; the first writes its process's number into `folder`."""

    name = "slow"
    strategies = STRATEGIES
    folder: str = ""

    def batch(self, run, batch):
        if run.steps == 1:
            Path(self.folder, f"rank{run.ranks.rank}").write_text(str(os.getpid()))
        time.sleep(0.02)
        return batch


def a_job(*methods, strategy="ddp", folder=None, **changes):
    task = Tiny()
    recipe: Recipe = task.recipe.with_methods(methods)
    return Job(task, recipe, 0, "30steps", devices=2, strategy=strategy, folder=folder, checkpoint_every=0.0, **changes)


def records(executor, jobs, on_progress=lambda event: None):
    found = {}
    executor.run(jobs, on_record=lambda job, record: found.update({job.key: record}), on_progress=on_progress)
    return [found[job.key] for job in jobs]


def under_torchrun(out):
    """What a user's own script does."""
    run = Run(Tiny(), budget="30steps", devices=2)
    record = run.train()
    if run.ranks.rank == 0:
        Path(out).write_text(repr(record.metrics))


if __name__ == "__main__":
    if sys.argv[1] == "torchrun":
        under_torchrun(sys.argv[2])
    else:
        records(SerialExecutor(), [a_job(Slow(sys.argv[2]))])
