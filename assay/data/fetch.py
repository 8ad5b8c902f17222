"""Public data sets, downloaded from their official places: checked, then put in place all at once or not at all."""

import hashlib
import http.client
import os
import tarfile
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from assay.errors import AssayError, UnknownName

Opener = Callable[[str], AbstractContextManager[Any]]


def _open(url: str) -> AbstractContextManager[Any]:
    response: AbstractContextManager[Any] = urlopen(url, timeout=30)
    return response


@dataclass(frozen=True)
class Source:
    """Where a data set comes from.

    Attributes:
        folder: what it becomes in the data folder.
        files: (address, md5) of each file; a tar archive is unpacked, and holds `folder`.
    """

    folder: str
    files: tuple[tuple[str, str], ...]


_FASHION_MNIST = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"

SOURCES = {
    "cifar10": Source(
        "cifar-10-batches-bin",
        (("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530"),),
    ),
    "fashion-mnist": Source(
        "fashion-mnist",
        (
            (f"{_FASHION_MNIST}train-images-idx3-ubyte.gz", "8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
            (f"{_FASHION_MNIST}train-labels-idx1-ubyte.gz", "25c81989df183df01b3e8a0aad5dffbe"),
            (f"{_FASHION_MNIST}t10k-images-idx3-ubyte.gz", "bef4ecab320f06d8554ea6380940ec79"),
            (f"{_FASHION_MNIST}t10k-labels-idx1-ubyte.gz", "bb300cfdad3c16e7a12a480ee83cd310"),
        ),
    ),
}


def fetch(name: str, data_dir: Path, opener: Opener = _open) -> Path:
    """Download the data set `name` into `data_dir`; one that is there already is left as it is.

    Args:
        name: one of `SOURCES`.
        data_dir: the folder of data sets; made where it does not exist.
        opener: gives the response to an address; `urllib.request.urlopen` by default.

    Returns:
        the folder of the data set.

    Raises:
        UnknownName: there is no such data set.
        AssayError: a download failed or is not what it should be; nothing is left behind.
    """
    if name not in SOURCES:
        raise UnknownName("data set", name, SOURCES)
    return download(SOURCES[name], data_dir, opener)


def download(source: Source, data_dir: Path, opener: Opener) -> Path:
    """`fetch` for a source of one's own."""
    place = data_dir / source.folder
    if place.exists():
        return place
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=data_dir, prefix=".fetch-") as name:
            whole = Path(name) / source.folder
            for url, md5 in source.files:
                archive = whole.parent / url.rsplit("/", 1)[-1]
                _save(url, md5, archive, opener)
                if tarfile.is_tarfile(archive):
                    _unpack(archive, whole)
                else:
                    whole.mkdir(exist_ok=True)
                    archive.rename(whole / archive.name)
            os.replace(whole, place)
    except OSError as error:
        raise AssayError(f"cannot write the data set to {place}: {error}") from None
    return place


def _save(url: str, md5: str, path: Path, opener: Opener) -> None:
    """One file, whole and with the right checksum."""
    found = hashlib.md5(usedforsecurity=False)
    try:
        with opener(url) as response, path.open("wb") as file:
            wanted = response.headers.get("Content-Length")
            while block := response.read(1 << 20):
                found.update(block)
                file.write(block)
            size = file.tell()
    except (OSError, http.client.HTTPException) as error:
        raise AssayError(f"download of {url} failed: {error}") from None
    if wanted is not None and size != int(wanted):
        raise AssayError(f"download of {url} broke off after {size} of {wanted} bytes; run it again")
    if found.hexdigest() != md5:
        raise AssayError(
            f"download of {url} is not the file it should be: its md5 must be {md5}, got {found.hexdigest()}"
        )


def _unpack(archive: Path, whole: Path) -> None:
    """The archive's folder `whole.name`, beside it."""
    try:
        with tarfile.open(archive) as tar:
            tar.extractall(whole.parent, filter="data")
    except tarfile.TarError as error:
        raise AssayError(f"{archive.name} cannot be unpacked: {error}") from None
    if not whole.is_dir():
        raise AssayError(f"{archive.name} holds no folder {whole.name!r}")
