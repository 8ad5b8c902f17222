"""Pictures with labels, as the readers give them."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int64, UInt8

from assay.errors import AssayError


@dataclass(frozen=True)
class LabelledImages:
    """Pictures and their classes.

    Attributes:
        images: grey or RGB levels, channels before rows before columns.
        labels: classes, from 0.
    """

    images: UInt8[np.ndarray, "samples channels height width"]
    labels: Int64[np.ndarray, " samples"]


def labelled(
    images: np.ndarray, labels: np.ndarray, *, shape: tuple[int, int, int, int], classes: int, where: Path
) -> LabelledImages:
    """Images and labels that are what they should be.

    Args:
        images: [samples, channels, height, width], uint8.
        labels: [samples], whole numbers in [0, classes).
        shape: what `images` must have.
        classes: how many there are.
        where: the file they come from.

    Raises:
        AssayError: a wrong dtype, shape, count or label.
    """
    if images.dtype != np.uint8:
        raise AssayError(f"{where}: images must be uint8, got {images.dtype}")
    if images.shape != shape:
        raise AssayError(f"{where}: images must have shape {list(shape)}, got {list(images.shape)}")
    if not np.issubdtype(labels.dtype, np.integer):
        raise AssayError(f"{where}: labels must be whole numbers, got {labels.dtype}")
    if labels.shape != shape[:1]:
        raise AssayError(f"{where}: labels must have shape {[shape[0]]}, one an image, got {list(labels.shape)}")
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(wrong):
        raise AssayError(f"{where}: labels must lie in 0..{classes - 1}, got {labels[wrong[0]]} at sample {wrong[0]}")
    return LabelledImages(images, labels.astype(np.int64))
