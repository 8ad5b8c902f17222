"""However a trial's program ends, no process stays behind, and the same call finishes with the same result."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from slow_trial import STEPS, slow_trial

from assay.trials import TrialResult


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> TrialResult:
    return slow_trial(None, tmp_path_factory.mktemp("undisturbed") / "log")


def gone(group: int, within: float) -> bool:
    """Whether no process of the group is left."""
    end = time.monotonic() + within
    while time.monotonic() < end:
        with suppress(ProcessLookupError):
            os.killpg(group, 0)
            time.sleep(0.05)
            continue
        return True
    return False


@pytest.mark.slow
@pytest.mark.parametrize("how", ["ctrl-c", "killed"])
def test_a_trial_that_was_ended_leaves_no_process_and_goes_on(tmp_path, undisturbed, how):
    store, log = tmp_path / "s.sqlite", tmp_path / "log"
    program = [sys.executable, str(Path(__file__).with_name("slow_trial.py")), str(store), str(log)]
    trial = subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    assert trial.stdout is not None
    for line in trial.stdout:
        if line.startswith("running") and float(line.split()[-1]) > 0:
            break
    if how == "ctrl-c":
        os.killpg(trial.pid, signal.SIGINT)  # as a terminal does
        out, err = trial.communicate(timeout=60)
        assert trial.returncode == 2, err
        assert f"runs done; the same call goes on from {store}" in out
        assert err == ""
    else:
        trial.kill()
        trial.communicate(timeout=60)
    assert gone(trial.pid, within=10)
    before = len(log.read_text().split())
    assert 0 < before < 8 * STEPS
    assert list((tmp_path / "s-checkpoints").glob("*/*"))
    result = slow_trial(store, log)
    again = len(log.read_text().split()) - sum(run.steps for arm in result.arms for run in arm.runs)
    if how == "ctrl-c":
        assert again == 0, "a step was done twice or left out"
    else:
        assert again in (0, STEPS, 2 * STEPS), "runs may have ended with nobody left to be told; none is redone in part"
    assert result.comparisons == undisturbed.comparisons
    for mine, theirs in zip(result.arms, undisturbed.arms, strict=True):
        assert [run.metrics for run in mine.runs] == [run.metrics for run in theirs.runs]
        assert [run.flops for run in mine.runs] == [run.flops for run in theirs.runs]
    assert not (tmp_path / "s-checkpoints").exists()
