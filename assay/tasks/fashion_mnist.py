"""Fashion-MNIST: ten kinds of clothes, grey pictures of 28x28 pixels, with the public test set."""

from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from torch import nn

from assay.data.augment import random_crop_flip
from assay.data.digest import digest
from assay.data.fashion_mnist import CLASSES, find_fashion_mnist, read_fashion_mnist
from assay.data.images import LabelledImages
from assay.data.locate import data_dir as locate
from assay.engine import Recipe, Splits
from assay.models.cnn import SmallCNN
from assay.models.mlp import MLP
from assay.tasks.attacked import Attack, expose, threat_settings
from assay.tasks.classification import Classification, check_network, checked_train_size, image_splits
from assay.tasks.corrupted import read_shift

MEAN, STD = (0.2860,), (0.3530,)  # of the training images


class FashionMNIST(Classification):
    """A small network with batch norm; the seed draws which 5000 of the 60,000 training images validate.

    Args:
        model: `cnn`, with batch norm, or `mlp` of two hidden layers of 256.
        dropout: rate, in [0, 1), after each hidden layer of the `mlp`; the `cnn` has none.
        train_size: images to train on, 10 to 55,000; all by default.
        augment: crop at random from the image padded by 4 pixels, and mirror half of them.
        corruption: kinds of `assay.data.corruptions` on the test pictures, joined by `+`, `all` or `none`; see
            `assay.tasks.corrupted`.
        severity: of the corruption, 1 to 5.
        attack: measure robust accuracy too, against `linf` or `l2` attacks; see `assay.tasks.attacked`.
        epsilon: of the attack, in pixels of [0, 1].
        data_dir: the folder of data sets, see `assay.data.locate.data_dir`.

    Raises:
        AssayError: `train_size`, `dropout`, `corruption` or `severity` is out of range, or the network has no dropout.
    """

    name = "fashion-mnist"
    recipe = Recipe(lr=0.1, momentum=0.9, weight_decay=5e-4, schedule="cosine", batch_size=128)
    budget = "5epochs"
    traits = frozenset({"classification", "images"})
    varies = frozenset({"init", "order", "split"})
    fixed_test = True
    pixels = MEAN, STD

    def __init__(
        self,
        *,
        model: Literal["cnn", "mlp"] = "cnn",
        dropout: float = 0.0,
        train_size: int | None = None,
        augment: bool = False,
        corruption: str = "none",
        severity: int = 5,
        attack: Attack = "none",
        epsilon: float = 0.0,
        data_dir: str | None = None,
    ) -> None:
        check_network(model, dropout)
        self.network, self.dropout, self.augment, self.data_dir = model, dropout, augment, data_dir
        self.train_size = checked_train_size(train_size, 55_000)
        self.shift = read_shift(corruption, severity)
        expose(self, attack, epsilon)

    def _paths(self) -> tuple[Path, ...]:
        return find_fashion_mnist(locate(self.data_dir))

    def settings(self) -> dict[str, Any]:
        return {
            "data": digest(self._paths()),
            "model": {"cnn": "cnn, width 32, depth 3", "mlp": f"mlp, 256 and 256, dropout {self.dropout}"}[
                self.network
            ],
            "train_size": self.train_size,
            "augment": self.augment,
            "valid_size": 5000,
            **self.shift.settings(),
            **threat_settings(self),
        }

    def splits(self, seed: int) -> Splits:
        paths = self._paths()
        train, test = _read(paths, digest(paths))
        augment = random_crop_flip if self.augment else None
        return self.shift.of(image_splits(train, test, (self.train_size, 5000), seed, MEAN, STD, augment))

    def model(self) -> nn.Module:
        if self.network == "mlp":
            return MLP([28 * 28, 256, 256, CLASSES], dropout=self.dropout)
        return SmallCNN(CLASSES, width=32, depth=3)


@lru_cache(maxsize=1)
def _read(paths: tuple[Path, ...], content: str) -> tuple[LabelledImages, LabelledImages]:
    """The data, read once a process for as long as its files keep their `content`."""
    return read_fashion_mnist(paths)
