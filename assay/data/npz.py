"""numpy archives, read without pickle."""

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from assay.errors import AssayError


def read_npz(path: Path, names: Sequence[str]) -> list[np.ndarray]:
    """The arrays `names` of an `.npz` file, in this order.

    Raises:
        AssayError: the file is damaged or truncated, lacks one of them, or holds pickled objects in its place.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            missing = [name for name in names if name not in archive]
            if missing:
                raise AssayError(f"{path} has no array {missing[0]!r}; it has {', '.join(archive) or 'none'}")
            return [archive[name] for name in names]
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, TypeError) as error:
        raise AssayError(f"{path} is not a whole .npz file of plain arrays: {error}") from None
