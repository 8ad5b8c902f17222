"""Shifted test data for a task of pictures: training is clean, validation and test are corrupted.

Each test picture is corrupted once. The part is cut at random into as many equal streams as there are kinds, and the
figure is the mean over all of them, so that outcomes are of different pictures. Validation has the kinds that are held
out, so that what is tuned on it has seen neither the pictures nor the corruptions it is tested on.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from assay.data.corruptions import CORRUPTIONS, HELD_OUT, SEVERITIES, corrupt
from assay.data.images import LabelledImages
from assay.engine import Splits
from assay.errors import AssayError, UnknownName
from assay.tasks.classification import Pixels, Streams

TEST, VALID = 0, 1  # seeds of what is done to a part: the same for every run, so that runs are judged on the same


@dataclass(frozen=True)
class Shift:
    """How the data that a task is judged on differ from its training data.

    Attributes:
        kinds: of corruption, for the test part; none for clean data.
        severity: 1 to 5.
    """

    kinds: tuple[str, ...] = ()
    severity: int = 5

    @property
    def held_out(self) -> tuple[str, ...]:
        """The kinds of the validation part."""
        return tuple(kind for kind in HELD_OUT if kind not in self.kinds)

    def settings(self) -> dict[str, Any]:
        """What a task adds to its own settings."""
        return {"corruption": "+".join(self.kinds), "severity": self.severity} if self.kinds else {}

    def of(self, splits: Splits) -> Splits:
        """The parts of a task as it has them where it is shifted so."""
        if not self.kinds:
            return splits
        if not isinstance(splits.valid, Pixels) or not isinstance(splits.test, Pixels):
            raise TypeError(
                f"splits must be of Pixels, got {type(splits.valid).__name__}, {type(splits.test).__name__}"
            )
        return replace(
            splits,
            valid=corrupted(splits.valid, self.held_out, self.severity, VALID),
            test=corrupted(splits.test, self.kinds, self.severity, TEST),
        )


def read_shift(corruption: str, severity: int) -> Shift:
    """What a person asks for.

    Args:
        corruption: `"none"`, kinds joined by `+`, or `"all"` that are not held out.
        severity: 1 to 5.

    Raises:
        UnknownName: there is no such corruption.
        AssayError: one comes twice, none is left to validate by, or the severity is out of range.
    """
    if severity not in SEVERITIES:
        raise AssayError(f"severity must be a whole number from 1 to 5, got {severity}")
    if corruption == "none":
        return Shift((), severity)
    kinds = tuple(corruption.split("+"))
    if corruption == "all":
        kinds = tuple(kind for kind in CORRUPTIONS if kind not in HELD_OUT)
    for kind in kinds:
        if kind not in CORRUPTIONS:
            raise UnknownName("corruption", kind, (*CORRUPTIONS, "all", "none"))
        if kinds.count(kind) > 1:
            raise AssayError(f"corruption {kind!r} is given twice in {corruption!r}")
    found = Shift(kinds, severity)
    if not found.held_out:
        raise AssayError(f"corruption must leave one of {', '.join(HELD_OUT)} to validate by, got {corruption!r}")
    return found


def corrupted(pixels: Pixels, kinds: Sequence[str], severity: int, seed: int) -> Streams:
    """Each of `pixels` once, in a random order, corrupted by one of `kinds`: a stream a kind."""
    order = np.random.default_rng(seed).permutation(len(pixels))
    parts = np.array_split(order, len(kinds))
    return Streams([Corrupted(pixels, part, kind, severity, seed) for part, kind in zip(parts, kinds, strict=True)])


class Corrupted:
    """Examples corrupted when they are first read.

    Args:
        pixels: the clean examples.
        positions: which of them, in the order wanted.
        kind: of corruption.
        severity: 1 to 5.
        seed: of its noise.
    """

    def __init__(
        self, pixels: Pixels, positions: Int64[np.ndarray, " samples"], kind: str, severity: int, seed: int
    ) -> None:
        self.clean, self.positions, self.kind, self.severity, self.seed = pixels, positions, kind, severity, seed

    def __len__(self) -> int:
        return len(self.positions)

    @cached_property
    def _pixels(self) -> Pixels:
        rows = self.clean.rows[self.positions]
        images = corrupt(self.clean.data.images[rows], self.kind, self.severity, np.random.default_rng(self.seed))
        made = copy.copy(self.clean)
        made.data, made.rows = LabelledImages(images, self.clean.data.labels[rows]), np.arange(len(rows))
        return made

    def batch(
        self, ids: Int64[Tensor, " batch"], generator: torch.Generator | None = None
    ) -> tuple[Float[Tensor, "batch channels height width"], Int64[Tensor, " batch"]]:
        return self._pixels.batch(ids, generator)
