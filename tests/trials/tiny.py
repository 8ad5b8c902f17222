"""Tasks and methods small enough to be trained hundreds of times, in a file that worker processes can import."""

import os
import signal
import time
from dataclasses import dataclass

import torch
from torch import nn

from assay.engine import Batch, Method, Metric, Recipe, Splits, Task, TensorExamples
from assay.errors import MissingData


class Tiny(Task):
    """Two overlapping clouds of points and a linear classifier."""

    name = "tiny"
    metrics = (Metric("accuracy", "max", 0.0, "%"), Metric("nll", "min", 0.6931, "nats"))
    recipe = Recipe(lr=0.1, batch_size=16)
    budget = "30steps"
    traits = frozenset({"classification"})
    varies = frozenset({"init", "order", "split"})

    def splits(self, seed: int) -> Splits:
        generator = torch.Generator().manual_seed(0)
        y = torch.randint(2, (400,), generator=generator)
        x = torch.randn(400, 4, generator=generator) + y[:, None] * 0.7
        order = torch.randperm(400, generator=torch.Generator().manual_seed(seed % 2**31))
        return Splits(*(TensorExamples(x[ids], y[ids]) for ids in order.split([200, 100, 100])))

    def model(self) -> nn.Module:
        return nn.Linear(4, 2)

    def loss(self, outputs, targets, reduction="mean"):
        return nn.functional.cross_entropy(outputs, targets, reduction=reduction)

    def outcomes(self, model, batch):
        logits = model(batch.x)
        return {"accuracy": (logits.argmax(1) == batch.y).float(), "nll": self.loss(logits, batch.y, "none")}


class NoData(Tiny):
    """Its data are not there."""

    def splits(self, seed: int) -> Splits:
        raise MissingData("tiny is not in ~/data; get it with ...")


class NoTest(Tiny):
    """Reading its test split is an error."""

    def splits(self, seed: int) -> Splits:
        found = super().splits(seed)
        return Splits(found.train, found.valid, _Forbidden())


class _Forbidden:
    def __len__(self) -> int:
        return 100

    def batch(self, ids, generator=None):
        raise ValueError("the test split was read")


@dataclass
class Twice(Method):
    """An extra forward and backward pass whose result is thrown away: double the FLOPs, the same network."""

    name = "twice"

    def step(self, run, batch, proceed):
        run.task.loss(run.model(batch.x), batch.y).backward()
        run.optimizer.zero_grad()
        return proceed(batch)


@dataclass
class Scale(Method):
    """The loss times a factor."""

    name = "scale"
    factor: float = 1.0

    def objective(self, run, batch, proceed):
        return self.factor * proceed(batch)


@dataclass
class Explode(Method):
    """A loss that is not finite from the third step on."""

    name = "explode"

    def objective(self, run, batch: Batch, proceed):
        return proceed(batch) * (float("inf") if run.steps >= 2 else 1.0)


@dataclass
class Fail(Method):
    """A mistake in a user's code."""

    name = "fail"

    def batch(self, run, batch):
        raise KeyError("no such column")


@dataclass
class Pause(Method):
    """Each step takes a while, so that something can happen during it."""

    name = "pause"
    seconds: float = 0.02

    def updated(self, run):
        time.sleep(self.seconds)


@dataclass
class Die(Method):
    """Its process gets a signal in step `at`, as often as `times`; `log` has a line for every step begun."""

    name = "die"
    log: str = ""
    at: int = 20
    times: int = 1
    number: int = signal.SIGKILL

    def batch(self, run, batch):
        with open(self.log, "a+") as file:
            file.write(f"{run.steps}\n")
            file.seek(0)
            deaths = file.read().split().count(str(self.at))
        if run.steps == self.at and deaths <= self.times:
            os.kill(os.getpid(), self.number)
        return batch
