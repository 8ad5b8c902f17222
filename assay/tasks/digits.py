"""Handwritten digits of 8x8 pixels: 1797 real ones that come with scikit-learn, so that nothing need be downloaded.

Source: Alpaydin and Kaynak, "Optical recognition of handwritten digits" (UCI, 1998).
"""

import hashlib
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import nn

from assay.data.split import stratified_split
from assay.engine import Recipe, Splits, TensorExamples
from assay.models.cnn import SmallCNN
from assay.tasks.classification import Classification

SIZES = (1197, 300, 300)


class Digits(Classification):
    """A small network with batch norm on 1197 digits; 300 to validate and 300 to test, split anew by the seed."""

    name = "digits"
    recipe = Recipe(lr=0.05, momentum=0.9, weight_decay=5e-4, schedule="cosine", batch_size=64)
    budget = "20epochs"
    traits = frozenset({"classification", "images"})
    varies = frozenset({"init", "order", "split"})

    def settings(self) -> dict[str, Any]:
        images, labels = _digits()
        content = hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()[:16]
        return {"data": content, "model": "cnn, width 32, depth 2", "sizes": list(SIZES)}

    def splits(self, seed: int) -> Splits:
        images, labels = _digits()
        x, y = torch.from_numpy(images), torch.from_numpy(labels)
        return Splits(*(TensorExamples(x[rows], y[rows]) for rows in stratified_split(labels, SIZES, seed)))

    def model(self) -> nn.Module:
        return SmallCNN(10, width=32, depth=2)


@cache
def _digits() -> tuple[np.ndarray, np.ndarray]:
    """Images [1797, 1, 8, 8] scaled from levels 0..16 to [-1, 1], and classes."""
    from sklearn.datasets import load_digits

    found = load_digits()
    return found.images.astype(np.float32)[:, None] / 8 - 1, found.target.astype(np.int64)
