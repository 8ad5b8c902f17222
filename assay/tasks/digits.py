"""Handwritten digits of 8x8 pixels: 1797 real ones that come with scikit-learn, so that nothing need be downloaded."""

from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import nn

from assay.data.digits import digits_content, read_digits
from assay.data.images import LabelledImages
from assay.data.split import stratified_split
from assay.engine import Recipe, Splits, TensorExamples
from assay.models.cnn import PlainCNN, SmallCNN
from assay.models.mlp import MLP
from assay.models.resnet import cifar_resnet
from assay.tasks.attacked import Attack, expose, threat_settings
from assay.tasks.classification import Classification, Pixels, check_network
from assay.tasks.corrupted import read_shift

SIZES = (1197, 300, 300)
CNN6 = (24, 24, 24, 24, 48, 48), (1, 1, 1, 1, 2, 1)  # widths, strides

Network = Literal["cnn", "cnn6", "mlp", "resnet8", "resnet14", "resnet20", "resnet32"]


class Digits(Classification):
    """A small network with batch norm on 1197 digits; 300 to validate and 300 to test, split anew by the seed.

    Args:
        model: `cnn`, with batch norm; `cnn6`, of six narrower convolutions, likewise; `mlp` of two hidden layers of
            256; or `resnet8` to `resnet32`, `cifar_resnet` on the one channel that the digits have.
        dropout: rate, in [0, 1), after each hidden layer of the `mlp`; the others have none.
        corruption: kinds of `assay.data.corruptions` on the test pictures, joined by `+`, `all` or `none`; see
            `assay.tasks.corrupted`.
        severity: of the corruption, 1 to 5.
        attack: measure robust accuracy too, against `linf` or `l2` attacks; see `assay.tasks.attacked`.
        epsilon: of the attack, in pixels of [0, 1].

    Raises:
        AssayError: `dropout`, `corruption`, `severity` or `epsilon` is out of range, or the network has no dropout.
    """

    name = "digits"
    recipe = Recipe(lr=0.05, momentum=0.9, weight_decay=5e-4, schedule="cosine", batch_size=64)
    budget = "20epochs"
    traits = frozenset({"classification", "images"})
    varies = frozenset({"init", "order", "split"})
    pixels = (0.5,), (0.5,)

    def __init__(
        self,
        *,
        model: Network = "cnn",
        dropout: float = 0.0,
        corruption: str = "none",
        severity: int = 5,
        attack: Attack = "none",
        epsilon: float = 0.0,
    ) -> None:
        check_network(model, dropout, get_args(Network))
        self.network, self.dropout = model, dropout
        self.shift = read_shift(corruption, severity)
        expose(self, attack, epsilon)

    def settings(self) -> dict[str, Any]:
        known = {
            "cnn": "cnn, width 32, depth 2",
            "cnn6": f"cnn, widths {CNN6[0]}, strides {CNN6[1]}",
            "mlp": f"mlp, 256 and 256, dropout {self.dropout}",
        }
        network = known.get(self.network, f"{self.network}, width 16, shortcut B")
        fixed = {"data": digits_content(), "model": network, "sizes": list(SIZES)}
        return fixed | self.shift.settings() | threat_settings(self)

    def splits(self, seed: int) -> Splits:
        images, labels = read_digits()
        x, y = torch.from_numpy(images), torch.from_numpy(labels)
        parts = stratified_split(labels, SIZES, seed)
        train, valid, test = (TensorExamples(x[rows], y[rows]) for rows in parts)
        if not self.shift.kinds:
            return Splits(train, valid, test)
        # levels 0..16 as bytes, which is what can be corrupted; and back to [-1, 1]
        levels = LabelledImages(np.rint((images + 1) * 127.5).astype(np.uint8), labels)
        judged = (Pixels(levels, rows, *self.pixels) for rows in parts[1:])
        return self.shift.of(Splits(train, *judged))

    def model(self) -> nn.Module:
        if self.network == "mlp":
            return MLP([64, 256, 256, 10], dropout=self.dropout)
        if self.network == "cnn":
            return SmallCNN(10, width=32, depth=2)
        if self.network == "cnn6":
            return PlainCNN(*CNN6)
        return cifar_resnet(int(self.network.removeprefix("resnet")), 10, channels=1, batchnorm_init="fixed")
