import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import Tiny

from assay.errors import AssayError
from assay.trials import Job, job
from assay.trials.folders import alone_in
from assay.trials.job import perform

ROOT = Path(__file__).parents[2]
STAY = """
import sys, time
from pathlib import Path
from assay.trials.folders import alone_in
with alone_in(Path(sys.argv[1]), patience=0.0) as alone:
    print(alone, flush=True)
    time.sleep(600)
"""


def test_a_folder_has_room_for_one_process_and_is_free_as_soon_as_that_is_killed(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", STAY, str(tmp_path / "run")]
    inside = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert inside.stdout is not None
        assert inside.stdout.readline() == "True\n"
        with alone_in(tmp_path / "run", patience=0.1) as alone:
            assert not alone
        inside.kill()
        inside.wait()
        with alone_in(tmp_path / "run", patience=0.0) as alone:
            assert alone
    finally:
        inside.kill()
        inside.communicate()


def test_a_run_whose_folder_another_process_is_in_is_done_without_it(tmp_path, monkeypatch):
    monkeypatch.setattr(job, "PATIENCE", 0.1)
    asked = Job(Tiny(), Tiny.recipe, 0, "3steps", folder=tmp_path)
    with alone_in(tmp_path / asked.key, patience=0.0):
        found = perform(asked)
        assert [path.name for path in (tmp_path / asked.key).iterdir()] == ["lock"]
    assert found.metrics == perform(asked).metrics
    assert len(list((tmp_path / asked.key).glob("*.pt"))) == 1


def test_a_file_system_without_locks_keeps_nobody_out(tmp_path, monkeypatch):
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with alone_in(tmp_path / "run", patience=0.1) as alone:
        assert alone


def test_a_folder_that_cannot_be_made_is_named():
    with (
        pytest.raises(AssayError, match="cannot write a checkpoint into /proc/none: "),
        alone_in(Path("/proc/none"), patience=0.0),
    ):
        pass
