"""What is wrong with a place is said in one line, without its password."""

import re
import subprocess
import sys
import time

import pytest
from test_store import record

from assay.errors import AssayError
from assay.trials import Store
from assay.trials.urls import without_password


def refused(place: str) -> str:
    with pytest.raises(AssayError) as error:
        Store(place)
    said = str(error.value)
    assert "\n" not in said
    assert "secret" not in said
    return said


@pytest.mark.parametrize(
    ("place", "says"),
    [
        ("postgresql://me:secret@127.0.0.1:1/none", r"127\.0\.0\.1:1/none cannot be reached: .*Connection refused"),
        ("postgres://me:secret@127.0.0.1:1/none", "Connection refused"),
        ("postgresql+psycopg://me:secret@127.0.0.1:1/none", "Connection refused"),
        ("postgresql://me@127.0.0.1:1/none?password=secret", "Connection refused"),
        ("postgresql://me:secret@host:port/none", r"cannot read the URL of the store, postgresql://\.\.\.; write"),
        ("postgresql://me:secret", "cannot read the URL of the store, postgresql://...; write"),
        ("postgresql:/me:secret@host/none", "cannot read the URL of the store; write"),
        ("postgresql://me:my@secret@host/none", "in a password, write @ as %40"),
        ("postgresql+psycopg2://me:secret@host/none", "must be an SQLite file or postgresql://"),
        ("mysql://me:secret@host/none", r"'mysql://me:\*\*\*@host/none': it must be an SQLite file or postgresql://"),
        ("postgresql://me:secret@127.0.0.1:1/none?nonsense=1", 'invalid connection option "nonsense"'),
    ],
)
def test_a_wrong_url_is_told_without_its_password(place, says):
    pytest.importorskip("psycopg")
    said = refused(place)
    assert re.search(says, said), said


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        ("postgresql://me:***@host/name", "postgresql://me:secret@host/name"),
        ("postgresql://me:***@host/name", "postgresql://me:se:cr@et@host/name"),
        (
            "postgresql://host/name?password=***&sslmode=require",
            "postgresql://host/name?password=secret&sslmode=require",
        ),
        ("--store 'postgresql://me:***@h/n?a=b' --seeds 3", "--store 'postgresql://me:s@h/n?a=b' --seeds 3"),
        ("postgresql://me@host/name", "postgresql://me@host/name"),
        ("folder/s.sqlite", "folder/s.sqlite"),
    ],
)
def test_only_passwords_are_hidden(shown, text):
    assert without_password(text) == shown


def test_a_missing_driver_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    assert "pip install 'assay[postgres]'" in refused("postgresql://me:secret@127.0.0.1:1/none")


def test_a_wrong_password_and_a_missing_database_are_told_in_the_servers_words(postgres):
    assert 'password authentication failed for user "assay"' in refused(postgres.url(password="secret"))
    assert 'database "none" does not exist' in refused(postgres.url("none"))


def test_a_role_that_may_only_read_can_read_and_is_told_so_as_it_writes(postgres):
    place = postgres.new_database()
    Store(place).put("k", record())
    postgres.do("DROP ROLE IF EXISTS reader", "CREATE ROLE reader LOGIN PASSWORD 'secret' IN ROLE pg_read_all_data")
    reader = Store(place.replace("assay:se%3Acr%40t%2F1", "reader:secret"))
    assert reader.get("k") is not None
    for write in (lambda: reader.put("another", record()), lambda: reader.leases().claim("another")):
        with pytest.raises(AssayError, match="does not let this role do what is needed: permission denied for table"):
            write()
    empty = postgres.new_database().replace("assay:se%3Acr%40t%2F1", "reader:secret")
    assert "permission denied for schema public (its tables are to be made)" in refused(empty)


def test_a_database_that_is_read_only_is_told_of(postgres):
    place = postgres.new_database()
    Store(place)
    with pytest.raises(AssayError, match="cannot be written: the server or the role is read-only"):
        Store(f"{place}&options=-cdefault_transaction_read_only%3Don").put("k", record())


def test_a_schema_of_its_own_keeps_assay_apart(postgres):
    place = postgres.new_database()
    Store(place).put("k", record())
    postgres.do("CREATE SCHEMA team", database=postgres.name(place))
    team = Store(f"{place}&options=-csearch_path%3Dteam")
    assert team.runs() == []
    team.put("t", record())
    assert [key for key, _ in Store(place).runs()] == ["k"]


def test_a_server_that_restarts_between_two_writes_is_found_again(postgres):
    place = postgres.new_database()
    store = Store(place)
    store.put("k", record())
    postgres.do(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{postgres.name(place)}'")
    assert store.put("another", record())


def test_a_hung_upgrade_is_not_waited_for_for_ever(postgres):
    place = postgres.new_database()
    code = (
        "import psycopg, sys, time; c = psycopg.connect(sys.argv[1], autocommit=True); "
        f"c.execute('SELECT pg_advisory_lock({0x6173736179})'); print('locked', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, postgres.url(postgres.name(place))], stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout.readline() == "locked\n"
        began = time.monotonic()
        with pytest.raises(AssayError, match=r"another process has been changing its tables for 0\.3 seconds"):
            Store(place, patience=0.3)
        assert time.monotonic() - began < 10
    finally:
        holder.kill()
        holder.wait()
    assert Store(place).runs() == []
