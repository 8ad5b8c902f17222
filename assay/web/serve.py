"""A web server for one folder and this machine alone.

It listens on loopback, reads and never writes, and gives out regular files that truly lie in its folder: no listings,
nothing through `..` or a symbolic link that leads outside. A web page elsewhere cannot read it by giving its own name
the address 127.0.0.1 (DNS rebinding), since a request must name this machine.
"""

import os
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from assay.errors import AssayError

LOOPBACK = "127.0.0.1"


class _Files(SimpleHTTPRequestHandler):
    extensions_map = SimpleHTTPRequestHandler.extensions_map | {".xml": "application/atom+xml"}

    def send_head(self) -> Any:
        if self.headers.get("Host", "").partition(":")[0] not in (LOOPBACK, "localhost"):
            self.send_error(HTTPStatus.FORBIDDEN, "This server answers its own machine only")
            return None
        if urlsplit(self.path).path == "/":
            self.path = "/index.html"
        path = self.translate_path(self.path)
        # isfile comes first: it takes any name, one too long or with a NUL in it too
        if not os.path.isfile(path) or not Path(path).resolve().is_relative_to(Path(self.directory).resolve()):
            self.send_error(HTTPStatus.NOT_FOUND, "There is no such page")
            return None
        return super().send_head()

    def end_headers(self) -> None:
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Content-Security-Policy", "frame-ancestors 'none'")
        self.send_header("Cache-Control", "no-store")  # another trial's report may be at the same address tomorrow
        super().end_headers()

    def version_string(self) -> str:
        return "assay"

    def copyfile(self, source: Any, outputfile: Any) -> None:
        try:
            super().copyfile(source, outputfile)
        except ConnectionError:  # the reader left before the page was whole
            self.close_connection = True

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Nothing: what went well is of no interest on the terminal."""


def server(folder: Path, port: int = 0) -> ThreadingHTTPServer:
    """A server of `folder` that listens from now on and answers while `serve_forever` runs; the caller closes it.

    Args:
        port: 0 takes any that is free, `server_port` says which.

    Raises:
        AssayError: the port cannot be had.
    """
    try:
        return ThreadingHTTPServer((LOOPBACK, port), partial(_Files, directory=str(folder)))
    except OSError as error:
        raise AssayError(
            f"cannot listen on port {port}: {error.strerror}; give another --port, or --port 0 for any that is free"
        ) from error
