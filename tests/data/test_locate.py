from pathlib import Path

import pytest

from assay.data.digest import digest
from assay.data.locate import data_dir
from assay.data.text import standard_library, text_file
from assay.errors import AssayError, MissingData


def test_what_is_given_comes_before_the_environment_and_that_before_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("ASSAY_DATA", raising=False)
    assert data_dir() == tmp_path / ".cache/assay/data"
    monkeypatch.setenv("ASSAY_DATA", "~/mine")
    assert data_dir() == tmp_path / "mine"
    assert data_dir("given") == Path("given")


def test_a_digest_follows_the_content_and_the_order(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_bytes(b"1")
    two.write_bytes(b"2")
    first = digest([one, two])
    assert digest([one, two]) == first
    assert digest([two, one]) != first
    two.write_bytes(b"22")
    assert digest([one, two]) != first


def test_the_standard_library_is_python_source_the_same_each_time_and_no_longer_than_asked() -> None:
    content = standard_library(100_000)
    assert len(content) == 100_000
    assert content.tobytes() == standard_library(200_000)[:100_000].tobytes()
    assert b"\ndef " in content.tobytes()


def test_a_missing_or_empty_text_is_told(tmp_path: Path) -> None:
    with pytest.raises(MissingData, match="no text file at"):
        text_file(tmp_path / "no.txt")
    (tmp_path / "empty.txt").touch()
    with pytest.raises(AssayError, match=r"empty.txt is empty"):
        text_file(tmp_path / "empty.txt")
