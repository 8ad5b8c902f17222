"""Learning from bags: in training only the mean response of each bag of samples is known, in the test every one.

Sources: diabetes, Efron et al., "Least angle regression" (2004), 442 patients, 10 measurements, progression after a
year; digits as in `assay.data.digits`. Both come with scikit-learn.
"""

import hashlib
import math
from functools import cache
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

from assay.data.bags import aggregate, label_dp_aggregate, make_bags
from assay.data.digits import read_digits
from assay.data.split import stratified_split
from assay.engine import Batch, Metric, Recipe, Splits, Task, TensorExamples
from assay.errors import AssayError, UnknownName
from assay.losses.aggregate import Loss, bag_loss
from assay.models.mlp import MLP

Data = Literal["diabetes", "digits"]
Network = Literal["linear", "mlp"]
SIZES = {"diabetes": (220, 80, 142), "digits": (1100, 340, 357)}  # to train, to validate, to test
OUTPUTS = {"diabetes": 1, "digits": 10}


class Bags(Task):
    """Random bags of equal size, drawn anew by the seed; those who train know each bag's mean response. The test
    samples are always the same, the seed draws which others validate.

    An example of the training and validation splits is a whole bag, x [bags, size, features], and `batch_size` counts
    bags; samples left over by the last one are dropped. An example of the test split is one sample. Validation figures
    are of bags too, as nothing else would be known: the bag loss; of the test they are of samples.

    Args:
        data: `diabetes`, a regression on standardised columns, in standard deviations of the response; or `digits`,
            where a bag's response is its shares of the ten classes.
        bag_size: samples a bag, 1 to 30.
        model: `linear`, or `mlp` with a hidden layer of 64.
        epsilon: privacy budget of the aggregates of diabetes, see `assay.data.bags.label_dp_aggregate`: responses are
            clipped to two standard deviations, the noise is drawn once with the split. 0 for none.

    Raises:
        UnknownName: there is no such data or network.
        AssayError: `bag_size` or `epsilon` is out of range, or digits are to have private aggregates.
    """

    name = "bags"
    recipe = Recipe(optimizer="adamw", lr=0.01, weight_decay=0.0, schedule="cosine", batch_size=16)
    budget = "100epochs"
    varies = frozenset({"init", "order", "split"})
    fixed_test = True
    clip = 2.0

    def __init__(
        self, *, data: Data = "diabetes", bag_size: int = 5, model: Network = "mlp", epsilon: float = 0.0
    ) -> None:
        for kind, given, known in (("data", data, get_args(Data)), ("model", model, get_args(Network))):
            if given not in known:
                raise UnknownName(kind, given, known)
        if not 1 <= bag_size <= 30:
            raise AssayError(f"bag_size must lie in 1..30, got {bag_size}")
        if not 0 <= epsilon < math.inf:
            raise AssayError(f"epsilon must be finite and not negative, 0 for no noise, got {epsilon:g}")
        if epsilon and data != "diabetes":
            raise AssayError(f"epsilon is for data=diabetes: the aggregates of {data} have no private form here")
        self.data, self.bag_size, self.network, self.epsilon = data, bag_size, model, epsilon
        self.kind: Loss = "mse" if data == "diabetes" else "ce"
        self.traits = frozenset({"bags", "regression"} if data == "diabetes" else {"bags"})
        self.metrics = (
            (Metric("mse", "min", 10.0),)
            if data == "diabetes"
            else (Metric("cross_entropy", "min", math.log(10)), Metric("accuracy", "max", 0.0, "%"))
        )

    def settings(self) -> dict[str, Any]:
        x, y = _read(self.data)
        content = hashlib.sha256(x.numpy().tobytes() + y.numpy().tobytes()).hexdigest()[:16]
        return {
            "data": f"{self.data} {content}",
            "model": self.network if self.network == "linear" else "mlp, 64",
            "bag_size": self.bag_size,
            "epsilon": self.epsilon,
            "sizes": list(SIZES[self.data]),
        }

    def splits(self, seed: int) -> Splits:
        x, y = _read(self.data)
        labels = y.argmax(1) if y.dim() > 1 else torch.zeros(len(y), dtype=torch.int64)
        *known, held_out = SIZES[self.data]
        rest, test = map(torch.from_numpy, stratified_split(labels.numpy(), (sum(known), held_out), 0))
        train, valid = (rest[part] for part in stratified_split(labels[rest].numpy(), known, seed))
        generator = torch.Generator().manual_seed(seed)
        return Splits(
            self._bagged(x[train], y[train], generator),
            self._bagged(x[valid], y[valid], generator),
            TensorExamples(x[test], y[test]),
        )

    def _bagged(self, x: Tensor, y: Tensor, generator: torch.Generator) -> "BagExamples":
        k = self.bag_size
        bags = make_bags(len(x), k, generator)
        rows = bags.argsort(stable=True)[: len(x) // k * k]
        if self.epsilon:
            means = label_dp_aggregate(y, bags, epsilon=self.epsilon, clip=self.clip, generator=generator)
        else:
            means = aggregate(y, bags)
        return BagExamples(x[rows].reshape(-1, k, x.shape[1]), means[: len(x) // k])

    def model(self) -> nn.Module:
        features, outputs = len(_read(self.data)[0][0]), OUTPUTS[self.data]
        return PerSample(MLP([features, 64, outputs] if self.network == "mlp" else [features, outputs]))

    def loss(self, outputs: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
        """The bag loss."""
        return bag_loss(outputs, targets, loss=self.kind, reduction=reduction)  # type: ignore[arg-type]

    def outcomes(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        outputs = model(batch.x)
        if outputs.dim() > batch.y.dim():  # bags
            return {self.metrics[0].name: bag_loss(outputs, batch.y, loss=self.kind, reduction="none")}
        if self.data == "diabetes":
            return {"mse": (outputs - batch.y) ** 2}
        return {
            "cross_entropy": cross_entropy(outputs, batch.y, reduction="none"),
            "accuracy": (outputs.argmax(1) == batch.y.argmax(1)).float(),
        }


class BagExamples(TensorExamples):
    """Bags [bags, size, features] with their mean responses [bags, ...].

    Attributes:
        samples: in all bags together.
    """

    @property
    def samples(self) -> int:
        return self.x.shape[0] * self.x.shape[1]


class PerSample(nn.Module):
    """Applies a network to the last axis, whatever is before it; a single output loses its axis."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.network(x.flatten(0, -2)).unflatten(0, x.shape[:-1])
        return outputs.squeeze(-1)


@cache
def _read(data: Data) -> tuple[Tensor, Tensor]:
    """Samples [samples, features] and responses: [samples] standardised, or [samples, 10] one-hot."""
    from sklearn.datasets import load_diabetes

    if data == "digits":
        images, labels = map(torch.from_numpy, read_digits())
        return images.flatten(1), one_hot(labels, 10).float()
    found = load_diabetes(scaled=False)
    x, y = ((a - a.mean(0)) / a.std(0) for a in (found.data, found.target))
    return torch.tensor(x, dtype=torch.float32), torch.tensor(np.asarray(y), dtype=torch.float32)
