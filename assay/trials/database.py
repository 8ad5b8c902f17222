"""The database of a store, SQLite or PostgreSQL: opened by file or URL, its troubles told in one line."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError
from sqlalchemy.pool import NullPool

from assay.errors import AssayError
from assay.trials.urls import without_password

URLS = "postgresql://USER@HOST/DATABASE"
REACH = 10  # seconds to wait for PostgreSQL's first answer

_SQLITE = {
    "SQLITE_NOTADB": "is not a database, or is damaged; move it away or give another place",
    "SQLITE_CORRUPT": "is damaged; move it away or give another place",
    "SQLITE_READONLY": "cannot be written: the file or its folder is read-only",
    "SQLITE_CANTOPEN": "cannot be opened: it is a folder, or its folder cannot be written",
    "SQLITE_FULL": "cannot grow: the disk is full",
}
_POSTGRESQL = {  # by SQLSTATE
    "25006": "cannot be written: the server or the role is read-only",
    "42501": "does not let this role do what is needed",
    "53100": "cannot grow: the server's disk is full",
    "53300": "cannot be opened: the server has no connection left",
}


class Database:
    """Transactions on one database.

    Args:
        location: an SQLite file, made where it is missing, or a URL: `sqlite:///FILE`, `postgresql://USER@HOST/DATABASE`.
        patience: seconds to wait for another process that is writing.

    Attributes:
        location: as it may be shown, without a password.
        dialect: `"sqlite"` or `"postgresql"`.
        path: the SQLite file, if there is one.
        private: it is in this process's memory alone.

    Raises:
        AssayError: it cannot be what is meant, or its driver is missing.
    """

    def __init__(self, location: str, *, patience: float) -> None:
        self.location, self.patience = without_password(location), patience
        url = _url(location)
        self.dialect = url.get_backend_name()
        self.private = self.dialect == "sqlite" and url.database in (None, "", ":memory:")
        self.path: Path | None = None
        if self.dialect == "postgresql":
            waits = {} if "connect_timeout" in url.query else {"connect_timeout": REACH}
            try:  # a trial may train for hours between two writes: a connection is tried before it is used again
                self._engine = create_engine(url, connect_args=waits, pool_pre_ping=True)
            except ImportError as error:
                raise AssayError(
                    f"store {self.location} needs a driver for PostgreSQL ({error}); pip install 'assay[postgres]'"
                ) from error
            return
        if self.private:
            self._engine = create_engine(url)
        else:
            self.path = Path(str(url.database).removeprefix("file:"))
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise AssayError(f"cannot make the folder of store {self.path}: {error.strerror}") from error
            self._engine = create_engine(url, connect_args={"timeout": patience}, poolclass=NullPool)
        event.listen(self._engine, "connect", _prepare)
        event.listen(self._engine, "begin", _begin)

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that writes nothing."""
        with self._transaction(writes=False) as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that writes, on SQLite the only one that does so from its beginning to its end."""
        with self._transaction(writes=True) as connection:
            yield connection

    @contextmanager
    def _transaction(self, *, writes: bool) -> Iterator[Connection]:
        try:
            with self._engine.connect() as connection:
                connection.execution_options(assay_writes=writes)
                with connection.begin():
                    yield connection
        except IntegrityError:
            raise
        except DBAPIError as error:
            raise AssayError(f"store {self.location} {self._trouble(error.orig)}") from error

    def _trouble(self, error: Any) -> str:
        if self.dialect == "sqlite":
            name = getattr(error, "sqlite_errorname", "")
            if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
                return f"is locked: another process has been writing to it for {self.patience:g} seconds"
            for start, trouble in _SQLITE.items():
                if name.startswith(start):
                    return trouble
            return f"failed: {_line(error)}"
        state = getattr(error, "sqlstate", None)
        if state is None:
            return f"cannot be reached: {_line(error)}"
        if state == "55P03":
            return f"is locked: another process has been changing its tables for {self.patience:g} seconds"
        return f"{_POSTGRESQL.get(state, 'failed')}: {error.diag.message_primary}"  # the rest quotes the statement


def _url(location: str) -> URL:
    scheme, separator, rest = location.partition("://")
    if not separator:
        if location.startswith(("postgresql:", "postgresql+psycopg:", "postgres:")):
            raise AssayError(f"cannot read the URL of the store; write {URLS}")
        return URL.create("sqlite", database=location)
    if scheme in ("postgresql", "postgres"):
        location = f"postgresql+psycopg://{rest}"
    try:
        url = make_url(location)
    except (ArgumentError, ValueError) as error:  # whose message may hold part of a password
        raise AssayError(f"cannot read the URL of the store, {scheme}://...; write {URLS}") from error
    if url.drivername not in ("postgresql+psycopg", "sqlite", "sqlite+pysqlite"):
        raise AssayError(f"cannot open store {without_password(location)!r}: it must be an SQLite file or {URLS}")
    if "@" in (url.host or ""):
        raise AssayError(f"cannot read the URL of the store, {scheme}://...: in a password, write @ as %40, : as %3A")
    return url


def _prepare(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # the driver begins no transactions of its own: `_begin` does
    # readers then need not wait for writers; if the file system cannot do it or a writer is at work, all stays as it is
    with suppress(sqlite3.OperationalError):
        connection.execute("PRAGMA journal_mode=WAL")


def _begin(connection: Connection) -> None:
    # a transaction that reads first and writes later would fail where another has written in between
    writes = connection.get_execution_options().get("assay_writes")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _line(error: BaseException | None) -> str:
    return " ".join(str(error).split())
