"""Learning without labels: two random views of every picture, brought close together and away from all others'.

Judged by what the labels of nearest neighbours, or of a linear classifier, say of the features; and by how the
embeddings lie on the sphere.

Source: Chen et al., "A simple framework for contrastive learning of visual representations" (2020); the points on
random directions: after the toy problems by which Wang and Liu, "Understanding the behaviour of contrastive loss"
(2021), is commonly illustrated.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from assay.data.views import color_jitter, random_resized_crop
from assay.engine import Batch, Evaluation, Examples, Metric, Recipe, Splits, Task, TensorExamples
from assay.engine.task import batches
from assay.errors import AssayError, UnknownName
from assay.losses.contrast import per_picture, two_views
from assay.losses.decoupled_contrastive import npc_multiplier
from assay.losses.info_nce import InfoNCELoss
from assay.losses.similarity import check_temperature
from assay.metrics.hypersphere import tolerance, uniformity
from assay.metrics.representation import linear_probe_classes, nearest_neighbour_classes
from assay.tasks import cifar10, fashion_mnist
from assay.tasks.cifar10 import CIFAR10
from assay.tasks.classification import Classification
from assay.tasks.digits import Digits
from assay.tasks.fashion_mnist import FashionMNIST

if TYPE_CHECKING:
    from assay.engine import Run

Data = Literal["digits", "fashion-mnist", "cifar10", "clusters"]
CLUSTERS, DIM, POINTS = 6, 8, 192  # directions, dimensions, and points of each part
SPREAD, SHAKE = 0.6, 0.15  # noise of a point about its direction, and of a view about its point
PAIRS = 512  # examples by whose views the coupling is measured


class Embedded(NamedTuple):
    """What the network gives.

    Attributes:
        h: the encoder's features, which are judged.
        z: the projection's embeddings, on which the loss acts.
    """

    h: Float[Tensor, "batch features"]
    z: Float[Tensor, "batch dim"]


class Contrastive(Task):
    """SimCLR with a small network; a step's batch is so many pictures, each as two views.

    Args:
        data: `digits`; `fashion-mnist` or `cifar10`, whose classification tasks give the pictures; or `clusters`, 192
            points in eight dimensions about six random directions.
        temperature: of InfoNCE, the loss unless a method puts another in its place.
        width: channels of the first of three convolutions; each next one has twice as many. `clusters` has none.
        train_size: pictures to train on; all by default. `digits` and `clusters` have no choice.
        data_dir: the folder of data sets, see `assay.data.locate.data_dir`.

    Raises:
        AssayError: `temperature`, `width` or `train_size` is out of range.
    """

    name = "contrastive"
    metrics = (
        Metric("knn", "max", 0.0, "%"),
        Metric("probe", "max", 0.0, "%"),
        Metric("uniformity", "min", 0.0),
        Metric("tolerance", "max", -1.0),
        Metric("npc", "max", 0.0),
    )
    varies = frozenset({"init", "order", "split"})

    def __init__(
        self,
        *,
        data: Data = "digits",
        temperature: float = 0.1,
        width: int = 32,
        train_size: int | None = None,
        data_dir: str | None = None,
    ) -> None:
        if data not in get_args(Data):
            raise UnknownName("data", data, get_args(Data))
        if train_size is not None and data in ("digits", "clusters"):
            raise AssayError(f"train_size needs data=fashion-mnist or data=cifar10; {data} has one size")
        try:
            check_temperature(temperature)
        except ValueError as error:
            raise AssayError(str(error)) from None
        self.data: Data = data
        if width < 1:
            raise AssayError(f"width must be positive, got {width}")
        self.temperature, self.width = temperature, width
        self.source = ""
        self.pictures: Classification | None = None
        if data == "digits":
            self.pictures = Digits()
        elif data == "fashion-mnist":
            self.pictures = FashionMNIST(train_size=train_size, data_dir=data_dir)
        elif data == "cifar10":
            self.pictures = CIFAR10(train_size=train_size, augment=False, data_dir=data_dir)
        points = self.pictures is None
        self.recipe = Recipe(optimizer="adam", lr=3e-3 if points else 1e-3, batch_size=POINTS if points else 64)
        self.budget = "400steps" if points else "20epochs" if data == "digits" else "5epochs"
        self.traits = frozenset({"contrastive"} | (set() if points else {"images"}))
        self.drawn_anew = points
        self.fixed_test = self.pictures is not None and self.pictures.fixed_test

    def settings(self) -> dict[str, Any]:
        theirs = self.pictures.settings() if self.pictures is not None else {"data": f"{POINTS} points"}
        kept = {name: theirs[name] for name in ("data", "train_size") if name in theirs}
        return {**kept, "pictures": self.data, "temperature": self.temperature, "width": self.width}

    def splits(self, seed: int) -> Splits:
        if self.pictures is None:
            return _clusters(seed)
        parts = self.pictures.splits(seed)
        view = _VIEWS[self.data]
        train, valid, test = (Views(part, view) for part in (parts.train, parts.valid, parts.test) if part is not None)
        return Splits(train, valid, test)

    def model(self) -> nn.Module:
        if self.pictures is None:
            layers = [nn.Linear(DIM, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, DIM)]
            return Embedder(nn.Sequential(*layers), nn.Identity())
        channels, widths = (3 if self.data == "cifar10" else 1), (self.width, 2 * self.width, 4 * self.width)
        return Embedder(convolutions(channels, widths), projection(widths[-1], 64))

    def loss(self, outputs: Tensor, targets: Any, reduction: str = "mean") -> Tensor:
        """InfoNCE of views [batch, 2, dim]; there is nothing to be had from `targets`."""
        each = InfoNCELoss(self.temperature, reduction="none")(*outputs.unbind(1))
        return per_picture(each, reduction)

    def objective(self, run: "Run", batch: Batch) -> Tensor:
        if len(batch.x) < 2:
            raise AssayError(f"task {self.name!r} needs batch_size 2 or more, or there are no negatives")
        embedded = run.forward(batch.x.flatten(0, 1))
        loss: Tensor = run.loss(_paired(embedded.z), batch.y)
        return loss

    def evaluate(self, run: "Run", examples: Examples | None, batch_size: int = 500) -> Evaluation:
        bank, labels, _ = self._embed(run, run.splits.train, batch_size)
        run.begin_evaluation()
        h, y, z = self._embed(run, examples, batch_size)
        right = {
            "knn": nearest_neighbour_classes(h, bank, labels) == y,
            "probe": linear_probe_classes(h, bank, labels) == y,
        }
        outcomes = {name: values.float().cpu().numpy() for name, values in right.items()}
        figures = {name: float(values.mean(dtype=np.float64)) for name, values in outcomes.items()}
        chunk = 2000  # rows of similarities at a time
        figures |= {"uniformity": float(uniformity(z, chunk_size=chunk)), "tolerance": float(tolerance(z, y))}
        return Evaluation(figures | {"npc": self._coupling(run, examples)}, outcomes)

    def _embed(self, run: "Run", examples: Any, batch_size: int) -> tuple[Tensor, Tensor, Tensor]:
        found = [(*run.forward_module(b.x), b.y) for b in batches(examples, batch_size, run.device)]
        h, z, y = (torch.cat(parts) for parts in zip(*found, strict=True))
        return h, y, z

    def _coupling(self, run: "Run", examples: Any) -> float:
        """Mean q of InfoNCE, at the task's temperature and the recipe's batch size."""
        size = min(PAIRS, len(examples))
        x, _ = examples.batch(torch.arange(size), torch.Generator().manual_seed(0))
        z = _paired(run.forward_module(x.flatten(0, 1).to(run.device)).z)
        parts = [part for part in torch.split(z, run.recipe.batch_size) if len(part) > 1]
        found = [npc_multiplier(two_views(*part.unbind(1)), self.temperature) for part in parts]
        return float(torch.cat(found).mean())


class Embedder(nn.Module):
    """An encoder and, for training, a projection of its features."""

    def __init__(self, encoder: nn.Module, projector: nn.Module) -> None:
        super().__init__()
        self.encoder, self.projector = encoder, projector

    def forward(self, x: Float[Tensor, "batch ..."]) -> Embedded:
        h = self.encoder(x)
        return Embedded(h, self.projector(h))


def convolutions(channels: int, widths: tuple[int, ...]) -> nn.Module:
    """3x3 convolutions that halve the picture, each with batch norm and ReLU; mean over places."""
    layers: list[nn.Module] = []
    for width in widths:
        layers += [nn.Conv2d(channels, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def projection(width: int, dim: int) -> nn.Module:
    """SimCLR's head: one hidden layer as wide as the features."""
    return nn.Sequential(nn.Linear(width, width, bias=False), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, dim))


class Views:
    """Examples of which training sees two random views, [batch, 2, ...].

    Args:
        examples: of which `batch` without a generator gives what is evaluated.
        view: `(x, generator) -> x`, a random view of each of a batch.
    """

    def __init__(self, examples: Examples, view: Callable[[Tensor, torch.Generator], Tensor]) -> None:
        self.examples, self.view = examples, view

    def __len__(self) -> int:
        return len(self.examples)

    def batch(self, ids: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        x, y = self.examples.batch(ids)
        if generator is None:
            return x, y
        return _paired(self.view(x.repeat_interleave(2, 0), generator)), y


def _paired(rows: Tensor) -> Tensor:
    """Two rows after one another as the views of one example."""
    return rows.view(-1, 2, *rows.shape[1:])


def _digit_views(x: Tensor, generator: torch.Generator) -> Tensor:
    return random_resized_crop(x, generator, scale=(0.4, 1.0), flip=False)


def _views(mean: tuple[float, ...], std: tuple[float, ...]) -> Callable[[Tensor, torch.Generator], Tensor]:
    middle, spread = (torch.tensor(figures)[:, None, None] for figures in (mean, std))

    def view(x: Tensor, generator: torch.Generator) -> Tensor:
        levels = color_jitter(random_resized_crop(x, generator) * spread + middle, generator)
        return (levels - middle) / spread

    return view


def _shaken(x: Tensor, generator: torch.Generator) -> Tensor:
    return x + SHAKE * torch.randn(x.shape, generator=generator)


def _clusters(seed: int) -> Splits:
    """Three parts of points about the same directions."""
    generator = torch.Generator().manual_seed(seed)
    directions = F.normalize(torch.randn(CLUSTERS, DIM, generator=generator))
    y = torch.arange(POINTS) % CLUSTERS
    train, valid, test = (
        Views(
            TensorExamples(F.normalize(directions[y] + SPREAD * torch.randn(POINTS, DIM, generator=generator)), y),
            _shaken,
        )
        for _ in range(3)
    )
    return Splits(train, valid, test)


_VIEWS = {
    "digits": _digit_views,
    "fashion-mnist": _views(fashion_mnist.MEAN, fashion_mnist.STD),
    "cifar10": _views(cifar10.MEAN, cifar10.STD),
}
