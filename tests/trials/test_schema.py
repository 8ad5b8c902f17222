"""Every older schema leads to the newest, without loss, whoever asks for it at the same time."""

import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import text

from assay.errors import AssayError
from assay.trials import Store, schema
from assay.trials.database import Database
from assay.trials.tables import metadata
from assay.trials.worker import context

ROOT = Path(__file__).parents[2]

# the SQL of stores before Alembic, word by word
BEFORE = (
    "CREATE TABLE assay_meta (id INTEGER NOT NULL, schema INTEGER NOT NULL, PRIMARY KEY (id))",
    "CREATE TABLE runs (key VARCHAR(40) NOT NULL, task TEXT NOT NULL, seed INTEGER NOT NULL, "
    "status VARCHAR(16) NOT NULL, created VARCHAR(32) NOT NULL, record TEXT NOT NULL, outcomes {bytes} NOT NULL, "
    "PRIMARY KEY (key))",
    "CREATE TABLE trials (id {serial} NOT NULL, created VARCHAR(32) NOT NULL, question TEXT NOT NULL, "
    "result TEXT NOT NULL, PRIMARY KEY (id))",
    "INSERT INTO assay_meta (id, schema) VALUES (1, 1)",
)
RECORD = {
    "task": {"name": "tiny", "settings": {}}, "recipe": {"lr": 0.1}, "seed": 7, "vary": ["init"], "budget": "3steps",
    "metrics": {"test": {"accuracy": 0.5}}, "extras": {"ratio": float("nan")},
}  # fmt: skip
TRIAL = {
    "question": "why?", "task": {"name": "tiny"}, "metric": {"name": "accuracy", "goal": "max", "worst": 0.0},
    "budget": "3steps", "seeds": [7], "vary": ["init"], "smallest_effect": 0.0, "confidence": 0.95, "arms": [],
    "comparisons": [], "schema": 1,
}  # fmt: skip


def do(place: str, *statements, **values) -> list:
    """Run SQL; the rows of the last statement."""
    with Database(place, patience=1.0).writing() as connection:
        for statement in statements:
            done = connection.execute(text(statement), values)
        return done.all() if done.returns_rows else []


def make_old(place: str) -> None:
    types = {"bytes": "BYTEA", "serial": "SERIAL"} if "://" in place else {"bytes": "BLOB", "serial": "INTEGER"}
    do(place, *(statement.format(**types) for statement in BEFORE))
    outcomes = io.BytesIO()
    np.savez(outcomes, **{"test/accuracy": np.array([0, 1], np.float32)})
    row = {"record": json.dumps(RECORD), "outcomes": outcomes.getvalue(), "created": "2026-01-02T03:04:05+00:00"}
    do(place, "INSERT INTO runs VALUES ('k', 'tiny', 7, 'finished', :created, :record, :outcomes)", **row)
    do(
        place,
        "INSERT INTO trials (created, question, result) VALUES (:created, 'why?', :result)",
        created=row["created"],
        result=json.dumps(TRIAL),
    )


@pytest.mark.parametrize("old", [False, True])
def test_models_and_migrations_agree(place, old):
    if old:
        make_old(place)
    Store(place)
    with Database(place, patience=1.0).reading() as connection:
        options = {"version_table": schema.VERSION_TABLE, "compare_type": True, "compare_server_default": True}
        assert compare_metadata(MigrationContext.configure(connection, opts=options), metadata) == []


def test_the_newest_schema_is_that_of_the_last_migration():
    scripts = ScriptDirectory(str(Path(schema.__file__).with_name("migrations")))
    assert scripts.get_current_head() == schema.NEWEST


def test_a_store_from_before_alembic_is_brought_up_to_date_without_loss(place):
    make_old(place)
    store = Store(place)
    found = store.get("k")
    assert found.to_json().items() >= {k: v for k, v in RECORD.items() if k != "extras"}.items()
    assert np.isnan(found.extras["ratio"])
    np.testing.assert_array_equal(found.outcomes["test/accuracy"], np.array([0, 1], np.float32))
    assert [(number, trial.question) for number, trial in store.trials()] == [(1, "why?")]
    assert do(place, f"SELECT version_num FROM {schema.VERSION_TABLE}") == [(schema.NEWEST,)]
    assert do(place, "SELECT schema FROM assay_meta") == [(2,)], "which makes assays before Alembic refuse it"
    store.put("another", found)
    assert [key for key, _ in store.runs()] == ["k", "another"]


def test_a_store_whose_making_was_cut_short_is_made_whole(place):
    do(place, BEFORE[0])
    assert Store(place).runs() == []


@pytest.mark.parametrize(
    "newer",
    [
        ("UPDATE assay_version SET version_num = '99'",),
        ("DROP TABLE assay_version", "UPDATE assay_meta SET schema = 99"),
    ],
)
def test_a_store_of_a_newer_assay_is_refused_and_left_alone(place, newer):
    Store(place)
    do(place, *newer)
    before = do(place, "SELECT schema FROM assay_meta")
    with pytest.raises(AssayError, match="newer assay: it has schema 99, this one knows 2"):
        Store(place)
    assert do(place, "SELECT schema FROM assay_meta") == before


def test_tables_of_another_program_are_left_alone(place):
    do(place, "CREATE TABLE runs (id INTEGER)", "CREATE TABLE alembic_version (version_num VARCHAR(32))")
    with pytest.raises(AssayError, match=r"has tables of another program \(runs\); give assay a database"):
        Store(place)


def test_another_programs_alembic_does_not_matter(place):
    version = "CREATE TABLE alembic_version (version_num VARCHAR(32))"
    do(place, version, "INSERT INTO alembic_version VALUES ('v3.2.0.a')")
    Store(place)
    assert Store(place).runs() == []
    assert do(place, "SELECT version_num FROM alembic_version") == [("v3.2.0.a",)]


def open_when_all_are_there(place: str, barrier) -> None:
    def slowly(connection) -> None:
        time.sleep(0.3)  # so that all have seen that something is to be done
        upgrade(connection)

    upgrade, schema._upgrade = schema._upgrade, slowly
    barrier.wait(timeout=120)
    assert [key for key, _ in Store(place).runs()] == ["k"]


def test_processes_that_upgrade_at_once_do_not_harm_each_other(place):
    make_old(place)
    barrier = context().Barrier(4)
    openers = [context().Process(target=open_when_all_are_there, args=(place, barrier)) for _ in range(4)]
    for opener in openers:
        opener.start()
    for opener in openers:
        opener.join(120)
    assert [opener.exitcode for opener in openers] == [0] * 4
    assert do(place, "SELECT count(*) FROM assay_version") == [(1,)]


def test_a_failed_upgrade_changes_nothing(place, monkeypatch):
    make_old(place)

    def fail(connection):
        upgrade(connection)
        connection.execute(text("SELECT * FROM nowhere"))

    upgrade = schema._upgrade
    monkeypatch.setattr(schema, "_upgrade", fail)
    with pytest.raises(AssayError, match="its tables are to be"):
        Store(place)
    monkeypatch.undo()
    assert do(place, "SELECT schema FROM assay_meta") == [(1,)]
    assert [key for key, _ in Store(place).runs()] == ["k"]


def test_a_store_that_is_up_to_date_is_opened_without_alembic(place):
    Store(place)
    code = "import sys; from assay.trials import Store; Store(sys.argv[1]); print('alembic' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code, place],
        capture_output=True, text=True, timeout=120, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.stdout == "False\n", done.stderr
