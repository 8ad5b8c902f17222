"""Fashion-MNIST: 28x28 grey pictures of ten kinds of clothes, 60,000 to train on and 10,000 to test.

Read from the official idx files, gzipped or not, or from `fashion_mnist.npz` with `train_images`, `train_labels`,
`test_images` and `test_labels`.

Source: Xiao, Rasul and Vollgraf, "Fashion-MNIST: a novel image dataset for benchmarking machine learning algorithms"
(2017).
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from assay.data.idx import read_idx
from assay.data.images import LabelledImages, labelled
from assay.data.locate import find
from assay.data.npz import read_npz

SIZES = (60_000, 10_000)
CLASSES = 10

_IDX = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
_FOLDERS = ("fashion-mnist/", "FashionMNIST/raw/", "")  # as fetched; as torchvision keeps it; the folder itself


def find_fashion_mnist(folder: Path) -> tuple[Path, ...]:
    """The files in which `folder` holds the data set.

    Raises:
        MissingData: there are none.
    """
    idx = [[f"{place}{name}{suffix}" for name in _IDX] for place in _FOLDERS for suffix in (".gz", "")]
    return find("fashion-mnist", folder, [["fashion_mnist.npz"], *idx])


def read_fashion_mnist(
    paths: Sequence[Path], *, sizes: tuple[int, int] = SIZES
) -> tuple[LabelledImages, LabelledImages]:
    """The training and the test part.

    Args:
        paths: the one `.npz` file, or the idx files: training images, training labels, test images, test labels.
        sizes: pictures there must be in each part.

    Returns:
        training and test part, images [samples, 1, 28, 28].

    Raises:
        AssayError: a file is damaged, or what it holds is not this data set.
    """
    if len(paths) == 1:
        arrays = read_npz(paths[0], ("train_images", "train_labels", "test_images", "test_labels"))
        where = [paths[0]] * 4
    else:
        arrays, where = [read_idx(path) for path in paths], list(paths)
    train, test = (
        labelled(
            arrays[i][:, np.newaxis] if arrays[i].ndim == 3 else arrays[i],
            arrays[i + 1],
            shape=(size, 1, 28, 28),
            classes=CLASSES,
            where=where[i],
        )
        for i, size in ((0, sizes[0]), (2, sizes[1]))
    )
    return train, test
