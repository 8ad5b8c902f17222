"""The class of every pixel in pictures of shapes, which are made from the seed, so that nothing need be downloaded."""

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from assay.data.shapes import CLASSES, draw_shapes
from assay.engine import Batch, Evaluation, Examples, Metric, Recipe, Splits, Task, TensorExamples
from assay.errors import AssayError
from assay.metrics.segmentation import Overlap, mean_iou, overlap
from assay.models.fpn import FPNSegmenter

if TYPE_CHECKING:
    from assay.engine import Run

VALID, TEST = 256, 512  # pictures


class Segmentation(Task):
    """A small network with backbone, neck and head on pictures of plain and striped discs, boxes and triangles.

    Judged by `miou`, the mean over the seven classes of intersection over union of all test pixels; by the share of
    pixels that are right, and by the loss, the mean cross-entropy of pixels. The seed makes the pictures, 256 to
    validate and 512 to test.

    Args:
        train_size: pictures to train on, 4 to 50,000.
        side: of the pictures, in pixels: a multiple of 16, 16 to 128.
        width: channels of the network's first convolution and of its pyramid, 4 to 64.

    Raises:
        AssayError: a number is out of range.
    """

    name = "segmentation"
    metrics = (
        Metric("miou", "max", 0.0, "%"),
        Metric("pixel_accuracy", "max", 0.0, "%"),
        Metric("loss", "min", math.log(len(CLASSES))),
    )
    recipe = Recipe(lr=0.1, momentum=0.9, weight_decay=1e-4, schedule="cosine", warmup=0.05, batch_size=16)
    budget = "10epochs"
    traits = frozenset({"segmentation", "images"})
    varies = frozenset({"init", "order", "split"})
    drawn_anew = True

    def __init__(self, *, train_size: int = 2048, side: int = 32, width: int = 16) -> None:
        limits = {"train_size": (train_size, 4, 50_000), "side": (side, 16, 128), "width": (width, 4, 64)}
        for name, (value, low, high) in limits.items():
            if not low <= value <= high:
                raise AssayError(f"{name} must lie in {low}..{high}, got {value}")
        if side % 16:
            raise AssayError(f"side must be a multiple of 16, got {side}")
        self.train_size, self.side, self.width = train_size, side, width

    def settings(self) -> dict[str, Any]:
        return {"train_size": self.train_size, "side": self.side, "width": self.width, "sizes": [VALID, TEST]}

    def splits(self, seed: int) -> Splits:
        generator = torch.Generator().manual_seed(seed)
        sizes = (self.train_size, VALID, TEST)
        return Splits(*(TensorExamples(*draw_shapes(size, self.side, generator)) for size in sizes))

    def model(self) -> nn.Module:
        return FPNSegmenter(len(CLASSES), width=self.width)

    def loss(self, outputs: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
        pixels = cross_entropy(outputs, targets, reduction=reduction)
        return pixels.mean((1, 2)) if reduction == "none" else pixels

    def outcomes(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        logits = model(batch.x)
        found = logits.argmax(1)
        counts = overlap(found, batch.y, len(CLASSES))
        by_class = {f"{kind} {c}": n for kind, pixels in counts._asdict().items() for c, n in enumerate(pixels.T)}
        right = (found == batch.y).float().mean((1, 2))
        return {"pixel_accuracy": right, "loss": self.loss(logits, batch.y, reduction="none"), **by_class}

    def evaluate(self, run: "Run", examples: Examples | None, batch_size: int = 500) -> Evaluation:
        found = super().evaluate(run, examples, batch_size)
        if not found.outcomes:
            return found
        kept = {name: values for name, values in found.outcomes.items() if " " not in name}
        counts = (
            torch.from_numpy(np.stack([found.outcomes[f"{kind} {c}"] for c in range(len(CLASSES))], 1))
            for kind in Overlap._fields
        )
        metrics = {name: found.metrics[name] for name in kept}
        return Evaluation({"miou": float(mean_iou(Overlap(*counts))), **metrics}, kept)
