import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from assay.data.fashion_mnist import find_fashion_mnist, read_fashion_mnist
from assay.errors import AssayError, MissingData

NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def arrays(train: int = 12, test: int = 5) -> dict[str, np.ndarray]:
    chance = np.random.default_rng(0)
    return {
        "train_images": chance.integers(0, 256, (train, 28, 28), np.uint8),
        "train_labels": chance.integers(0, 10, train, np.uint8),
        "test_images": chance.integers(0, 256, (test, 28, 28), np.uint8),
        "test_labels": chance.integers(0, 10, test, np.uint8),
    }


def write_idx(folder: Path, content: dict[str, np.ndarray], suffix: str = "") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in zip(NAMES, content.values(), strict=True):
        data = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
        (folder / f"{name}{suffix}").write_bytes(gzip.compress(data) if suffix else data)


@pytest.mark.parametrize(
    ("place", "suffix"), [("fashion-mnist", ".gz"), ("fashion-mnist", ""), ("FashionMNIST/raw", "")]
)
def test_idx_and_npz_files_hold_the_same_data(tmp_path: Path, place: str, suffix: str) -> None:
    content = arrays()
    write_idx(tmp_path / "idx" / place, content, suffix)
    (tmp_path / "npz").mkdir()
    np.savez(tmp_path / "npz/fashion_mnist.npz", **content)
    read = [read_fashion_mnist(find_fashion_mnist(tmp_path / kind), sizes=(12, 5)) for kind in ("idx", "npz")]
    for part, (images, labels) in enumerate((("train_images", "train_labels"), ("test_images", "test_labels"))):
        for found in read:
            np.testing.assert_array_equal(found[part].images[:, 0], content[images])
            np.testing.assert_array_equal(found[part].labels, content[labels])
            assert found[part].labels.dtype == np.int64


def test_real_pictures_survive_the_way_through_idx(tmp_path: Path, data_dir: Path) -> None:
    with np.load(data_dir / "fashion_mnist.npz") as archive:
        images, labels = archive["test_images"][:60], archive["test_labels"][:60]
    parts = (images[:40], labels[:40], images[40:], labels[40:])
    write_idx(tmp_path, dict(zip(arrays(), parts, strict=True)), ".gz")
    train, test = read_fashion_mnist(find_fashion_mnist(tmp_path), sizes=(40, 20))
    np.testing.assert_array_equal(np.concatenate([train.images, test.images])[:, 0], images)
    np.testing.assert_array_equal(np.concatenate([train.labels, test.labels]), labels)
    assert train.images.std() > 50  # they are pictures, not zeros


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_labels": np.full(12, 10, np.uint8)}, r"labels must lie in 0..9, got 10 at sample 0"),
        ({"test_labels": np.array([0, 1, -1, 2, 3])}, r"got -1 at sample 2"),
        ({"train_labels": np.zeros(11, np.uint8)}, r"labels must have shape \[12\], one an image, got \[11\]"),
        ({"train_labels": np.zeros(12, np.float32)}, "labels must be whole numbers, got float32"),
        ({"train_images": np.zeros((12, 28, 28), np.float32)}, "images must be uint8, got float32"),
        ({"train_images": np.zeros((11, 28, 28), np.uint8)}, r"shape \[12, 1, 28, 28\], got \[11, 1, 28, 28\]"),
        ({"test_images": np.zeros((5, 784), np.uint8)}, r"shape \[5, 1, 28, 28\], got \[5, 784\]"),
    ],
)
def test_wrong_content_is_refused(tmp_path: Path, change: dict[str, np.ndarray], message: str) -> None:
    path = tmp_path / "fashion_mnist.npz"
    np.savez(path, **(arrays() | change))
    with pytest.raises(AssayError, match=message) as caught:
        read_fashion_mnist([path], sizes=(12, 5))
    assert str(path) in str(caught.value)


def test_a_file_with_pickled_objects_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "fashion_mnist.npz"
    np.savez(path, **(arrays() | {"train_labels": np.array([{}] * 12, dtype=object)}))
    with pytest.raises(AssayError, match="plain arrays"):
        read_fashion_mnist([path], sizes=(12, 5))


def test_a_truncated_npz_is_named(tmp_path: Path) -> None:
    path = tmp_path / "fashion_mnist.npz"
    np.savez_compressed(path, **arrays())
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(AssayError, match=r"not a whole \.npz file") as caught:
        read_fashion_mnist([path], sizes=(12, 5))
    assert str(path) in str(caught.value)


def test_a_lone_array_or_garbage_is_no_npz(tmp_path: Path) -> None:
    path = tmp_path / "fashion_mnist.npz"
    with path.open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(AssayError, match=r"not a whole \.npz file"):
        read_fashion_mnist([path])
    path.write_bytes(b"garbage")
    with pytest.raises(AssayError, match=r"not a whole \.npz file"):
        read_fashion_mnist([path])


def test_a_missing_array_is_named(tmp_path: Path) -> None:
    path = tmp_path / "fashion_mnist.npz"
    content = arrays()
    del content["test_labels"]
    np.savez(path, **content)
    with pytest.raises(AssayError, match="no array 'test_labels'; it has train_images, train_labels, test_images"):
        read_fashion_mnist([path], sizes=(12, 5))


def test_a_missing_data_set_is_told_in_one_line_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(MissingData) as caught:
        find_fashion_mnist(tmp_path)
    message = str(caught.value)
    assert "\n" not in message
    for part in (str(tmp_path), "--data-dir", "ASSAY_DATA", "assay data fetch fashion-mnist", "fashion_mnist.npz"):
        assert part in message


def test_the_file_that_an_incomplete_data_set_lacks_is_named(tmp_path: Path) -> None:
    write_idx(tmp_path / "fashion-mnist", arrays(), ".gz")
    (tmp_path / "fashion-mnist" / f"{NAMES[3]}.gz").unlink()
    with pytest.raises(MissingData, match=f"looked for fashion-mnist/{NAMES[3]}.gz"):
        find_fashion_mnist(tmp_path)
