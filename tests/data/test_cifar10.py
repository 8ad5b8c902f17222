import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from assay.data import cifar10
from assay.data.cifar10 import RECORD, decode_jpegs, find_cifar10, read_binary, read_cifar10
from assay.errors import AssayError, MissingData


def record(label: int, red: int, green: int, blue: int) -> bytes:
    """A picture of one colour, but for its top right pixel, which is white."""
    planes = [bytes([level] * 31 + [255] + [level] * (1024 - 32)) for level in (red, green, blue)]
    return bytes([label]) + b"".join(planes)


def jpeg(colour: tuple[int, int, int], size: int = 32) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (size, size), colour).save(file, "JPEG", quality=95)
    return file.getvalue()


def write_npz(path: Path, pictures: list[bytes], labels: list[int], **change: np.ndarray) -> None:
    offsets = np.cumsum([0, *map(len, pictures)])
    content = {"jpeg": np.frombuffer(b"".join(pictures), np.uint8), "offsets": offsets, "labels": np.uint8(labels)}
    both = {f"{part}_{name}": array for part in ("train", "test") for name, array in content.items()}
    np.savez(path, **(both | change))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASSAY_CACHE", str(tmp_path / "cache"))


def test_binary_records_are_label_then_red_green_and_blue_planes(tmp_path: Path) -> None:
    path = tmp_path / "data_batch_1.bin"
    path.write_bytes(record(7, 10, 20, 30) + record(0, 1, 2, 3))
    found = read_binary(path, records=2)
    assert found.labels.tolist() == [7, 0]
    assert found.images.shape == (2, 3, 32, 32)
    assert found.images[0, :, 5, 5].tolist() == [10, 20, 30]
    assert found.images[0, :, 0, 31].tolist() == [255, 255, 255]
    assert found.images[1, :, 31, 0].tolist() == [1, 2, 3]


def test_binary_files_are_joined_in_their_order(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    for i in range(5):
        (folder / f"data_batch_{i + 1}.bin").write_bytes(record(i, i, i, i) + record(i + 5, i, i, i))
    (folder / "test_batch.bin").write_bytes(record(9, 99, 99, 99))
    train, test = read_cifar10(find_cifar10(tmp_path), sizes=(10, 1))
    assert train.labels.tolist() == [0, 5, 1, 6, 2, 7, 3, 8, 4, 9]
    assert train.images[:, 1, 9, 9].tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert test.labels.tolist() == [9]
    assert test.images[0, 2, 9, 9] == 99


def test_binary_files_come_before_jpegs_which_are_not_lossless(tmp_path: Path) -> None:
    (tmp_path / "cifar10_jpeg.npz").touch()
    assert [path.name for path in find_cifar10(tmp_path)] == ["cifar10_jpeg.npz"]
    (tmp_path / "cifar-10-batches-bin").mkdir()
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        (tmp_path / f"cifar-10-batches-bin/{name}.bin").touch()
    assert find_cifar10(tmp_path)[-1].name == "test_batch.bin"
    (tmp_path / "cifar-10-batches-bin/data_batch_3.bin").unlink()
    (tmp_path / "cifar10_jpeg.npz").unlink()
    with pytest.raises(MissingData, match=r"looked for cifar-10-batches-bin/data_batch_3\.bin"):
        find_cifar10(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (record(1, 0, 0, 0)[:-1], f"make {RECORD}, it holds {RECORD - 1}"),
        (record(1, 0, 0, 0) * 2, f"it holds {2 * RECORD}"),
        (b"", "it holds 0"),
        (record(10, 0, 0, 0), r"labels must lie in 0..9, got 10"),
    ],
)
def test_a_damaged_binary_file_is_refused_by_name(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "test_batch.bin"
    path.write_bytes(content)
    with pytest.raises(AssayError, match=message) as caught:
        read_binary(path, records=1)
    assert str(path) in str(caught.value)


def test_jpegs_are_decoded_once_and_then_mapped_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "cifar10_jpeg.npz"
    write_npz(path, [jpeg((200, 40, 90)), jpeg((5, 250, 120))], [3, 8])
    first = read_cifar10([path], sizes=(2, 2))[0]
    np.testing.assert_allclose(first.images[:, :, 4, 6], [[200, 40, 90], [5, 250, 120]], atol=3)  # JPEG is lossy
    assert first.labels.tolist() == [3, 8]
    monkeypatch.setattr(cifar10, "decode_jpegs", None)  # may not be called again
    again = read_cifar10([path], sizes=(2, 2))[0]
    assert isinstance(again.images, np.memmap)
    np.testing.assert_array_equal(again.images, first.images)


def test_other_content_under_the_same_name_is_decoded_anew(tmp_path: Path) -> None:
    path = tmp_path / "cifar10_jpeg.npz"
    for level in (0, 255):
        write_npz(path, [jpeg((level, level, level))], [0])
        assert read_cifar10([path], sizes=(1, 1))[0].images.tolist() == np.full((1, 3, 32, 32), level).tolist()


@pytest.mark.parametrize(
    ("pictures", "change", "message"),
    [
        ([jpeg((1, 2, 3), size=31)], {}, "pictures must be 32x32, got 31x31 for number 0"),
        ([jpeg((1, 2, 3)), b"no picture"], {}, "picture 1 cannot be decoded"),
        ([jpeg((1, 2, 3))[:300]], {}, "picture 0 cannot be decoded"),
        ([jpeg((1, 2, 3))], {"train_offsets": np.array([0, 10**6])}, "offsets must rise within"),
        ([jpeg((1, 2, 3))], {"train_offsets": np.array([5, 0])}, "offsets must rise within"),
        ([jpeg((1, 2, 3))], {"train_offsets": np.array([0.0, 9.0])}, "offsets must be int64"),
        ([jpeg((1, 2, 3))], {"train_jpeg": np.zeros(700)}, "JPEG bytes must be uint8"),
        ([jpeg((1, 2, 3))] * 3, {}, r"images must have shape \[2, 3, 32, 32\], got \[3, 3, 32, 32\]"),
    ],
)
def test_damaged_jpeg_data_is_refused_by_name(
    tmp_path: Path, pictures: list[bytes], change: dict[str, np.ndarray], message: str
) -> None:
    path = tmp_path / "cifar10_jpeg.npz"
    write_npz(path, pictures, [0] * len(pictures), **change)
    with pytest.raises(AssayError, match=message) as caught:
        read_cifar10([path], sizes=(2, 2))
    assert str(path) in str(caught.value)


def test_real_pictures_have_the_mean_and_deviation_that_the_task_takes_off(data_dir: Path) -> None:
    from assay.tasks.cifar10 import MEAN, STD

    path = data_dir / "cifar10_jpeg.npz"
    with np.load(path) as archive:
        offsets = archive["test_offsets"][:301]
        images = decode_jpegs(archive["test_jpeg"], offsets, path)
    levels = images.transpose(1, 0, 2, 3).reshape(3, -1) / 255
    np.testing.assert_allclose(levels.mean(axis=1), MEAN, atol=0.02)  # 300 pictures of 50,000
    np.testing.assert_allclose(levels.std(axis=1), STD, atol=0.02)
