import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from assay.data.idx import read_idx
from assay.errors import AssayError

VALUES = bytes(range(24))
CONTENT = b"\x00\x00\x08\x03" + struct.pack(">III", 2, 3, 4) + VALUES


@pytest.mark.parametrize("zipped", [False, True])
def test_values_come_in_the_order_of_the_file(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / ("a.gz" if zipped else "a")
    path.write_bytes(gzip.compress(CONTENT, mtime=0) if zipped else CONTENT)
    array = read_idx(path)
    assert array.dtype == np.uint8
    assert array.tolist() == [[[12 * i + 4 * j + k for k in range(4)] for j in range(3)] for i in range(2)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (CONTENT[:-1], "2x3x4 = 24 values, it holds 23"),
        (CONTENT + b"\x00", "it holds 25"),
        (CONTENT[:7], "header must have 16 bytes, got 7"),
        (b"\x00\x00\x0d" + CONTENT[3:], "must start with 00 00 08, got 00 00 0d 03"),  # floats
        (b"\x00\x00\x08", "must start with"),
        (b"", "must start with"),
        (b"\x89PNG" + CONTENT, "must start with"),
    ],
)
def test_what_is_no_whole_idx_file_is_refused_by_name(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "images-idx3-ubyte"
    path.write_bytes(content)
    with pytest.raises(AssayError, match=message) as caught:
        read_idx(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "content", [gzip.compress(CONTENT, mtime=0)[:-9], b"no gzip", gzip.compress(CONTENT, mtime=0)[:15] + bytes(20)]
)
def test_a_damaged_gzip_file_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "images-idx3-ubyte.gz"
    path.write_bytes(content)
    with pytest.raises(AssayError, match="truncated or damaged") as caught:
        read_idx(path)
    assert str(path) in str(caught.value)
