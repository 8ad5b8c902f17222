"""Batches as other trainers have them, `(x, y)` or a dictionary, and as methods know them."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from assay.engine.task import Batch
from assay.errors import AssayError

IDS = "ids"


def read(raw: Any, first: int, target: str = "labels") -> tuple[Batch, Callable[[Batch], Any]]:
    """A host's batch in the engine's form, and what puts such a batch back into the host's.

    Args:
        raw: a `Batch`, `(x, y)`, `(x, y, ids)`, or a mapping that has `target` and may have `ids`. What else a mapping
            has is `x`: the value itself where it is only one.
        first: samples without ids are numbered from here on, each as one never seen before.
        target: where a mapping has its targets.

    Raises:
        AssayError: `raw` is none of these.
    """
    if isinstance(raw, Mapping):
        return _read_mapping(raw, first, target)
    if isinstance(raw, Batch):
        return raw, lambda batch: batch
    if not isinstance(raw, tuple | list) or len(raw) not in (2, 3):
        raise AssayError(f"a batch must be (x, y), (x, y, ids) or a dictionary, got {_told(raw)}")
    given = len(raw) == 3
    x, y = raw[:2]
    ids = raw[2] if given else _numbered((x, y), first)
    return Batch(x, y, ids), lambda batch: type(raw)(tuple(batch) if given else batch[:2])


def _read_mapping(raw: Mapping[str, Any], first: int, target: str) -> tuple[Batch, Callable[[Batch], Any]]:
    inputs = {name: value for name, value in raw.items() if name not in (target, IDS)}
    if target not in raw or not inputs:
        raise AssayError(f"a batch must have its targets as {target!r}, and inputs besides; it has {', '.join(raw)}")
    names = list(inputs)
    x = inputs[names[0]] if len(names) == 1 else inputs

    def back(batch: Batch) -> dict[str, Any]:
        ids = {IDS: batch.ids} if IDS in raw else {}
        return {**(batch.x if len(names) > 1 else {names[0]: batch.x}), target: batch.y, **ids}

    return Batch(x, raw[target], raw[IDS] if IDS in raw else _numbered(raw, first)), back


def _numbered(raw: Any, first: int) -> Tensor:
    tensors = [leaf for leaf in tree_leaves(raw) if isinstance(leaf, Tensor) and leaf.ndim]
    if not tensors:
        raise AssayError(f"a batch must hold tensors, got {_told(raw)}")
    return torch.arange(first, first + len(tensors[0]))


def _told(raw: Any) -> str:
    return f"{type(raw).__name__} of {len(raw)}" if isinstance(raw, tuple | list) else type(raw).__name__
