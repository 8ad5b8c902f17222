"""Small tasks and methods that the engine's tests share."""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from assay.engine import Batch, Method, Metric, Recipe, Run, Splits, Task, TensorExamples


def blobs(samples: int, features: int, classes: int, seed: int) -> TensorExamples:
    """Gaussian classes around fixed centres; training inputs get noise, so that augmentation draws too."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, features, generator=torch.Generator().manual_seed(99))
    y = torch.randint(classes, (samples,), generator=generator)
    x = centres[y] + 0.8 * torch.randn(samples, features, generator=generator)
    return TensorExamples(x, y, augment=lambda x, g: x + 0.05 * torch.randn(x.shape, generator=g))


class Blobs(Task):
    """A classifier of Gaussian classes; `hidden=0` is a linear one, `noisy` adds batch norm and dropout."""

    name = "blobs"
    metrics = (Metric("accuracy", "max", 0.0, "%"), Metric("loss", "min", 2.0))
    recipe = Recipe(lr=0.1, batch_size=16)
    budget = "2epochs"
    traits = frozenset({"classification"})
    varies = frozenset({"init", "order", "split"})

    def __init__(self, samples: int = 160, features: int = 8, classes: int = 4, hidden: int = 16, noisy: bool = False):
        self.samples, self.features, self.classes, self.hidden, self.noisy = samples, features, classes, hidden, noisy

    def settings(self):
        return {k: getattr(self, k) for k in ("samples", "features", "classes", "hidden", "noisy")}

    def splits(self, seed):
        return Splits(*(blobs(n, self.features, self.classes, seed + i) for i, n in enumerate((self.samples, 80, 80))))

    def model(self):
        if not self.hidden:
            return nn.Linear(self.features, self.classes)
        between = [nn.BatchNorm1d(self.hidden), nn.ReLU(), nn.Dropout(0.3)] if self.noisy else [nn.ReLU()]
        return nn.Sequential(nn.Linear(self.features, self.hidden), *between, nn.Linear(self.hidden, self.classes))

    def loss(self, outputs, targets, reduction="mean"):
        return F.cross_entropy(outputs, targets, reduction=reduction)

    def outcomes(self, model, batch):
        logits = model(batch.x)
        return {
            "accuracy": (logits.argmax(1) == batch.y).float(),
            "loss": F.cross_entropy(logits, batch.y, reduction="none"),
        }


@dataclass
class NoisyGradients(Method):
    """Gaussian noise on the gradients, from a stream of its own, less and less by a running mean of their norm."""

    scale: float = 0.01
    name = "noisy-gradients"

    def setup(self, run: Run) -> None:
        self.generator = run.generator(self.name)
        self.mean, self.calls = torch.zeros(()), 0

    def gradients(self, run: Run) -> None:
        for p in run.model.parameters():
            self.mean = 0.9 * self.mean + 0.1 * p.grad.norm()
            p.grad += self.scale * torch.randn(p.shape, generator=self.generator) / (1 + self.mean)
        self.calls += 1
        run.log("mean_norm", self.mean.item())

    def state_dict(self):
        return {"mean": self.mean, "calls": self.calls}

    def load_state_dict(self, state):
        self.mean, self.calls = state["mean"], state["calls"]


def bits(run: Run, record) -> dict:
    """All of a run that must not depend on when it was looked at, killed or resumed."""
    told = record.to_json()
    for name in ("seconds", "wall_seconds", "peak_memory"):
        del told[name]
    told["curve"] = [{k: v for k, v in point.items() if k != "seconds"} for point in told["curve"]]
    return {
        "record": told,
        "outcomes": {name: values.tobytes() for name, values in record.outcomes.items()},
        "weights": {name: t.numpy().tobytes() for name, t in run.model.state_dict().items()},
    }


class Ones(Task):
    """Batches of ones and a one-weight model whose step is whatever a test gives: for budgets, counters, divergence."""

    name = "ones"
    recipe = Recipe(lr=0.1, batch_size=4)

    def __init__(self, step=None, samples: int = 20) -> None:
        self.own_step, self.samples = step, samples

    def splits(self, seed):
        data = TensorExamples(torch.ones(self.samples, 3), torch.ones(self.samples, 1))
        return Splits(data, data, None)

    def model(self):
        return nn.Linear(3, 1)

    def loss(self, outputs, targets, reduction="mean"):
        return F.mse_loss(outputs, targets, reduction=reduction)

    def outcomes(self, model, batch: Batch):
        return {"error": (model(batch.x) - batch.y).square().mean(1)}

    def step(self, run, batch):
        return self.own_step(run, batch) if self.own_step else super().step(run, batch)
