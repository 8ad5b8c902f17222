"""Disjoint parts of a labelled data set, each with the classes in the proportions of the whole."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64


def stratified_split(
    labels: Int64[np.ndarray, " samples"], sizes: Sequence[int], seed: int
) -> list[Int64[np.ndarray, " _"]]:
    """Draw parts of the given sizes.

    Args:
        labels: classes of the samples.
        sizes: of the parts, each at least the number of classes; together no more than there are samples.
        seed: of the draw.

    Returns:
        positions of each part's samples, rising.

    Raises:
        ValueError: the sizes cannot be had.
    """
    if sum(sizes) > len(labels):
        raise ValueError(f"sizes must sum to at most the {len(labels)} samples, got {list(sizes)}")
    from sklearn.model_selection import train_test_split

    rest, parts = np.arange(len(labels)), []
    for size in sizes:
        if size == len(rest):
            part = rest
        else:
            part, rest = train_test_split(rest, train_size=size, stratify=labels[rest], random_state=seed % 2**32)
        parts.append(np.sort(part))
    return parts
