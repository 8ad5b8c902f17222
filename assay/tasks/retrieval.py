"""Retrieval across two generations: a gallery that an old model embedded, searched by a new one.

The old model knows the first classes only. Its vectors stay, and a new model that is trained on all classes asks for
them (new on old) as well as for its own (new on new).
"""

from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from assay.data.digest import digest
from assay.data.digits import digits_content, read_digits
from assay.data.fashion_mnist import CLASSES, find_fashion_mnist, read_fashion_mnist
from assay.data.locate import data_dir as locate
from assay.data.split import stratified_split
from assay.engine import Evaluation, Examples, Metric, Recipe, Splits, Task, chance
from assay.engine.task import batches
from assay.errors import AssayError, UnknownName
from assay.metrics.retrieval import retrieval
from assay.models.embedder import Embedder, cnn_backbone, mlp_backbone

Data = Literal["digits", "fashion-mnist"]
Network = Literal["mlp", "cnn"]
SCALE = 8.0  # of unit features in every cross-entropy: with few classes they train slowly without
OLD_EPOCHS, OLD_BATCH, OLD_LR = 25, 64, 2e-3


class Retrieval(Task):
    """Train an embedding on all ten classes; be searched together with vectors of a model that knew fewer.

    Queries and gallery are the same split, the query's own item left out. `new_on_old` asks the old model's vectors
    with the new model's, `new_on_new` its own, both by the share of queries whose nearest item is of their class, with
    mean average precisions beside them; `old_on_old` is what there was before. A batch's targets are (labels, the old
    model's features). The old model is trained with the split, by Adam, from the split's seed; the test items are
    always the same.

    Args:
        data: `digits`, or `fashion-mnist`, 2,000 images to train on.
        dim: of the new embedding, from 2.
        old_dim: of the old model's, from 2.
        old_classes: that the old model knew, the first 2 to 10.
        model: `mlp`, of two hidden layers, or `cnn`, of two convolutions with batch norm.
        old_model: the old model's; another than `model` is the cross-architecture case.
        data_dir: the folder of data sets, see `assay.data.locate.data_dir`.

    Raises:
        UnknownName: there is no such data or network.
        AssayError: a number is out of range.
    """

    name = "retrieval"
    metrics = (
        Metric("new_on_old", "max", 0.0, "%"),
        Metric("new_on_new", "max", 0.0, "%"),
        Metric("new_on_old_map", "max", 0.0),
        Metric("new_on_new_map", "max", 0.0),
        Metric("old_on_old", "max", 0.0, "%"),
    )
    recipe = Recipe(optimizer="adam", lr=2e-3, schedule="cosine", batch_size=64)
    budget = "30epochs"
    traits = frozenset({"retrieval"})
    varies = frozenset({"init", "order", "split"})
    fixed_test = True
    classes = CLASSES
    logit_scale = SCALE

    def __init__(
        self,
        *,
        data: Data = "digits",
        dim: int = 8,
        old_dim: int = 8,
        old_classes: int = 5,
        model: Network = "mlp",
        old_model: Network = "mlp",
        data_dir: str | None = None,
    ) -> None:
        for kind, given, known in (
            ("data", data, get_args(Data)), ("model", model, get_args(Network)), ("model", old_model, get_args(Network))
        ):  # fmt: skip
            if given not in known:
                raise UnknownName(kind, given, known)
        if min(dim, old_dim) < 2:
            raise AssayError(f"dim and old_dim must be at least 2, got {dim} and {old_dim}")
        if not 2 <= old_classes <= CLASSES:
            raise AssayError(f"old_classes must lie in 2..{CLASSES}, got {old_classes}")
        self.data, self.dim, self.old_dim, self.old_classes = data, dim, old_dim, old_classes
        self.network, self.old_network, self.data_dir = model, old_model, data_dir

    def settings(self) -> dict[str, Any]:
        return {
            "data": self._content(),
            "dim": self.dim,
            "model": self.network,
            "old": {"model": self.old_network, "dim": self.old_dim, "classes": self.old_classes},
        }

    def _content(self) -> str:
        if self.data == "fashion-mnist":
            return f"fashion-mnist {digest(find_fashion_mnist(locate(self.data_dir)))}"
        return f"digits {digits_content()}"

    def splits(self, seed: int) -> Splits:
        folder = None if self.data == "digits" else locate(self.data_dir)
        old = _old_model(self._content(), folder, seed, self.old_network, self.old_dim, self.old_classes)
        return Splits(*(Generations(x, y, _embedded(old, x)) for x, y in _parts(folder, seed)))

    def backbone(self, network: Network | None = None) -> tuple[nn.Module, int]:
        """A fresh backbone with its width, of the new model by default."""
        inputs = 64 if self.data == "digits" else 784
        return _backbone(network or self.network, inputs)

    def model(self) -> nn.Module:
        return Embedder(*self.backbone(), self.dim, CLASSES)

    def loss(self, outputs: Any, targets: Any, reduction: str = "mean") -> Tensor:
        """Cross-entropy of the scaled logits."""
        return cross_entropy(SCALE * outputs.logits, targets[0], reduction=reduction)

    def evaluate(self, run: Any, examples: Examples | None, batch_size: int = 500) -> Evaluation:
        if examples is None:
            return Evaluation({}, {})
        found = [(run.forward_module(b.x).embedding, *b.y) for b in batches(examples, batch_size, run.device)]
        new, labels, old = (torch.cat(part) for part in zip(*found, strict=True))
        ways = {"new_on_old": (new, old), "new_on_new": (new, new), "old_on_old": (old, old)}
        outcomes: dict[str, np.ndarray] = {}
        for name, (queries, gallery) in ways.items():
            if not queries.isfinite().all():  # the run is diverging, which the loss will say
                return Evaluation({metric.name: float("nan") for metric in self.metrics}, {})
            ranked = retrieval(queries, gallery, labels, labels, exclude_self=True)
            outcomes[name] = (ranked.first == 1).float().cpu().numpy()
            if name != "old_on_old":
                outcomes[f"{name}_map"] = ranked.precision.float().cpu().numpy()
        metrics = {name: float(values.mean(dtype=np.float64)) for name, values in outcomes.items()}
        return Evaluation(metrics, outcomes)


class Generations:
    """Examples with the old model's features of them beside their labels.

    Args:
        x: inputs [samples, ...].
        labels: int64 [samples].
        old: [samples, d_old], of unit norm.
    """

    def __init__(self, x: Tensor, labels: Tensor, old: Tensor) -> None:
        self.x, self.labels, self.old = x, labels, old

    def __len__(self) -> int:
        return len(self.x)

    def batch(self, ids: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        return self.x[ids], (self.labels[ids], self.old[ids])


def _backbone(network: Network, inputs: int) -> tuple[nn.Module, int]:
    return (mlp_backbone(inputs, 128), 128) if network == "mlp" else (cnn_backbone(16), 32)


def _parts(folder: Path | None, seed: int) -> list[tuple[Tensor, Tensor]]:
    """Images and labels to train on, to validate and to test: Fashion-MNIST of a folder, or the digits."""
    if folder is None:
        (images, labels), (train, valid, test) = read_digits(), (1197, 300, 300)
    else:
        found, _ = read_fashion_mnist(find_fashion_mnist(folder))
        images = found.images[:4000].astype(np.float32) / 127.5 - 1
        labels, (train, valid, test) = found.labels[:4000].astype(np.int64), (2000, 1000, 1000)
    known, held_out = stratified_split(labels, (train + valid, test), 0)
    drawn = [known[rows] for rows in stratified_split(labels[known], (train, valid), seed)]
    return [(torch.from_numpy(images[rows]), torch.from_numpy(labels[rows])) for rows in (*drawn, held_out)]


@lru_cache(maxsize=4)
def _old_model(content: str, folder: Path | None, seed: int, network: Network, dim: int, classes: int) -> nn.Module:
    """The old generation, trained on the classes it knows; `content` is there to tell data of a folder apart."""
    x, y = _parts(folder, seed)[0]
    with chance.kept(seed), torch.enable_grad():
        rows = (y < classes).nonzero()[:, 0]
        model = Embedder(*_backbone(network, x[0].numel()), dim, classes)
        optimizer = torch.optim.Adam(model.parameters(), lr=OLD_LR)
        for _ in range(OLD_EPOCHS):
            for part in torch.split(rows[torch.randperm(len(rows))], OLD_BATCH):
                loss = cross_entropy(SCALE * model(x[part]).logits, y[part])
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
    return model.eval()


@torch.no_grad()
def _embedded(model: nn.Module, x: Tensor) -> Tensor:
    return torch.cat([model(part).embedding for part in torch.split(x, 500)])
