"""CIFAR-10: 32x32 colour pictures of ten kinds of things, 50,000 to train on and 10,000 to test.

Read from the public binary version (`cifar-10-batches-bin/`, records of one label byte and 3072 pixels), or from
`cifar10_jpeg.npz`, which holds each picture as a JPEG file: `train_jpeg` their bytes one after another,
`train_offsets` where each starts (and the last ends), `train_labels`, and the same for `test_`.

Source: Krizhevsky, "Learning multiple layers of features from tiny images" (2009).
"""

import io
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from assay.data.cache import cached
from assay.data.digest import digest
from assay.data.images import LabelledImages, labelled
from assay.data.locate import find
from assay.data.npz import read_npz
from assay.errors import AssayError

SIZES = (50_000, 10_000)
CLASSES = 10
SHAPE = (3, 32, 32)
RECORD = 1 + 3 * 32 * 32

_BINARY = (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin")


def find_cifar10(folder: Path) -> tuple[Path, ...]:
    """The files in which `folder` holds the data set, the lossless ones before the JPEGs.

    Raises:
        MissingData: there are none.
    """
    return find("cifar10", folder, [[f"cifar-10-batches-bin/{name}" for name in _BINARY], ["cifar10_jpeg.npz"]])


def read_cifar10(paths: Sequence[Path], *, sizes: tuple[int, int] = SIZES) -> tuple[LabelledImages, LabelledImages]:
    """The training and the test part.

    Args:
        paths: the one `.npz` file, or the binary files, that of the test part last.
        sizes: pictures there must be in each part.

    Returns:
        training and test part, images [samples, 3, 32, 32]; those decoded from JPEG are memory-mapped from the cache.

    Raises:
        AssayError: a file is damaged, or what it holds is not this data set.
    """
    if len(paths) == 1:
        return _read_jpegs(paths[0], "train", sizes[0]), _read_jpegs(paths[0], "test", sizes[1])
    records = sizes[0] // (len(paths) - 1)
    parts = [read_binary(path, records) for path in paths[:-1]]
    train = LabelledImages(np.concatenate([p.images for p in parts]), np.concatenate([p.labels for p in parts]))
    return train, read_binary(paths[-1], sizes[1])


def read_binary(path: Path, records: int) -> LabelledImages:
    """One file of the binary version.

    Raises:
        AssayError: it does not hold exactly `records` of them, or a label is out of range.
    """
    content = np.fromfile(path, np.uint8)
    if content.size != records * RECORD:
        raise AssayError(
            f"{path} is truncated or damaged: {records} records of {RECORD} bytes make {records * RECORD}, "
            f"it holds {content.size}"
        )
    rows = content.reshape(records, RECORD)
    shape = (records, *SHAPE)
    return labelled(rows[:, 1:].reshape(shape), rows[:, 0], shape=shape, classes=CLASSES, where=path)


def _read_jpegs(path: Path, part: str, size: int) -> LabelledImages:
    def decode() -> np.ndarray:
        jpeg, offsets = read_npz(path, (f"{part}_jpeg", f"{part}_offsets"))
        return decode_jpegs(jpeg, offsets, path)

    images = cached(f"cifar10-{digest([path])}-{part}", decode)
    (labels,) = read_npz(path, (f"{part}_labels",))
    return labelled(images, labels, shape=(size, *SHAPE), classes=CLASSES, where=path)


def decode_jpegs(jpeg: np.ndarray, offsets: np.ndarray, where: Path) -> UInt8[np.ndarray, "samples 3 32 32"]:
    """Decode pictures stored one after another.

    Args:
        jpeg: their bytes, uint8 [bytes].
        offsets: where each starts and the last ends, int64 [samples + 1].
        where: the file they come from.

    Raises:
        AssayError: the offsets do not fit the bytes, or a picture cannot be decoded or is not 32x32.
    """
    if jpeg.dtype != np.uint8 or jpeg.ndim != 1:
        raise AssayError(f"{where}: JPEG bytes must be uint8 [bytes], got {jpeg.dtype} {list(jpeg.shape)}")
    if offsets.dtype != np.int64 or offsets.ndim != 1:
        raise AssayError(f"{where}: offsets must be int64 [samples + 1], got {offsets.dtype} {list(offsets.shape)}")
    if len(offsets) < 1 or offsets[0] < 0 or offsets[-1] > len(jpeg) or (np.diff(offsets) <= 0).any():
        raise AssayError(f"{where}: offsets must rise within the {len(jpeg)} JPEG bytes; the file is damaged")
    images = np.empty((len(offsets) - 1, *SHAPE), np.uint8)
    for i, (start, end) in enumerate(pairwise(offsets)):
        try:
            picture = np.asarray(Image.open(io.BytesIO(jpeg[start:end].tobytes())).convert("RGB"))
        except (OSError, SyntaxError) as error:
            raise AssayError(f"{where}: picture {i} cannot be decoded: {error}") from None
        if picture.shape != (32, 32, 3):
            raise AssayError(
                f"{where}: pictures must be 32x32, got {picture.shape[1]}x{picture.shape[0]} for number {i}"
            )
        images[i] = picture.transpose(2, 0, 1)
    return images
