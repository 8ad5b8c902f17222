import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from assay.data.cache import cache_dir, cached


def test_the_folder_is_the_first_that_the_environment_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("ASSAY_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_dir() == tmp_path / ".cache/assay"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert cache_dir() == tmp_path / "x/assay"
    monkeypatch.setenv("ASSAY_CACHE", str(tmp_path / "a"))
    assert cache_dir() == tmp_path / "a"


def test_a_damaged_file_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASSAY_CACHE", str(tmp_path))
    wanted = np.arange(1000)
    for damage in (b"", b"garbage", b"whole"):
        if damage == b"whole":  # its last bytes lost
            damage = (tmp_path / "key.npy").read_bytes()[:-8]
        (tmp_path / "key.npy").write_bytes(damage)
        np.testing.assert_array_equal(cached("key", lambda: wanted), wanted)
        np.testing.assert_array_equal(np.load(tmp_path / "key.npy"), wanted)


def test_a_folder_that_cannot_be_written_is_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("ASSAY_CACHE", str(tmp_path / "file"))  # even root cannot make a folder below a file
    assert cached("key", lambda: np.arange(3)).tolist() == [0, 1, 2]


def test_a_maker_that_fails_leaves_nothing_and_is_heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASSAY_CACHE", str(tmp_path))

    def fail() -> np.ndarray:
        raise RuntimeError("no array")

    with pytest.raises(RuntimeError, match="no array"):
        cached("key", fail)
    assert list(tmp_path.iterdir()) == []


def test_processes_that_make_the_same_array_at_once_all_get_it(tmp_path: Path) -> None:
    program = (
        "import numpy as np; from assay.data.cache import cached\n"
        "for i in range(20): assert cached(f'k{i}', lambda: np.full(50_000, i)).sum() == 50_000 * i\n"
    )
    environment = {"ASSAY_CACHE": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[2])}
    several = [subprocess.Popen([sys.executable, "-c", program], env=environment) for _ in range(3)]
    assert [process.wait(60) for process in several] == [0, 0, 0]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(f"k{i}.npy" for i in range(20))
