import errno
import os
import sqlite3
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from typer.testing import CliRunner

from assay.cli.app import app
from assay.errors import UnknownName
from assay.trials import Store

ROOT = Path(__file__).parents[2]
TINY = f"{ROOT}/tests/trials/tiny.py:Tiny"
GOOD = ["compare", TINY, "--with", "label-smoothing", "--seeds", "1", "--budget", "2steps", "--executor", "serial"]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(*args: str, kept: frozenset[str] = frozenset()) -> str:
    """What is said to `args`, which must be one paragraph on stderr alone, with exit code 2 and nothing written."""
    done = CliRunner().invoke(app, args, catch_exceptions=False)
    assert done.exit_code == 2, done.output
    assert done.stdout == ""
    assert done.stderr.startswith("assay: ")
    assert done.stderr.count("\n") == 1
    assert {path.name for path in Path().iterdir()} == kept
    return done.stderr


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([*GOOD, "--log", "tensorbord"], "unknown log 'tensorbord'; did you mean 'tensorboard'?"),
        (["compare", "digit", "--with", "cosine"], "unknown task 'digit'; did you mean 'digits'?"),
        (["compare", "digits:size=3", "--with", "cosine"], "unknown option"),
        (["compare", "no_such.py:task", "--with", "cosine"], "no file no_such.py"),
        ([*GOOD, "--with", "label-smothing"], "unknown method 'label-smothing'; did you mean 'label-smoothing'?"),
        ([*GOOD, "--with", "cosine:rate=3"], "unknown option of method 'cosine': 'rate'"),
        ([*GOOD, "--with", "label-smoothing:smoothing=2"], "smoothing must lie in [0, 1), got 2"),
        ([*GOOD, "--with", "label-smoothing:smoothing"], "cannot read 'smoothing'"),
        ([*GOOD, "--with", "label-smoothing"], "arms must have different names"),
        ([*GOOD, "--with", "cosine", "--set", "schedule=cosine"], "its schedule is cosine already"),
        ([*GOOD, "--budget", "10 parsecs"], "cannot read budget '10 parsecs'"),
        ([*GOOD, "--budget", "0epochs"], "budget must be positive and finite, got 0 epochs"),
        ([*GOOD, "--budget", "1.5steps"], "budget must be a whole number of steps, got 1.5"),
        ([*GOOD, "--seeds", "0"], "seeds must be"),
        ([*GOOD, "--metric", "acuracy"], "did you mean 'accuracy'?"),
        ([*GOOD, "--smallest-effect", "-0.1"], "smallest_effect must be at least 0"),
        ([*GOOD, "--smallest-effect", "nan"], "smallest_effect must be at least 0"),
        ([*GOOD, "--confidence", "95"], "confidence must lie between 0 and 1"),
        ([*GOOD, "--set", "lr"], "cannot read 'lr'; write name=value"),
        ([*GOOD, "--set", "lr=fast"], "lr must be a number, got 'fast'"),
        ([*GOOD, "--set", "rl=1"], "unknown setting 'rl'; did you mean 'lr'?"),
        ([*GOOD, "--set", "lr=-1"], "lr must be positive and finite, got -1"),
        ([*GOOD, "--tune", "lr="], "cannot read --tune 'lr='"),
        ([*GOOD, "--tune", "lr", "--tune", "lr=1/2"], "--tune gives 'lr' twice"),
        ([*GOOD, "--vary", "init,weather"], "cannot vary weather"),
        ([*GOOD, "--out", "report.pdf"], "--out must end in .html, got report.pdf"),
        ([*GOOD, "--out", "/proc/no/report.html"], "cannot write --out /proc/no/report.html"),
        ([*GOOD, "--executor", "poll"], "unknown executor 'poll'; did you mean 'pool'?"),
        ([*GOOD, "--workers", "0", "--executor", "pool"], "workers must be at least 1, got 0"),
        ([*GOOD, "--threads", "0"], "threads must be at least 1, got 0"),
        (["data", "fetch", "cifar"], "unknown data set 'cifar'; did you mean 'cifar10'?"),
        (["trials"], "no store at .assay/store.db"),
        (["catalog", "--out", "/proc/no/site"], "cannot write the catalog to /proc/no/site: No such file"),
        (["serve", "--store", "none.db"], "no store at none.db"),
    ],
)
def test_a_mistake_is_told_in_one_paragraph_before_anything_is_written(args, message):
    assert message in refused(*args)


def test_tuning_a_setting_that_no_arm_has_is_refused_before_any_run():
    done = CliRunner().invoke(app, [*GOOD, "--tune", "rl"], catch_exceptions=False)
    assert done.exit_code == 2
    assert "unknown setting to tune 'rl'; did you mean 'lr'?" in done.stderr
    assert Store(".assay/store.db").runs() == []


def test_a_method_that_cannot_treat_the_task_says_why():
    Path("regression.py").write_text(
        "from assay.engine import Metric, Task\n"
        "class Line(Task):\n"
        "    name = 'line'\n"
        "    metrics = (Metric('error', 'min', 1.0),)\n"
    )
    said = refused("compare", "regression.py:Line", "--with", "label-smoothing", kept={"regression.py"})
    assert "method 'label-smoothing' cannot treat task 'line': it needs classification, the task has no traits" in said


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def task(:", "line 1: invalid syntax"),
        ("import nonexistent_module", "line 1: ModuleNotFoundError: No module named 'nonexistent_module'"),
        ("\nx = 1 / 0", "line 2: ZeroDivisionError: division by zero"),
        ("task = 3", "task must be a Task, a subclass or a function, got int"),
        ("tsak = 3", "did you mean 'tsak'?"),
    ],
)
def test_an_error_in_a_task_file_is_told_with_its_line(source, message):
    Path("mine.py").write_text(source)
    assert message in refused("compare", "mine.py:task", "--with", "cosine", kept={"mine.py"})


def test_missing_data_says_where_it_was_looked_for_and_how_to_get_it():
    Path("empty").mkdir()
    said = refused("compare", "cifar10", "--with", "label-smoothing", "--data-dir", "empty", kept={"empty"})
    assert "is not in empty" in said
    assert "assay data fetch cifar10" in said


def test_out_under_a_file_or_at_a_folder_is_refused():
    Path("file").touch()
    assert "Not a directory" in refused(*GOOD, "--out", "file/report.html", kept={"file"})
    Path("folder.html").mkdir()
    assert "--out folder.html is a folder" in refused(*GOOD, "--out", "folder.html", kept={"file", "folder.html"})


def test_a_damaged_store_is_left_as_it_is():
    Path("store.db").write_bytes(b"no database" * 1000)
    assert "store store.db is not a database" in refused(*GOOD, "--store", "store.db", kept={"store.db"})
    assert Path("store.db").read_bytes() == b"no database" * 1000


def test_a_locked_store_says_so(monkeypatch):
    monkeypatch.setattr("assay.trials.trial.Store", partial(Store, patience=0.1))
    Store("store.db")
    holder = sqlite3.connect("store.db", isolation_level=None)
    try:
        holder.execute("BEGIN EXCLUSIVE")
        done = CliRunner().invoke(app, [*GOOD, "--store", "store.db"], catch_exceptions=False)
    finally:
        holder.close()
    assert done.exit_code == 2
    assert "assay: store store.db is locked" in done.stderr
    assert not list(Path().rglob("*.html"))


def test_a_full_disk_at_the_report_leaves_no_part_of_it_and_keeps_the_runs(monkeypatch):
    flush = os.fsync

    def full(descriptor: int) -> None:
        if ".report.html." in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        flush(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        done = CliRunner().invoke(app, [*GOOD, "--out", "report.html"], catch_exceptions=False)
    assert done.exit_code == 2
    assert done.stderr.startswith("assay: cannot write report report.html: No space left on device")
    assert {path.name for path in Path().iterdir()} == {".assay"}
    assert len(Store(".assay/store.db").runs()) == 2


def test_a_full_disk_at_a_run_says_so(monkeypatch):
    def full(self, key, record):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "store-checkpoints")

    monkeypatch.setattr(Store, "put", full)
    done = CliRunner().invoke(app, GOOD, catch_exceptions=False)
    assert done.exit_code == 2
    assert done.stderr == (
        "assay: no space left on the disk (store-checkpoints); free some, then the same command goes on from here\n"
    )


def test_an_error_in_a_users_model_is_told_with_its_place():
    Path("mine.py").write_text(
        "from assay.engine import Metric, Task\n"
        "class Mine(Task):\n"
        "    name, metrics = 'mine', (Metric('error', 'min', 1.0),)\n"
        "    def model(self):\n"
        "        return undefined_name\n"
    )
    done = CliRunner().invoke(app, ["compare", "mine.py:Mine", "--with", "cosine", "--executor", "serial"])
    assert done.exit_code == 2
    assert "NameError: name 'undefined_name' is not defined" in done.stderr
    assert "mine.py:5" in done.stderr


@pytest.mark.parametrize("typed", ["compare digit --with cosine --debug", "check cutmx --debug"])
def test_debug_shows_the_traceback(typed):
    done = CliRunner().invoke(app, typed.split())
    assert isinstance(done.exception, UnknownName)


def test_an_option_that_is_not_there_is_named():
    done = CliRunner().invoke(app, [*GOOD, "--sedes", "3"])
    assert done.exit_code == 2
    assert "--sedes" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_real_process_exits_with_2_and_no_traceback(here):
    code = "from assay.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "compare", "digit", "--with", "cosine", "--executor", "serial"],
        capture_output=True, text=True, timeout=120, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "assay: unknown task 'digit'; did you mean 'digits'?\n"


def test_a_package_that_a_log_needs_is_named_with_its_extra(monkeypatch):
    from assay.trials import logs

    monkeypatch.setattr(logs, "find_spec", lambda name: None)
    said = "a log of kind 'wandb' needs lightning and wandb, not installed here: pip install 'assay[wandb]'"
    assert refused(*GOOD, "--log", "wandb") == f"assay: {said}\n"
