"""Text as bytes: any file, or the source of Python's own standard library, which every machine has."""

import os
import sysconfig
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from assay.errors import AssayError, MissingData

# Installed packages, tests, and files that are tables rather than written code.
_LEFT_OUT = frozenset(
    {"site-packages", "dist-packages", "test", "tests", "lib2to3", "idlelib", "encodings", "pydoc_data"}
)


def standard_library(limit: int = 4_000_000) -> UInt8[np.ndarray, " bytes"]:
    """The source files of Python's standard library, sorted by path, one after another, up to `limit` bytes.

    It is the same for one Python version and differs a little between versions.

    Raises:
        MissingData: this Python comes without its source.
    """
    root = Path(sysconfig.get_path("stdlib"))
    files: list[Path] = []
    for folder, inner, names in os.walk(root):
        inner[:] = [name for name in inner if name not in _LEFT_OUT]
        files += [Path(folder, name) for name in names if name.endswith(".py")]
    parts: list[bytes] = []
    total = 0
    for path in sorted(files, key=lambda path: path.relative_to(root).as_posix()):
        if total >= limit:
            break
        parts.append(path.read_bytes())
        total += len(parts[-1])
    if not total:
        raise MissingData(f"no Python source files in {root}; give a text file by path=")
    return np.frombuffer(b"".join(parts)[:limit], np.uint8)


def text_file(path: Path) -> UInt8[np.ndarray, " bytes"]:
    """A file's bytes, memory-mapped.

    Raises:
        MissingData: there is no such file.
        AssayError: it is empty.
    """
    if not path.is_file():
        raise MissingData(f"no text file at {path}; give its path as path=FILE")
    if not path.stat().st_size:
        raise AssayError(f"{path} is empty")
    return np.memmap(path, np.uint8, "r")
