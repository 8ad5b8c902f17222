"""Which process is doing which run, so that those who share a store need not do one twice.

A lease saves work and guards nothing: a run that was done twice has one record all the same. Its holder says that it
lives by counting `beats` up. Another process takes a lease over when, by its own clock, it has seen no new beat for a
while, so that no two machines' clocks are ever compared; or at once, where it can see that the holder has ended.
"""

import hashlib
import os
import platform
import threading
import time
import uuid
from collections.abc import Collection
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from sqlalchemy import delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from assay.errors import AssayError
from assay.trials.database import Database
from assay.trials.tables import leases, runs

BEAT = 5.0  # seconds between two beats
SILENCE = 30.0  # seconds without one, after which a lease is taken over


class Leases:
    """This process's leases: kept inside a `with` block by a thread, and given back at its end.

    Args:
        database: of the store.
        beat: seconds between two beats.
        silence: seconds without a beat after which another's lease is taken over; several times `beat`.
    """

    def __init__(self, database: Database, *, beat: float = BEAT, silence: float = SILENCE) -> None:
        self._database, self._beat, self._silence = database, beat, silence
        self._owner = uuid.uuid4().hex
        self._seen: dict[str, tuple[tuple[str, int], float]] = {}  # by key: owner and beats, and since when
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._live, name="assay-leases", daemon=True)

    def __enter__(self) -> "Leases":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        with suppress(AssayError):  # they end by silence too, and what went wrong before is what must be told
            self._write(delete(leases).where(leases.c.owner == self._owner))

    def free(self, keys: Collection[str]) -> list[str]:
        """Those of the runs `keys` that nobody who lives is doing, as far as is known: `claim` makes sure."""
        with self._database.reading() as connection:
            held = connection.execute(select(leases).where(leases.c.key.in_(keys))).all()
        taken = {row.key for row in held if row.owner != self._owner and not self._abandoned(row)}
        return [key for key in keys if key not in taken]

    def claim(self, key: str) -> bool:
        """Whether this process is to do the run `key` now: nobody has done it, and nobody else who lives is doing it.

        Raises:
            AssayError: the store cannot be written.
        """
        mine = {"owner": self._owner, "place": _place(), "pid": os.getpid(), "beats": 0}
        with suppress(IntegrityError), self._database.writing() as connection:  # another process was first
            held = connection.execute(select(leases).where(leases.c.key == key)).one_or_none()
            if held is not None and held.owner == self._owner:
                return True
            if held is None:
                connection.execute(insert(leases).values(key=key, **mine))
            elif not self._abandoned(held):
                return False
            else:
                same = (leases.c.key == key) & (leases.c.owner == held.owner) & (leases.c.beats == held.beats)
                if not connection.execute(update(leases).where(same).values(mine)).rowcount:
                    return False
            # looked up after the lease is held: whoever did the run kept its record as its lease ended
            if connection.execute(select(runs.c.key).where(runs.c.key == key)).first() is None:
                return True
            connection.execute(delete(leases).where(leases.c.key == key))
        return False

    def _abandoned(self, held: Any) -> bool:
        if held.place == _place() != "" and not _lives(held.pid):
            return True
        sign, now = (held.owner, held.beats), time.monotonic()
        seen, since = self._seen.get(held.key, (None, now))
        if seen != sign:
            self._seen[held.key] = sign, now
            return False
        return now - since >= self._silence

    def _live(self) -> None:
        while not self._ended.wait(self._beat):
            with suppress(AssayError):  # the next beat may get through; a lasting trouble is told as a run is kept
                self._write(update(leases).where(leases.c.owner == self._owner).values(beats=leases.c.beats + 1))

    def _write(self, statement: Any) -> None:
        with self._database.writing() as connection:
            connection.execute(statement)


@cache
def _place() -> str:
    """What the processes have in common whose numbers can be looked up here: machine, its start, and PID namespace.
    Empty where that cannot be told."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        space = os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""
    return hashlib.sha256(f"{platform.node()} {boot} {space}".encode()).hexdigest()[:32]


def _lives(pid: int) -> bool:
    """Whether there is a process `pid` that has not ended; one that waits for its parent to notice has."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (ProcessLookupError, FileNotFoundError):
        return False
    except PermissionError:  # another user's
        return True
