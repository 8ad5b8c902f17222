"""Fashion-MNIST: ten kinds of clothes, grey pictures of 28x28 pixels, with the public test set."""

from functools import lru_cache
from pathlib import Path
from typing import Any

from torch import nn

from assay.data.digest import digest
from assay.data.fashion_mnist import CLASSES, find_fashion_mnist, read_fashion_mnist
from assay.data.images import LabelledImages
from assay.data.locate import data_dir as locate
from assay.engine import Recipe, Splits
from assay.models.cnn import SmallCNN
from assay.tasks.classification import Classification, checked_train_size, image_splits

MEAN, STD = (0.2860,), (0.3530,)  # of the training images


class FashionMNIST(Classification):
    """A small network with batch norm; the seed draws which 5000 of the 60,000 training images validate.

    Args:
        train_size: images to train on, 10 to 55,000; all by default.
        data_dir: the folder of data sets, see `assay.data.locate.data_dir`.

    Raises:
        AssayError: `train_size` is out of range.
    """

    name = "fashion-mnist"
    recipe = Recipe(lr=0.1, momentum=0.9, weight_decay=5e-4, schedule="cosine", batch_size=128)
    budget = "5epochs"
    traits = frozenset({"classification", "images"})
    varies = frozenset({"init", "order", "split"})

    def __init__(self, *, train_size: int | None = None, data_dir: str | None = None) -> None:
        self.train_size, self.data_dir = checked_train_size(train_size, 55_000), data_dir

    def _paths(self) -> tuple[Path, ...]:
        return find_fashion_mnist(locate(self.data_dir))

    def settings(self) -> dict[str, Any]:
        return {
            "data": digest(self._paths()),
            "model": "cnn, width 32, depth 3",
            "train_size": self.train_size,
            "valid_size": 5000,
        }

    def splits(self, seed: int) -> Splits:
        paths = self._paths()
        train, test = _read(paths, digest(paths))
        return image_splits(train, test, (self.train_size, 5000), seed, MEAN, STD)

    def model(self) -> nn.Module:
        return SmallCNN(CLASSES, width=32, depth=3)


@lru_cache(maxsize=1)
def _read(paths: tuple[Path, ...], content: str) -> tuple[LabelledImages, LabelledImages]:
    """The data, read once a process for as long as its files keep their `content`."""
    return read_fashion_mnist(paths)
