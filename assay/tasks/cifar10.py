"""CIFAR-10: ten kinds of animals and vehicles, colour pictures of 32x32 pixels, with the public test set."""

from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from torch import nn

from assay.data.augment import random_crop_flip
from assay.data.cifar10 import CLASSES, find_cifar10, read_cifar10
from assay.data.digest import digest
from assay.data.images import LabelledImages
from assay.data.locate import data_dir as locate
from assay.engine import Recipe, Splits
from assay.models.resnet import ResNet
from assay.tasks.attacked import Attack, expose, threat_settings
from assay.tasks.classification import Classification, checked_train_size, image_splits
from assay.tasks.corrupted import read_shift

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)  # of the training images


class CIFAR10(Classification):
    """A residual network; the seed draws which 5000 of the 50,000 training images validate.

    Args:
        model: `resnet8` (78 thousand parameters) or `resnet20` (270 thousand).
        train_size: images to train on, 10 to 45,000; all by default.
        augment: random crops and flips.
        corruption: kinds of `assay.data.corruptions` on the test pictures, joined by `+`, `all` or `none`; see
            `assay.tasks.corrupted`.
        severity: of the corruption, 1 to 5.
        attack: measure robust accuracy too, against `linf` or `l2` attacks; see `assay.tasks.attacked`.
        epsilon: of the attack, in pixels of [0, 1].
        data_dir: the folder of data sets, see `assay.data.locate.data_dir`.

    Raises:
        AssayError: `train_size`, `corruption` or `severity` is out of range.
    """

    name = "cifar10"
    recipe = Recipe(lr=0.1, momentum=0.9, weight_decay=5e-4, schedule="cosine", batch_size=128)
    budget = "10epochs"
    traits = frozenset({"classification", "images"})
    varies = frozenset({"init", "order", "split"})
    fixed_test = True
    pixels = MEAN, STD

    def __init__(
        self,
        *,
        model: Literal["resnet8", "resnet20"] = "resnet8",
        train_size: int | None = None,
        augment: bool = True,
        corruption: str = "none",
        severity: int = 5,
        attack: Attack = "none",
        epsilon: float = 0.0,
        data_dir: str | None = None,
    ) -> None:
        self.network, self.augment, self.data_dir = model, augment, data_dir
        self.train_size = checked_train_size(train_size, 45_000)
        self.shift = read_shift(corruption, severity)
        expose(self, attack, epsilon)

    def _paths(self) -> tuple[Path, ...]:
        return find_cifar10(locate(self.data_dir))

    def settings(self) -> dict[str, Any]:
        return {
            "data": digest(self._paths()),
            "model": self.network,
            "train_size": self.train_size,
            "valid_size": 5000,
            "augment": self.augment,
            **self.shift.settings(),
            **threat_settings(self),
        }

    def splits(self, seed: int) -> Splits:
        paths = self._paths()
        train, test = _read(paths, digest(paths))
        augment = random_crop_flip if self.augment else None
        return self.shift.of(image_splits(train, test, (self.train_size, 5000), seed, MEAN, STD, augment))

    def model(self) -> nn.Module:
        return ResNet(int(self.network.removeprefix("resnet")), CLASSES)


@lru_cache(maxsize=1)
def _read(paths: tuple[Path, ...], content: str) -> tuple[LabelledImages, LabelledImages]:
    """The data, read once a process for as long as its files keep their `content`."""
    return read_cifar10(paths)
