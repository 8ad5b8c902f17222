"""Nobody does a run that another is doing, nobody waits for one who has ended, and all speak of one record."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from shared_trial import shared_trial
from test_schema import do
from test_store import record

from assay.trials import Store, trial
from assay.trials.database import Database
from assay.trials.leases import Leases
from assay.trials.worker import context

ROOT = Path(__file__).parents[2]
NEVER = 1e6
HOLD = """
import sys, time
from assay.trials import Store
with Store(sys.argv[1]).leases() as leases:
    print(leases.claim("k"), flush=True)
    time.sleep(600)
"""


def leases(place: str, *, beat: float = NEVER, silence: float = NEVER) -> Leases:
    return Leases(Database(place, patience=30.0), beat=beat, silence=silence)


def program(*arguments: object, cwd: Path | None = None) -> "subprocess.Popen[str]":
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=cwd)


def test_one_run_has_one_holder_who_may_ask_again_and_gives_it_back(place):
    Store(place)
    with leases(place) as second:
        with leases(place) as first:
            assert first.claim("k")
            assert first.claim("k")
            assert not second.claim("k")
            assert second.free(["k", "another"]) == ["another"]
            assert second.claim("another")
        assert second.free(["k", "another"]) == ["k", "another"]
        assert second.claim("k")


def test_a_run_that_is_stored_is_nobodys_and_its_lease_is_over(place):
    store = Store(place)
    with leases(place) as first, leases(place) as second:
        assert first.claim("k")
        store.put("k", record())
        assert not first.claim("k")
        assert not second.claim("k")
        assert do(place, "SELECT key FROM leases") == []


def test_who_is_silent_loses_a_run_and_does_not_get_it_back(place):
    Store(place)
    with leases(place) as silent, leases(place, silence=0.3) as other:
        assert silent.claim("k")
        assert not other.claim("k"), "the silence is counted from the first look"
        time.sleep(0.4)
        assert other.claim("k")
        assert not silent.claim("k")


def test_who_gives_signs_of_life_keeps_a_run(place):
    Store(place)
    with leases(place, beat=0.05) as living, leases(place, silence=0.5) as other:
        assert living.claim("k")
        end = time.monotonic() + 1.5
        while time.monotonic() < end:
            assert not other.claim("k")
            time.sleep(0.02)


@pytest.mark.parametrize("noticed", [True, False])
def test_a_run_of_a_process_killed_on_this_machine_is_free_at_once(place, noticed):
    Store(place)
    holder = program("-c", HOLD, place)
    try:
        assert holder.stdout.readline() == "True\n"
        with leases(place) as mine:
            assert not mine.claim("k")
            holder.kill()
            if noticed:
                holder.wait()
            else:  # its parent has not asked for its exit code yet
                os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)
            assert mine.free(["k"]) == ["k"]
            assert mine.claim("k")
    finally:
        holder.kill()
        holder.communicate()


def test_a_number_of_a_process_means_nothing_on_another_machine(place):
    Store(place)
    ended = subprocess.Popen(["true"])
    ended.wait()
    with leases(place) as mine:
        assert mine.claim("here")
        do(place, "INSERT INTO leases SELECT 'there', 'another', 'elsewhere', :pid, 0 FROM leases", pid=ended.pid)
        do(place, "UPDATE leases SET owner = 'another', pid = :pid WHERE key = 'here'", pid=ended.pid)
        assert not mine.claim("there")
        assert mine.claim("here")


def claim_all(place: str, barrier, got) -> None:
    with Store(place).leases() as mine:
        barrier.wait(timeout=120)
        got.put([key for key in map(str, range(20)) if mine.claim(key)])
        barrier.wait(timeout=120)


def test_of_those_who_ask_at_once_one_gets_a_run(place):
    Store(place)
    barrier, got = context().Barrier(4), context().Queue()
    askers = [context().Process(target=claim_all, args=(place, barrier, got)) for _ in range(4)]
    for asker in askers:
        asker.start()
    claimed = [key for _ in askers for key in got.get(timeout=120)]
    for asker in askers:
        asker.join(120)
    assert [asker.exitcode for asker in askers] == [0] * 4
    assert sorted(claimed) == sorted(map(str, range(20)))


def same(result, other) -> None:
    assert result.comparisons == other.comparisons
    for mine, theirs in zip(result.arms, other.arms, strict=True):
        assert [run.metrics for run in mine.runs] == [run.metrics for run in theirs.runs]
        assert [run.flops for run in mine.runs] == [run.flops for run in theirs.runs]


def test_two_machines_share_the_runs_of_one_trial(place, tmp_path):
    """Each in a working directory of its own, so that on PostgreSQL they share no folder."""
    log, script = tmp_path / "log", Path(__file__).with_name("shared_trial.py")
    log.touch()
    expected = shared_trial(None, tmp_path / "log alone", pause=0.0)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    both = [program(script, place, log, 0.05, "serial", cwd=tmp_path / name) for name in ("a", "b")]
    done = [one.communicate(timeout=300)[0].split() for one in both]
    assert [one.returncode for one in both] == [0, 0]
    store = Store(place)
    runs = store.runs()
    assert len(runs) == len({key for key, _ in runs}) == 4
    assert len(log.read_text().split()) == sum(run.steps for _, run in runs), "no step was done twice"
    (_, first), (_, second) = store.trials()
    same(first, second)
    for mine, theirs in zip(first.arms, expected.arms, strict=True):
        assert [run.metrics for run in mine.runs] == [run.metrics for run in theirs.runs]
    assert first.reused + second.reused == 4, done
    assert do(place, "SELECT key FROM leases") == []
    assert not list(tmp_path.rglob("*-checkpoints"))


@pytest.mark.slow
def test_the_runs_of_a_trial_that_was_killed_are_gone_on_with_by_one_that_waited(place, tmp_path, monkeypatch):
    """The killed one's workers are still in the folder as the other comes: it lets them leave their checkpoints."""
    log, script = tmp_path / "log", Path(__file__).with_name("shared_trial.py")
    log.touch()
    expected = shared_trial(None, tmp_path / "log alone", pause=0.0, seeds=1)
    monkeypatch.setattr(trial, "LOOK", 0.01)
    monkeypatch.chdir(tmp_path)  # where PostgreSQL's checkpoints are
    killed = program(script, place, log, 0.5, "pool", 1, cwd=tmp_path)
    states = []

    def on_progress(event) -> None:
        states.append(event.state)
        if event.state == "elsewhere":
            killed.kill()
            killed.wait()

    try:
        end = time.monotonic() + 120
        while log.read_text().split().count("0") < 2:  # both runs are under way
            assert time.monotonic() < end
            assert killed.poll() is None
            time.sleep(0.05)
        result = shared_trial(place, log, pause=0.5, seeds=1, on_progress=on_progress)
    finally:
        killed.kill()
        killed.communicate()
    assert states[0] == "elsewhere"
    same(result, expected)
    assert len(log.read_text().split()) == sum(run.steps for arm in result.arms for run in arm.runs)
    assert len(Store(place).runs()) == 2
    assert not list(tmp_path.rglob("*-checkpoints"))
