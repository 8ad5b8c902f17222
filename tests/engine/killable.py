"""Runs in a process of their own, for tests that kill it."""

import multiprocessing
import os
import pickle
import signal
import sys
import time
from multiprocessing import forkserver
from pathlib import Path

import pytest
import torch
from unusual import DigitsGAN
from workloads import Blobs, NoisyGradients, bits

from assay.engine import Method, Recipe, Run, checkpoint
from assay.errors import Interrupted
from assay.methods.adadagrad import AdAdaGrad

FORKSERVER = multiprocessing.get_context("forkserver")  # forks from a process that has imported torch and done no more
FORKSERVER.set_forkserver_preload(["killable", "torch._dynamo"])  # which the first optimizer would import


class Patient(Blobs):
    """Steps slow enough for a killer to find the run alive."""

    def step(self, run, batch):
        time.sleep(0.003)
        return super().step(run, batch)


class Slow(Method):
    """The same of any task."""

    name = "slow"

    def updated(self, run):
        time.sleep(0.003)


class SlowToJudge(Blobs):
    """Says that it has begun to judge, and takes its time."""

    def __init__(self, mark: Path) -> None:
        super().__init__(noisy=True)
        self.mark, self.source = mark, "slow"

    def evaluate(self, run, examples, batch_size=500):
        self.mark.write_text("")
        time.sleep(0.2)
        return super().evaluate(run, examples, batch_size)


def make(kind: str, folder: Path | None) -> Run:
    """A run that has all that a checkpoint must hold, and that writes one every 20 ms."""
    common = {"folder": folder, "checkpoint_every": 0.02, "evaluations": 7}
    if kind == "classifier":  # batch norm, dropout, momentum, cosine, augmentation, a method with state and chance
        recipe = Recipe(schedule="cosine", warmup=0.1, batch_size=16).with_methods([NoisyGradients()])
        return Run(Patient(noisy=True, hidden=64), recipe, seed=3, budget="300steps", **common)
    if kind == "growing":  # batches of 8 to 62, in parts
        recipe = Recipe(lr=0.05, schedule="cosine", batch_size=8)
        recipe = recipe.with_methods([NoisyGradients(), AdAdaGrad(eta=1.2, part_size=16), Slow()])
        return Run(Blobs(noisy=True, hidden=64), recipe, seed=3, budget="6000samples", **common)
    if kind == "judging":
        return Run(SlowToJudge(folder.parent / "judging"), seed=3, budget="40steps", **common | {"evaluations": 2})
    recipe = DigitsGAN.recipe.with_settings({"schedule": "onecycle", "clip_norm": 1.0})
    return Run(DigitsGAN(), recipe, seed=3, budget="200steps", **common)


def die_while_saving(moment: str, nth: int) -> None:
    """Arrange that this process is killed at a moment of its `nth` checkpoint."""
    calls = 0
    sync, rename = os.fsync, os.replace

    def on_sync(number):
        nonlocal calls
        calls += 1
        if calls == nth and moment == "half written":
            os.ftruncate(number, os.fstat(number).st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        sync(number)

    def on_rename(part, path):
        if calls == nth and moment == "before the rename":
            os.kill(os.getpid(), signal.SIGKILL)
        rename(part, path)
        if calls == nth and moment == "after the rename":
            os.kill(os.getpid(), signal.SIGKILL)

    checkpoint.os.fsync, checkpoint.os.replace = on_sync, on_rename


def work(kind: str, folder: Path | None, out: Path, die: tuple[str, int] | None) -> None:
    torch.set_num_threads(1)
    if die is not None:
        die_while_saving(*die)
    run = make(kind, folder)
    try:
        record = run.train()
    except Interrupted as stop:
        out.write_text(str(stop))
        raise SystemExit(2) from None
    out.write_bytes(pickle.dumps(bits(run, record)))


def start(kind: str, folder: Path | None, out: Path, die: tuple[str, int] | None = None):
    with pytest.MonkeyPatch.context() as patch:  # Python 3.11 forgets to tell the server where to import from
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        forkserver.ensure_running()
    child = FORKSERVER.Process(target=work, args=(kind, folder, out, die), daemon=True)
    child.start()
    return child


def newest(folder: Path) -> int:
    """The step of the newest checkpoint."""
    return max((int(path.name.split("-")[1]) for path in folder.glob("*.pt")), default=0)
