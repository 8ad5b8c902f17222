"""A PostgreSQL server of the tests' own: it listens on a socket in a temporary folder alone, and ends with them."""

import getpass
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

USER, PASSWORD = "assay", "se:cr@t/1"
QUICK = ("fsync=off", "full_page_writes=off", "synchronous_commit=off", "max_connections=60", "shared_buffers=16MB")


class Server:
    """Given by `running`.

    Attributes:
        folder: of its socket.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self._made = folder, 0

    def url(self, database: str = "postgres", user: str = USER, password: str = "se%3Acr%40t%2F1") -> str:
        return f"postgresql://{user}:{password}@/{database}?host={self.folder}"

    @staticmethod
    def name(url: str) -> str:
        """The database of a URL that `new_database` gave."""
        return url.partition("@/")[2].partition("?")[0]

    def do(self, *statements: str, database: str = "postgres") -> None:
        where = {"host": str(self.folder), "user": USER, "password": PASSWORD, "dbname": database}
        with psycopg.connect(**where, autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement)

    def new(self) -> str:
        """The URL of an empty schema, which is made faster than a database."""
        self._made += 1
        self.do(f"CREATE SCHEMA s{self._made}")
        return f"{self.url()}&options=-csearch_path%3Ds{self._made}"

    def new_database(self) -> str:
        """The URL of an empty database."""
        self._made += 1
        self.do(f"CREATE DATABASE d{self._made}")
        return self.url(f"d{self._made}")


@contextmanager
def running() -> Iterator[Server]:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[4]))
    if not found:
        pytest.skip("PostgreSQL is not installed: there is no /usr/lib/postgresql/*/bin/initdb")
    binaries = found[-1].parent
    folder = Path(tempfile.mkdtemp(prefix="assay-postgres-", dir="/tmp"))  # a socket's path must be short
    become = ["setpriv"]
    if os.getuid() == 0:  # as whom the server refuses to run
        shutil.chown(folder, "postgres", "postgres")
        become += ["--reuid=postgres", "--regid=postgres", "--clear-groups"]
    data, secret, log = folder / "data", folder / "password", folder / "log"
    secret.write_text(PASSWORD)
    secret.chmod(0o644)  # for the server's user; nobody else gets into the folder
    options = [f"--username={USER}", f"--pwfile={secret}", "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C"]
    try:
        made = subprocess.run(
            [*become, binaries / "initdb", "--no-sync", f"--pgdata={data}", *options],
            cwd="/", capture_output=True, text=True,
        )  # fmt: skip
        assert made.returncode == 0, f"initdb as {getpass.getuser()}: {made.stderr}"
        settings = [part for setting in QUICK for part in ("-c", setting)]
        command = [binaries / "postgres", "-D", data, "-k", folder, "-c", "listen_addresses=", *settings]
        with log.open("w") as said:  # killed tests take the server with them
            process = subprocess.Popen([*become, "--pdeathsig=QUIT", *command], cwd="/", stdout=said, stderr=said)
        try:
            server = Server(folder)
            end = time.monotonic() + 30
            while True:
                try:
                    server.do("SELECT 1")
                    break
                except psycopg.OperationalError:
                    assert process.poll() is None, log.read_text()
                    assert time.monotonic() < end, log.read_text()
                    time.sleep(0.05)
            yield server
        finally:
            process.send_signal(signal.SIGQUIT)  # which does not wait for clients
            process.wait(timeout=30)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
