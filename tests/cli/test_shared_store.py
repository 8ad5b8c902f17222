"""`--store` with a PostgreSQL URL: its password is never shown, and troubles are told before training."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from assay.cli.app import app

ROOT = Path(__file__).parents[2]
TINY = f"{ROOT}/tests/trials/tiny.py:Tiny"
GOOD = ["compare", TINY, "--with", "label-smoothing", "--seeds", "1", "--budget", "2steps", "--executor", "serial"]
SECRET = "se%3Acr%40t%2F1"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_a_trial_on_postgresql_is_found_again_and_no_password_is_shown_or_kept(postgres):
    place = postgres.new_database()
    for said in ("Report: report.html", "2 runs were in postgresql://assay:***@/"):
        done = CliRunner().invoke(app, [*GOOD, "--store", place, "--out", "report.html"], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        assert said in done.output
        assert SECRET not in done.output
    assert "assay:***@/" in Path("report.json").read_text()
    for file in (path for path in Path().rglob("*") if path.is_file()):
        assert SECRET.encode() not in file.read_bytes(), file
    done = CliRunner().invoke(app, ["trials", "--store", place], catch_exceptions=False)
    assert done.exit_code == 0
    assert "label-smoothing" in done.output
    assert SECRET not in done.output


@pytest.mark.parametrize(
    ("place", "says"),
    [
        ("postgresql://me:secret@127.0.0.1:1/none", "cannot be reached"),
        ("postgresql://me:secret@host:port/none", "cannot read the URL of the store"),
        ("mysql://me:secret@host/none", "it must be an SQLite file or postgresql://"),
    ],
)
@pytest.mark.parametrize("command", [GOOD, ["trials"]])
def test_a_place_that_cannot_be_used_is_told_in_one_line(place, says, command):
    pytest.importorskip("psycopg")
    done = CliRunner().invoke(app, [*command, "--store", place], catch_exceptions=False)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith("assay: ")
    assert done.stderr.count("\n") == 1
    assert says in done.stderr
    assert "secret" not in done.stderr


def test_a_role_that_may_only_read_is_refused_before_anything_is_trained(postgres):
    place = postgres.new_database()
    assert CliRunner().invoke(app, ["trials", "--store", place]).exit_code == 0
    postgres.do("DROP ROLE IF EXISTS guest", "CREATE ROLE guest LOGIN PASSWORD 'secret' IN ROLE pg_read_all_data")
    guest = place.replace(f"assay:{SECRET}", "guest:secret")
    assert CliRunner().invoke(app, ["trials", "--store", guest]).exit_code == 0
    failing = [*GOOD[:2], "--with", "label-smoothing", "--executor", "serial", "--budget", "1e9steps"]
    done = CliRunner().invoke(app, [*failing, "--store", guest], catch_exceptions=False)
    assert done.exit_code == 2
    assert "does not let this role do what is needed: permission denied for table leases" in done.stderr
    assert "secret" not in done.output
