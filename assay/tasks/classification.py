"""What tasks with classes have in common."""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from assay.data.adversarial import PGD
from assay.data.images import LabelledImages
from assay.data.split import stratified_split
from assay.engine import Batch, Evaluation, Examples, Metric, Splits, Task
from assay.errors import AssayError, UnknownName
from assay.metrics.calibration.bins import error_of, uniform_sums
from assay.metrics.robust_accuracy import robust

if TYPE_CHECKING:
    from assay.engine import Run


class Classification(Task):
    """A task whose model gives logits [batch, classes]; targets are classes [batch] or probabilities [batch, classes].

    A subclass gives `splits` and `model`. Where it gives `outcomes` of its own, those named `confidence`, the highest
    probability, make the calibration error `ece`, by 15 bins, together with `accuracy`.

    Attributes:
        threat: what robust accuracy is measured against; `None` where it is not measured.
    """

    threat: PGD | None = None

    metrics: tuple[Metric, ...] = (
        Metric("accuracy", "max", 0.0, "%"),
        Metric("loss", "min", math.log(10)),
        Metric("ece", "min", 1.0, "%"),
    )
    traits = frozenset({"classification"})

    def loss(self, outputs: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
        return cross_entropy(outputs, targets, reduction=reduction)

    def outcomes(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        logits = model(batch.x)
        found = {
            "accuracy": (logits.argmax(dim=1) == batch.y).float(),
            "loss": cross_entropy(logits, batch.y, reduction="none"),
            "confidence": logits.float().softmax(dim=1).amax(dim=1),
        }
        if self.threat is not None:  # the same starts for every run, so that runs are judged on the same
            generator = torch.Generator().manual_seed(int(batch.ids[0]))
            found["robust_accuracy"] = robust(model, batch.x, batch.y, self.threat, generator).float()
        return found

    def evaluate(self, run: "Run", examples: Examples | None, batch_size: int = 500) -> Evaluation:
        if not isinstance(examples, Streams):
            outcomes = dict(super().evaluate(run, examples, batch_size).outcomes)
        else:
            found = []
            for part in examples.parts:
                run.begin_evaluation()
                found.append(super().evaluate(run, part, batch_size).outcomes)
            outcomes = {name: np.concatenate([part[name] for part in found]) for name in found[0]}
        confidence = outcomes.pop("confidence", None)
        metrics = {name: float(values.mean(dtype=np.float64)) for name, values in outcomes.items()}
        if confidence is not None and np.isfinite(confidence).all():  # a diverged network has no confidence to judge
            correct = torch.from_numpy(outcomes["accuracy"]) > 0
            metrics["ece"] = float(error_of(uniform_sums(torch.from_numpy(confidence)[None], correct[None], 15), "l1"))
        return Evaluation(metrics, outcomes)


class Streams:
    """Examples of several kinds, judged one kind after another, no batch across two.

    Args:
        parts: at least one.
    """

    def __init__(self, parts: Sequence[Examples]) -> None:
        self.parts = parts

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def batch(self, ids: Int64[Tensor, " batch"], generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """The samples `ids` of all parts laid end to end."""
        ends = np.cumsum([len(part) for part in self.parts])
        which = np.searchsorted(ends, ids.numpy(), side="right")
        found = [self.parts[k].batch(i[None] - (ends[k] - len(self.parts[k]))) for k, i in zip(which, ids, strict=True)]
        x, y = zip(*found, strict=True)
        return torch.cat(x), torch.cat(y)


class Pixels:
    """Examples kept as bytes: images are made numbers a batch at a time, (level / 255 - mean) / std by channel.

    Args:
        data: images and labels; they may be memory-mapped.
        rows: positions in `data` of the samples that are meant.
        mean: of each channel, in [0, 1].
        std: of each channel, likewise.
        augment: `(x, generator) -> x` on normalised images, applied in training only.
    """

    def __init__(
        self,
        data: LabelledImages,
        rows: Int64[np.ndarray, " samples"],
        mean: tuple[float, ...],
        std: tuple[float, ...],
        augment: Callable[[Tensor, torch.Generator], Tensor] | None = None,
    ) -> None:
        self.data, self.rows, self.augment = data, rows, augment
        self.mean = torch.tensor(mean).mul(255)[:, None, None]
        self.std = torch.tensor(std).mul(255)[:, None, None]

    def __len__(self) -> int:
        return len(self.rows)

    def batch(
        self, ids: Int64[Tensor, " batch"], generator: torch.Generator | None = None
    ) -> tuple[Float[Tensor, "batch channels height width"], Int64[Tensor, " batch"]]:
        rows = self.rows[ids.numpy()]
        x = torch.from_numpy(self.data.images[rows]).float().sub_(self.mean).div_(self.std)
        if self.augment is not None and generator is not None:
            x = self.augment(x, generator)
        return x, torch.from_numpy(self.data.labels[rows])


def image_splits(
    train: LabelledImages,
    test: LabelledImages,
    sizes: tuple[int, int],
    seed: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    augment: Callable[[Tensor, torch.Generator], Tensor] | None = None,
) -> Splits:
    """Training and validation parts of `sizes` samples, drawn by `seed` from `train`; the public test set whole."""
    drawn, held_out = stratified_split(train.labels, sizes, seed)
    return Splits(
        Pixels(train, drawn, mean, std, augment),
        Pixels(train, held_out, mean, std),
        Pixels(test, np.arange(len(test.labels)), mean, std),
    )


def checked_train_size(size: int | None, largest: int, classes: int = 10) -> int:
    """`size`, or `largest` where it is `None`.

    Raises:
        AssayError: there would be less than one sample a class, or more than there are.
    """
    if size is None:
        return largest
    if not classes <= size <= largest:
        raise AssayError(f"train_size must lie in {classes}..{largest}, got {size}")
    return size


def check_network(model: str, dropout: float, known: tuple[str, ...] = ("cnn", "mlp")) -> None:
    """Refuse what the choice of networks does not have.

    Args:
        model: what was chosen.
        dropout: rate; only the `mlp` has any.
        known: the networks of the task.

    Raises:
        UnknownName: `model` is not known.
        AssayError: `dropout` is out of range, or given to another network than the `mlp`.
    """
    if model not in known:
        raise UnknownName("model", model, known)
    if not 0 <= dropout < 1:
        raise AssayError(f"dropout must lie in [0, 1), got {dropout}")
    if dropout and model != "mlp":
        raise AssayError(f"dropout needs model=mlp; the {model} has none")
