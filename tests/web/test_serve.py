"""The server: this machine alone, one folder alone, and nothing that writes."""

import http.client
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from assay.errors import AssayError
from assay.web.serve import server

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A server of a folder with a page and a folder in it, a secret beside it, and links to both."""
    base = tmp_path_factory.mktemp("served")
    site = base / "site"
    (site / "papers").mkdir(parents=True)
    (site / "index.html").write_text("<title>index</title>")
    (site / "papers" / "a b.html").write_text("<title>paper</title>")
    (site / "feed.xml").write_text("<feed/>")
    (base / "secret.txt").write_text("secret")
    (base / "site-2").mkdir()
    (base / "site-2" / "secret.txt").write_text("secret")
    (site / "leak.txt").symlink_to(base / "secret.txt")
    (site / "leak").symlink_to(base)
    (site / "near.html").symlink_to("index.html")
    with server(site) as pages:
        thread = threading.Thread(target=pages.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield pages
        pages.shutdown()
        thread.join()


def asked(pages, path, *, method="GET", host=None):
    """Status, headers and body of the answer to `path` as it stands, which clients would tidy."""
    connection = http.client.HTTPConnection("127.0.0.1", pages.server_port, timeout=10)
    connection.putrequest(method, path, skip_host=True)
    connection.putheader("Host", host or f"127.0.0.1:{pages.server_port}")
    connection.endheaders()
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, answer.headers, body


@pytest.mark.parametrize(
    ("path", "body", "kind"),
    [
        ("/", b"<title>index</title>", "text/html"),
        ("/?x=1", b"<title>index</title>", "text/html"),
        ("/index.html", b"<title>index</title>", "text/html"),
        ("/papers/a%20b.html", b"<title>paper</title>", "text/html"),
        ("/papers/../index.html", b"<title>index</title>", "text/html"),
        ("/near.html", b"<title>index</title>", "text/html"),
        ("/feed.xml", b"<feed/>", "application/atom+xml"),
    ],
)
def test_a_file_of_the_folder_is_given(served, path, body, kind):
    status, headers, got = asked(served, path)
    assert (status, got, headers["Content-Type"]) == (200, body, kind)
    assert headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    "path",
    [
        "/../secret.txt",
        "/%2e%2e/secret.txt",
        "/..%2fsecret.txt",
        "/papers/../../secret.txt",
        "/papers/%2e%2e/%2e%2e/secret.txt",
        "/..\\secret.txt",
        "/../site-2/secret.txt",
        "//etc/passwd",
        "/%2fetc/passwd",
        "/leak.txt",
        "/leak/secret.txt",
        "/leak/site-2/secret.txt",
        "/papers",
        "/papers/",
        "/index.html/",
        "/none.html",
        "/a%00b",
        f"/{'a' * 5000}",
    ],
)
def test_what_is_not_a_file_of_the_folder_is_not_there(served, path):
    status, _, body = asked(served, path)
    assert status == 404
    assert b"secret" not in body.replace(path.encode(), b"")
    assert b"a b.html" not in body


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_nothing_but_reading_is_understood(served, method):
    assert asked(served, "/index.html", method=method)[0] == 501


def test_head_gives_the_length_alone(served):
    status, headers, body = asked(served, "/index.html", method="HEAD")
    assert (status, headers["Content-Length"], body) == (200, "20", b"")


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "localhost.evil.example"]
)
def test_a_name_that_is_not_this_machines_is_refused(served, host):
    status, _, body = asked(served, "/", host=host)
    assert status == 403
    assert b"index" not in body


def test_this_machine_may_be_called_localhost(served):
    assert asked(served, "/", host=f"localhost:{served.server_port}")[0] == 200


def test_it_listens_on_no_other_address(served):
    assert served.server_address[0] == "127.0.0.1"
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", served.server_port), timeout=5)


def test_a_reader_who_leaves_early_is_no_error(tmp_path, capfd):
    (tmp_path / "large.json").write_bytes(bytes(30_000_000))
    with server(tmp_path) as pages, socket.create_connection(pages.server_address) as reader:
        reader.sendall(b"GET /large.json HTTP/1.0\r\nHost: localhost\r\n\r\n")
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # to close it is to reset it
        pages.daemon_threads = False  # so that leaving the server waits for its thread
        pages.handle_request()
        reader.recv(10)
        reader.close()
    assert capfd.readouterr().err == ""


def test_a_port_that_is_taken_is_told(served, tmp_path):
    with pytest.raises(AssayError, match=rf"cannot listen on port {served.server_port}: .*--port 0"):
        server(tmp_path, served.server_port)


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "kill"])
def test_the_command_serves_until_it_is_stopped_and_leaves_nothing(tmp_path, end):
    (tmp_path / "tmp").mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", "from assay.cli import main; main()", "serve", "--port", "0"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path / "tmp")},
    )  # fmt: skip
    try:
        line = process.stdout.readline()
        address = urlsplit(line.split()[1])
        assert address.hostname == "127.0.0.1"
        connection = http.client.HTTPConnection(address.hostname, address.port, timeout=10)
        connection.request("GET", "/trials.html")
        assert b"None yet" in connection.getresponse().read()
        process.send_signal(end)
        _, said = process.communicate(timeout=20)
    finally:
        process.kill()
    assert (process.returncode, said) == (0, "")
    assert list((tmp_path / "tmp").iterdir()) == []
    assert [path.name for path in tmp_path.iterdir()] == ["tmp"]
