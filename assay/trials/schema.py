"""Bring the tables of a store to the newest schema; Alembic is imported only where there is something to do."""

import threading
from pathlib import Path

from sqlalchemy import Connection, Integer, String, column, func, inspect, select, table

from assay.errors import AssayError
from assay.trials.database import Database

NEWEST = "2"  # the last of migrations/versions
VERSION_TABLE = "assay_version"  # not Alembic's own name: another program's tables may be in the same database
_LOCK = 0x6173736179  # "assay": the number of PostgreSQL's advisory lock
_one_at_a_time = threading.Lock()  # Alembic keeps its context in globals


def bring_up_to_date(database: Database) -> None:
    """Make what tables are missing, and change what tables are old; several processes may do so at once.

    Raises:
        AssayError: the store is of a newer assay, its tables are another program's, or it may not be changed.
    """
    with database.reading() as connection:
        old = _version(connection, database.location)
    if old == NEWEST:
        return
    try:
        with _one_at_a_time, database.writing() as connection:
            if database.dialect == "postgresql":
                milliseconds = f"{1000 * database.patience:.0f}"
                connection.execute(select(func.set_config("lock_timeout", milliseconds, True)))
                connection.execute(select(func.pg_advisory_xact_lock(_LOCK)))
            if _version(connection, database.location) != NEWEST:
                _upgrade(connection)
    except AssayError as error:
        raise AssayError(f"{error} (its tables are to be {'brought up to date' if old else 'made'})") from error


def _version(connection: Connection, location: str) -> str | None:
    """The schema that is there; `None` before Alembic, and where there is none yet."""
    there = inspect(connection)
    found = None
    if there.has_table(VERSION_TABLE):
        found = connection.execute(select(column("version_num", String)).select_from(table(VERSION_TABLE))).scalar()
    elif tables := {"assay_meta", "runs", "trials", "leases"} & set(there.get_table_names()):
        if "assay_meta" not in tables:
            raise AssayError(
                f"store {location} has tables of another program ({', '.join(sorted(tables))}); give assay a database, "
                "or a PostgreSQL schema, of its own"
            )
        before = connection.execute(select(column("schema", Integer)).select_from(table("assay_meta"))).scalar() or 1
        found = str(before) if before > 1 else None
    if found is not None and (not found.isdecimal() or int(found) > int(NEWEST)):
        raise AssayError(
            f"store {location} was written by a newer assay: it has schema {found}, this one knows {NEWEST}"
        )
    return found


def _upgrade(connection: Connection) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
