"""Where runs and trials are kept: one SQLite file, or a PostgreSQL database.

A run is stored under its content address and never changes, so writers need no agreement: whoever comes second with a
key finds it there. Leases spare them doing the same run (`assay.trials.leases`).
"""

import io
import json
import shutil
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import delete, insert, select
from sqlalchemy.exc import IntegrityError

from assay.engine import Record
from assay.errors import AssayError
from assay.trials.database import Database
from assay.trials.folders import alone_in
from assay.trials.leases import Leases
from assay.trials.result import TrialResult
from assay.trials.schema import bring_up_to_date
from assay.trials.tables import leases, runs, trials

PLACE = Path(".assay/store.db")  # beside which checkpoints lie where the store itself is in no folder


class Store:
    """Finished runs by their key, and finished trials by number.

    Args:
        location: an SQLite file (made where it is missing), or a URL such as `postgresql://user@host/database`.
        patience: seconds to wait for another process that is writing.

    Attributes:
        location: as it may be shown, without a password.
        checkpoints: the folder of the runs under way: beside the SQLite file, else in the working directory.

    Raises:
        AssayError: the place cannot be used: damaged, locked, full, out of reach, or written by a newer assay.
    """

    def __init__(self, location: str | Path, *, patience: float = 30.0) -> None:
        self._database = Database(str(location), patience=patience)
        self.location = self._database.location
        path = self._database.path or PLACE
        self.checkpoints = path.parent / f"{path.stem}-checkpoints"
        bring_up_to_date(self._database)

    def leases(self) -> Leases | None:
        """A hold on runs against all others who use this store; `None` where it is in this process's memory."""
        return None if self._database.private else Leases(self._database)

    def get(self, key: str) -> Record | None:
        """The run stored under `key`, with its outcomes."""
        with self._database.reading() as connection:
            row = connection.execute(select(runs.c.record, runs.c.outcomes).where(runs.c.key == key)).one_or_none()
        return None if row is None else Record.from_json(self._parse(row.record), self._unpack(row.outcomes))

    def known(self, keys: Iterable[str]) -> set[str]:
        """Those of `keys` under which a run is stored."""
        with self._database.reading() as connection:
            return set(connection.execute(select(runs.c.key).where(runs.c.key.in_(list(keys)))).scalars())

    def put(self, key: str, record: Record) -> bool:
        """Keep a run, drop its checkpoints and end the lease on it; a key that is there already stays as it is.

        Returns:
            whether it was kept.
        """
        row = {
            "key": key,
            "task": _plain(record.task["name"]),
            "seed": record.seed,
            "status": record.status,
            "created": _now(),
            "record": json.dumps(record.to_json()),
            "outcomes": _pack(record.outcomes),
        }
        kept = False
        with self._database.writing() as connection:
            with suppress(IntegrityError), connection.begin_nested():  # it is there already
                connection.execute(insert(runs).values(row))
                kept = True
            connection.execute(delete(leases).where(leases.c.key == key))
        self._drop(key)
        return kept

    def folder(self, key: str) -> Path:
        """Where the checkpoints of the run `key` belong until it is stored."""
        return self.checkpoints / key

    def runs(self) -> list[tuple[str, Record]]:
        """Every run with its key, oldest first, without outcomes."""
        with self._database.reading() as connection:
            rows = connection.execute(select(runs.c.key, runs.c.record).order_by(runs.c.created, runs.c.key)).all()
        return [(row.key, Record.from_json(self._parse(row.record))) for row in rows]

    def put_trial(self, result: TrialResult) -> int:
        """Keep a finished trial.

        Returns:
            its number, counted from 1.
        """
        row = insert(trials).values(
            created=result.created or _now(), question=_plain(result.question), result=json.dumps(result.to_json())
        )
        with self._database.writing() as connection:
            return int(connection.execute(row.returning(trials.c.id)).scalar_one())

    def trials(self) -> list[tuple[int, TrialResult]]:
        """Every trial with its number, oldest first."""
        with self._database.reading() as connection:
            rows = connection.execute(select(trials.c.id, trials.c.result).order_by(trials.c.id)).all()
        return [(row.id, TrialResult.from_json(self._parse(row.result))) for row in rows]

    def _drop(self, key: str) -> None:
        folder = self.folder(key)
        if folder.is_dir():
            with alone_in(folder, patience=0.0) as alone:
                if alone:  # else another process does this run too, and drops its checkpoints when it has done it
                    shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):  # the last run's folder leaves an empty one; other runs' checkpoints keep it
            self.checkpoints.rmdir()

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


def _pack(outcomes: dict[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **{name: np.asarray(a, dtype=np.float32) for name, a in outcomes.items()})
    return buffer.getvalue()


def _plain(text: str) -> str:
    """For people who look into the tables: what PostgreSQL's text cannot hold, escaped."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
