"""Arrays that are slow to make, kept in files that processes share by memory mapping."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np


def cache_dir() -> Path:
    """`$ASSAY_CACHE`, else `$XDG_CACHE_HOME/assay`, else `~/.cache/assay`."""
    given = os.environ.get("ASSAY_CACHE")
    if given:
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "assay"


def cached(key: str, make: Callable[[], np.ndarray]) -> np.ndarray:
    """The array `make()` gives, memory-mapped from the cache where it has been made before.

    Safe with several processes at once: a file is whole or not there. A cache that cannot be written is done without.

    Args:
        key: names the content; equal keys mean equal arrays.
        make: computes it.
    """
    path = cache_dir() / f"{key}.npy"
    try:
        return _mapped(path)
    except (OSError, ValueError, EOFError):  # not there, or damaged by a crash of the machine: make it anew
        array = make()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(path, array)
        return _mapped(path)
    except OSError:  # read-only or full: the array is at hand all the same
        return array


def _mapped(path: Path) -> np.ndarray:
    array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    return array


def _write(path: Path, array: np.ndarray) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.stem, suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            np.save(file, array, allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
