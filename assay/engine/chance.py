"""The global random generators: seeded, kept, and put back as they were found.

Torch's layers (dropout, initialisation) draw from global generators only, so a run seeds those, keeps their state in
its checkpoints and leaves behind what it found.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def seed_all(seed: int) -> None:
    """Seed Python's, numpy's and torch's generators (on every device)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def state() -> dict[str, Any]:
    """Where the generators stand, in types that `torch.load(weights_only=True)` reads."""
    kind, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    found: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": (kind, torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, gauss),
        "torch": torch.get_rng_state(),
    }
    # asking earlier would take memory on every device for nothing
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        found["cuda"] = torch.cuda.get_rng_state_all()
    return found


def set_state(found: dict[str, Any]) -> None:
    """Put the generators where `state` found them."""
    random.setstate(found["python"])
    kind, keys, *rest = found["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(found["torch"])
    if "cuda" in found:
        torch.cuda.set_rng_state_all(found["cuda"])


@contextmanager
def kept(seed: int | None = None) -> Iterator[None]:
    """Leave the generators as they are now, whatever is drawn inside; `seed` is where they start inside."""
    before = state()
    if seed is not None:
        seed_all(seed)
    try:
        yield
    finally:
        set_state(before)
