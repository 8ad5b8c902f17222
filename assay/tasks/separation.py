"""Two classes to separate by a hyperplane, by gradient descent on the logistic loss: in how many iterations?"""

import math
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from assay.analysis.separability import hard_family
from assay.data.digest import digest
from assay.data.digits import digits_content, read_digits
from assay.data.fashion_mnist import find_fashion_mnist, read_fashion_mnist
from assay.data.locate import data_dir as locate
from assay.data.split import stratified_split
from assay.engine import Batch, Evaluation, Examples, Metric, Recipe, Splits, TensorExamples
from assay.errors import AssayError, UnknownName
from assay.tasks.classification import Classification

if TYPE_CHECKING:
    from assay.engine import Run

Data = Literal["fashion-mnist", "digits", "hard"]
WHOLE = 1_000_000  # a batch of all samples, however many there are


class Separation(Classification):
    """Full-batch gradient descent from zero on a linear score, whose last feature is constant; the seed draws which
    images train, and nothing else is random.

    `log2_iterations` counts the updates before the first iterate without a training error, or all of them where none
    had none, which `separated` tells. The run goes on to the end of its budget: its other figures are of a later
    iterate, but for `loss_at_separation` and, of those before, `peak_loss` in its record.

    Args:
        data: `fashion-mnist`; `digits` of scikit-learn; or `hard`, on which the perceptron is slow, see
            `assay.analysis.separability.hard_family`.
        first, second: the classes, 0 to 9, of images.
        samples: images of both to train on; 1000 of Fashion-MNIST by default, where the public ones test, and all of
            the digits, of which the rest tests. Or points of the hard family, 100 by default.
        delta: of the hard family.
        data_dir: the folder of data sets, see `assay.data.locate.data_dir`.

    Raises:
        UnknownName: there is no such data.
        AssayError: a number is out of range.
    """

    name = "separation"
    metrics = (
        Metric("log2_iterations", "min", 30.0),
        Metric("separated", "max", 0.0, "%"),
        Metric("accuracy", "max", 0.0, "%"),
    )
    recipe = Recipe(lr=10.0, momentum=0.0, batch_size=WHOLE, precision="64-true")
    budget = "1000steps"
    varies = frozenset({"init", "order", "split"})

    def __init__(
        self,
        *,
        data: Data = "fashion-mnist",
        first: int = 1,
        second: int = 8,
        samples: int | None = None,
        delta: float = 0.5,
        data_dir: str | None = None,
    ) -> None:
        if data not in get_args(Data):
            raise UnknownName("data", data, get_args(Data))
        if not (0 <= first <= 9 and 0 <= second <= 9 and first != second):
            raise AssayError(f"first and second must be different classes in 0..9, got {first} and {second}")
        if samples is None and data != "digits":
            samples = 1000 if data == "fashion-mnist" else 100
        if samples is not None and samples < 2:
            raise AssayError(f"samples must be at least 2, got {samples}")
        if not 0 < delta < math.inf:
            raise AssayError(f"delta must be positive and finite, got {delta:g}")
        self.data, self.first, self.second, self.samples, self.delta = data, first, second, samples, delta
        self.data_dir, self.fixed_test = data_dir, data == "fashion-mnist"

    def settings(self) -> dict[str, Any]:
        if self.data == "hard":
            return {"data": "hard family", "samples": self.samples, "delta": self.delta}
        content = digest(find_fashion_mnist(locate(self.data_dir))) if self.fixed_test else digits_content()
        return {"data": f"{self.data} {content}", "classes": [self.first, self.second], "samples": self.samples}

    def splits(self, seed: int) -> Splits:
        if self.data == "hard":
            x, y = hard_family(self.samples or 2, self.delta)
            return Splits(TensorExamples(x.float(), (y > 0).long()))
        if self.fixed_test:
            known, public = read_fashion_mnist(find_fashion_mnist(locate(self.data_dir)))
            x, y = self._two(known.images / np.float32(255), known.labels)
            test = TensorExamples(*self._two(public.images / np.float32(255), public.labels))
        else:
            images, labels = read_digits()
            x, y = self._two((images + 1) / 2, labels)
            test = None
        if self.samples is None or self.samples == len(x):
            return Splits(TensorExamples(x, y), None, test)
        if self.samples > len(x):
            raise AssayError(f"samples must be at most {len(x)}, the images of the two classes, got {self.samples}")
        drawn, rest = stratified_split(y.numpy(), (self.samples, len(x) - self.samples), seed)
        return Splits(TensorExamples(x[drawn], y[drawn]), None, test or TensorExamples(x[rest], y[rest]))

    def _two(self, images: np.ndarray, labels: np.ndarray) -> tuple[Tensor, Tensor]:
        """Features [samples, pixels + 1] and classes 0 and 1 of the images of the two classes."""
        rows = np.flatnonzero((labels == self.first) | (labels == self.second))
        flat = images[rows].reshape(len(rows), -1)
        x = np.concatenate([flat, np.ones((len(rows), 1), np.float32)], axis=1)
        return torch.from_numpy(x), torch.from_numpy((labels[rows] == self.second).astype(np.int64))

    def model(self) -> nn.Module:
        return Hyperplane(2 if self.data == "hard" else {"fashion-mnist": 785, "digits": 65}[self.data])

    def objective(self, run: "Run", batch: Batch) -> Tensor:
        if run.splits.train is None or len(batch.y) < len(run.splits.train):
            raise AssayError(f"task 'separation' is about the whole training set at once: leave batch_size at {WHOLE}")
        outputs = run.forward(batch.x)
        loss = run.loss(outputs, batch.y)
        if "separated_at" not in run.extras:
            run.log("peak_loss", max(run.extras.get("peak_loss", 0.0), float(loss.detach())))
            if _separates(outputs, batch.y):
                run.log("separated_at", run.steps)
                run.log("loss_at_separation", loss.detach())
        return loss

    def evaluate(self, run: "Run", examples: Examples | None, batch_size: int = 500) -> Evaluation:
        """How the training has gone so far, and where there are `examples`, accuracy and loss on them."""
        found = super().evaluate(run, examples, batch_size) if examples is not None else Evaluation({}, {})
        iterations = run.extras.get("separated_at", run.steps)
        separated = "separated_at" in run.extras
        if not separated and run.splits.train is not None:  # perhaps the last update did it
            x, y = run.splits.train.batch(torch.arange(len(run.splits.train)))
            separated = _separates(run.forward_module(x.to(run.device)), y.to(run.device))
        own = {"log2_iterations": math.log2(max(iterations, 1)), "separated": float(separated)}
        return Evaluation(own | dict(found.metrics), found.outcomes)


class Hyperplane(nn.Module):
    """Logits (0, theta . x) from theta = 0: their cross-entropy is the logistic loss of theta."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.theta = nn.Linear(features, 1, bias=False)
        nn.init.zeros_(self.theta.weight)

    def forward(self, x: Float[Tensor, "batch features"]) -> Float[Tensor, "batch 2"]:
        z = self.theta(x)
        return torch.cat([torch.zeros_like(z), z], dim=1)


def _separates(outputs: Tensor, y: Tensor) -> bool:
    z = outputs[:, 1] * (2 * y - 1)
    return bool((z > 0).all())
