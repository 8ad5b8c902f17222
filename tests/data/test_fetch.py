import hashlib
import io
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from urllib.request import urlopen

import pytest

from assay.data.fetch import SOURCES, Source, download, fetch
from assay.errors import AssayError, UnknownName


def tar_of(files: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return file.getvalue()


PAGES = {
    "/a.gz": b"first",
    "/b.gz": b"second" * 100_000,
    "/good.tar.gz": tar_of({"data/x.bin": b"123", "data/y.bin": b"45"}),
    "/climbs.tar.gz": tar_of({"data/x.bin": b"123", "../outside": b"bad"}),
    "/other.tar.gz": tar_of({"elsewhere/x.bin": b"123"}),
}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        broken = self.path.startswith("/broken")
        content = PAGES.get(self.path.removeprefix("/broken"))
        if content is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if broken else content)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def source(address: str, *names: str, md5: str | None = None) -> Source:
    sums = [md5 or hashlib.md5(PAGES[name.removeprefix("/broken")]).hexdigest() for name in names]
    return Source("data", tuple((address + name, md5) for name, md5 in zip(names, sums, strict=True)))


def test_files_come_into_one_folder_and_nothing_else_is_left(tmp_path: Path, address: str) -> None:
    folder = download(source(address, "/a.gz", "/b.gz"), tmp_path / "new", urlopen)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        "a.gz": PAGES["/a.gz"],
        "b.gz": PAGES["/b.gz"],
    }
    assert list((tmp_path / "new").iterdir()) == [folder]


def test_an_archive_is_unpacked(tmp_path: Path, address: str) -> None:
    folder = download(source(address, "/good.tar.gz"), tmp_path, urlopen)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {"x.bin": b"123", "y.bin": b"45"}
    assert list(tmp_path.iterdir()) == [folder]


def test_what_is_there_is_not_downloaded_again(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    assert download(Source("data", (("http://127.0.0.1:1/x", ""),)), tmp_path, urlopen) == tmp_path / "data"


@pytest.mark.parametrize(
    ("names", "md5", "message"),
    [
        (("/a.gz", "/b.gz"), "0" * 32, "its md5 must be 0{32}, got"),
        (("/a.gz", "/broken/b.gz"), None, "broke off after 300000 of 600000 bytes"),
        (("/nothing",), "0" * 32, "404"),
        (("/climbs.tar.gz",), None, "climbs.tar.gz cannot be unpacked"),
        (("/other.tar.gz",), None, "other.tar.gz holds no folder 'data'"),
    ],
)
def test_a_failure_is_one_message_and_leaves_nothing(
    tmp_path: Path, address: str, names: tuple[str, ...], md5: str | None, message: str
) -> None:
    place = tmp_path / "inner"
    with pytest.raises(AssayError, match=message) as caught:
        download(source(address, *names, md5=md5), place, urlopen)
    assert "\n" not in str(caught.value)
    assert list(place.iterdir()) == []
    assert list(tmp_path.iterdir()) == [place]


def test_no_connection_is_one_message_with_the_address(tmp_path: Path) -> None:
    def refuse(url: str) -> None:
        raise ConnectionRefusedError("refused")

    with pytest.raises(AssayError, match=r"download of https://www.cs.toronto.edu/\S+ failed: refused"):
        fetch("cifar10", tmp_path, refuse)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(AssayError, match="cannot write the data set to"):
        fetch("cifar10", tmp_path / "file", urlopen)


def test_an_unknown_data_set_is_answered_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="did you mean 'cifar10'"):
        fetch("cifar", tmp_path)


def test_what_is_fetched_is_what_the_readers_look_for(tmp_path: Path) -> None:
    from assay.data.cifar10 import find_cifar10
    from assay.data.fashion_mnist import find_fashion_mnist

    fashion = SOURCES["fashion-mnist"]
    (tmp_path / fashion.folder).mkdir()
    for url, _ in fashion.files:
        (tmp_path / fashion.folder / url.rsplit("/", 1)[-1]).touch()
    assert len(find_fashion_mnist(tmp_path)) == 4
    (tmp_path / SOURCES["cifar10"].folder).mkdir()
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        (tmp_path / SOURCES["cifar10"].folder / f"{name}.bin").touch()
    assert len(find_cifar10(tmp_path)) == 6
