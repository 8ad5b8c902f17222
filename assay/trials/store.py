"""Where runs and trials are kept: one SQLite file, or any database that SQLAlchemy speaks to.

A run is stored under its content address and never changes, so writers need no agreement: whoever comes second with a
key finds it there.
"""

import io
import json
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import (
    URL,
    Column,
    Connection,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    create_engine,
    event,
    insert,
    make_url,
    select,
)  # fmt: skip
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, NoSuchModuleError
from sqlalchemy.pool import NullPool
from sqlalchemy.schema import CreateTable

from assay.engine import Record
from assay.errors import AssayError
from assay.trials.result import TrialResult

SCHEMA = 1

_tables = MetaData()
_meta = Table("assay_meta", _tables, Column("id", Integer, primary_key=True), Column("schema", Integer, nullable=False))
_runs = Table(
    "runs",
    _tables,
    Column("key", String(40), primary_key=True),
    Column("task", Text, nullable=False),
    Column("seed", Integer, nullable=False),
    Column("status", String(16), nullable=False),
    Column("created", String(32), nullable=False),
    Column("record", Text, nullable=False),  # text, not JSON: a method may have logged a NaN, which JSON columns refuse
    Column("outcomes", LargeBinary, nullable=False),
)
_trials = Table(
    "trials",
    _tables,
    Column("id", Integer, primary_key=True),
    Column("created", String(32), nullable=False),
    Column("question", Text, nullable=False),
    Column("result", Text, nullable=False),
)


class Store:
    """Finished runs by their key, and finished trials by number.

    Args:
        location: an SQLite file (made where it is missing), or an SQLAlchemy URL such as `postgresql://host/name`.
        patience: seconds to wait for another process that is writing to the same SQLite file.

    Raises:
        AssayError: the place cannot be used: damaged, locked, read-only, full, or written by a newer assay.
    """

    def __init__(self, location: str | Path, *, patience: float = 30.0) -> None:
        self.location, self.patience = str(location), patience
        try:
            if "://" in self.location:
                url = make_url(self.location)
                self.location = url.render_as_string()  # without the password
            else:
                url = URL.create("sqlite", database=self.location)
            is_file = url.get_backend_name() == "sqlite" and url.database not in (None, "", ":memory:")
            if is_file:
                self._engine = create_engine(url, connect_args={"timeout": patience}, poolclass=NullPool)
                event.listen(self._engine, "connect", _prefer_wal)
            else:
                self._engine = create_engine(url)
        except (ArgumentError, NoSuchModuleError, ModuleNotFoundError) as error:
            raise AssayError(f"cannot open store {self.location!r}: {error}") from error
        path = Path(str(url.database).removeprefix("file:")) if is_file else Path("assay.sqlite")
        self.checkpoints = path.parent / f"{path.stem}-checkpoints"
        if is_file:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise AssayError(f"cannot make the folder of store {path}: {error.strerror}") from error
        with self._connection() as connection:
            for table in _tables.sorted_tables:
                connection.execute(CreateTable(table, if_not_exists=True))
        with self._connection() as connection:
            found = connection.execute(select(_meta.c.schema)).scalar()
        if found is None:
            self._insert(_meta, id=1, schema=SCHEMA)
        elif found > SCHEMA:
            raise AssayError(
                f"store {self.location} was written by a newer assay: it has schema {found}, this one knows {SCHEMA}"
            )

    def get(self, key: str) -> Record | None:
        """The run stored under `key`, with its outcomes."""
        with self._connection() as connection:
            row = connection.execute(select(_runs.c.record, _runs.c.outcomes).where(_runs.c.key == key)).one_or_none()
        return None if row is None else Record.from_json(self._parse(row.record), self._unpack(row.outcomes))

    def put(self, key: str, record: Record) -> None:
        """Keep a run and drop its checkpoints; a key that is there already stays as it is."""
        self._insert(
            _runs,
            key=key,
            task=record.task["name"],
            seed=record.seed,
            status=record.status,
            created=_now(),
            record=json.dumps(record.to_json()),
            outcomes=_pack(record.outcomes),
        )
        shutil.rmtree(self.folder(key), ignore_errors=True)
        with suppress(OSError):  # the last run's folder leaves an empty one; other runs' checkpoints keep it
            self.checkpoints.rmdir()

    def folder(self, key: str) -> Path:
        """Where the checkpoints of the run `key` belong until it is stored."""
        return self.checkpoints / key

    def runs(self) -> list[tuple[str, Record]]:
        """Every run with its key, oldest first, without outcomes."""
        with self._connection() as connection:
            rows = connection.execute(select(_runs.c.key, _runs.c.record).order_by(_runs.c.created, _runs.c.key)).all()
        return [(row.key, Record.from_json(self._parse(row.record))) for row in rows]

    def put_trial(self, result: TrialResult) -> int:
        """Keep a finished trial.

        Returns:
            its number, counted from 1.
        """
        row = insert(_trials).values(
            created=result.created or _now(), question=result.question, result=json.dumps(result.to_json())
        )
        with self._connection() as connection:
            return int(connection.execute(row.returning(_trials.c.id)).scalar_one())

    def trials(self) -> list[tuple[int, TrialResult]]:
        """Every trial with its number, oldest first."""
        with self._connection() as connection:
            rows = connection.execute(select(_trials.c.id, _trials.c.result).order_by(_trials.c.id)).all()
        return [(row.id, TrialResult.from_json(self._parse(row.result))) for row in rows]

    def _insert(self, table: Table, **values: Any) -> None:
        with suppress(IntegrityError), self._connection() as connection:  # it is there already
            connection.execute(insert(table).values(**values))

    def _parse(self, text: str) -> Any:
        try:
            return json.loads(text)
        except ValueError as error:
            raise AssayError(f"store {self.location} is damaged: a row is not JSON ({error})") from error

    def _unpack(self, data: bytes) -> dict[str, np.ndarray]:
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
                return {name: arrays[name] for name in arrays.files}
        except Exception as error:  # zipfile, zlib and numpy each have their own kinds
            raise AssayError(f"store {self.location} is damaged: the outcomes of a run cannot be read") from error

    @contextmanager
    def _connection(self) -> Iterator[Connection]:
        """A transaction, whose failures are told in one line."""
        try:
            with self._engine.begin() as connection:
                yield connection
        except IntegrityError:
            raise
        except DBAPIError as error:
            raise AssayError(f"store {self.location} {self._trouble(error.orig)}") from error

    def _trouble(self, error: BaseException | None) -> str:
        name = getattr(error, "sqlite_errorname", "")
        for start, trouble in (
            ("SQLITE_BUSY", f"is locked: another process has been writing to it for {self.patience:g} seconds"),
            ("SQLITE_NOTADB", "is not a database, or is damaged; move it away or give another place"),
            ("SQLITE_CORRUPT", "is damaged; move it away or give another place"),
            ("SQLITE_READONLY", "cannot be written: the file or its folder is read-only"),
            ("SQLITE_CANTOPEN", "cannot be opened: it is a folder, or its folder cannot be written"),
            ("SQLITE_FULL", "cannot grow: the disk is full"),
        ):
            if name.startswith(start):
                return trouble
        return f"failed: {' '.join(str(error).split())}"


def _prefer_wal(connection: Any, _: Any) -> None:
    # readers then need not wait for writers; if the file system cannot do it or a writer is at work, all stays as it is
    with suppress(sqlite3.OperationalError):
        connection.execute("PRAGMA journal_mode=WAL")


def _pack(outcomes: dict[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **{name: np.asarray(a, dtype=np.float32) for name, a in outcomes.items()})
    return buffer.getvalue()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
