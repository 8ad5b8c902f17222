"""The idx format of MNIST and its kin: magic 00 00 TYPE NDIM, big-endian uint32 sizes, then the values, row by row.

Source: LeCun, Cortes and Burges, "The MNIST database of handwritten digits", section "File formats".
"""

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from assay.errors import AssayError

UNSIGNED_BYTE = 0x08


def read_idx(path: Path) -> UInt8[np.ndarray, "..."]:
    """The array of unsigned bytes in an idx file; a name ending in `.gz` says that it is gzipped.

    Raises:
        AssayError: the file is truncated, too long, or no idx file of unsigned bytes.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            content = file.read()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise AssayError(f"{path} is truncated or damaged: {error}") from None
    if content[:3] != bytes([0, 0, UNSIGNED_BYTE]) or len(content) < 4:
        raise AssayError(
            f"{path} is no idx file of unsigned bytes: it must start with 00 00 08, got {content[:4].hex(' ')}"
        )
    start = 4 + 4 * content[3]
    if len(content) < start:
        raise AssayError(f"{path} is truncated: its header must have {start} bytes, got {len(content)}")
    shape = struct.unpack(f">{content[3]}I", content[4:start])
    if len(content) - start != math.prod(shape):
        raise AssayError(
            f"{path} is truncated or damaged: its header says {'x'.join(map(str, shape))} = {math.prod(shape)} values, "
            f"it holds {len(content) - start}"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)
