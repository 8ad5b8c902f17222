"""A trial starts the processes of runs on several devices, and neither loses work nor hides what went wrong."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from ranked import Lose, Slow, Wrong, a_job, records
from tiny import Tiny

from assay.engine import Run
from assay.errors import AssayError, Interrupted
from assay.trials import Arm, PoolExecutor, SerialExecutor, compare, ranks
from assay.trials.trial import executor_for

HERE = Path(__file__).parent
ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}


@pytest.fixture(autouse=True)
def _in_time():
    """A rank that hangs ends its test, not the suite's patience."""

    def late(*_):
        raise TimeoutError("two minutes were not enough")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(120)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def undisturbed():
    """The run that nothing happens to, by strategy."""
    return {strategy: records(SerialExecutor(), [a_job(strategy=strategy)])[0] for strategy in ("ddp", "fsdp")}


def same_bits(found, expected):
    assert found.metrics == expected.metrics
    assert {k: v.tobytes() for k, v in found.outcomes.items()} == {k: v.tobytes() for k, v in expected.outcomes.items()}
    timeless = [[{k: v for k, v in point.items() if k != "seconds"} for point in r.curve] for r in (found, expected)]
    assert timeless[0] == timeless[1]


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_find_what_this_one_does(strategy, undisturbed):
    alone = Run(Tiny(), budget="30steps").train()
    record = undisturbed[strategy]
    assert record.metrics["test"]["accuracy"] == alone.metrics["test"]["accuracy"]
    assert record.metrics["test"]["nll"] == pytest.approx(alone.metrics["test"]["nll"], rel=1e-5)
    assert (record.steps, record.samples, record.flops) == (30, 480, alone.flops)
    assert record.environment["devices"] == [f"2 ({strategy})"]


@pytest.mark.parametrize(("strategy", "rank"), [("ddp", 0), ("ddp", 1), ("fsdp", 1)])
def test_when_a_rank_is_killed_the_run_goes_on_from_its_checkpoint(strategy, rank, tmp_path, undisturbed):
    job = a_job(Lose(str(tmp_path / "log"), rank), strategy=strategy, folder=tmp_path)
    (record,) = records(SerialExecutor(), [job])
    same_bits(record, undisturbed[strategy])
    steps = [int(step) for step in (tmp_path / "log").read_text().split()]
    assert steps == [*range(21), *range(20, 30)]


def test_a_pool_does_runs_on_several_devices_too(tmp_path, undisturbed):
    (record,) = records(PoolExecutor(1), [a_job(Lose(str(tmp_path / "log")), folder=tmp_path)])
    same_bits(record, undisturbed["ddp"])


def test_a_run_whose_rank_dies_again_and_again_is_given_up(tmp_path):
    with pytest.raises(AssayError, match=r"a process of the run died 3 times \(ended by SIGKILL\); if memory ran out"):
        records(SerialExecutor(), [a_job(Lose(str(tmp_path / "log"), times=9), folder=tmp_path, label="the run")])


def test_a_mistake_that_shows_on_one_rank_is_told_with_its_place():
    with pytest.raises(
        AssayError, match=r"'wrong', seed 0: KeyError: 'no such column' \(.*ranked\.py:\d+, in objective"
    ):
        records(SerialExecutor(), [a_job(Wrong())])


def test_an_error_of_one_rank_whose_loss_was_not_finite_is_a_divergence(monkeypatch):
    monkeypatch.setattr(ranks, "LATE", 0.3)
    (record,) = records(SerialExecutor(), [a_job(Wrong(spoilt=True), evaluations=0)])
    assert (record.status, record.diverged_at) == ("diverged", 4)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_asked_to_stop_all_ranks_leave_one_checkpoint_and_go_on_to_the_same_bits(number, tmp_path, undisturbed):
    job = a_job(Slow(str(tmp_path)), folder=tmp_path)

    sent = []

    def interrupt(event):
        if event.fraction > 0 and not sent:  # a second one would not wait for checkpoints
            sent.append(event)
            os.kill(os.getpid(), number)

    with pytest.raises(Interrupted, match="it continues from"):
        records(SerialExecutor(), [job], interrupt)
    same_bits(records(SerialExecutor(), [job])[0], undisturbed["ddp"])


def gone(pid, within=20.0):
    end = time.monotonic() + within
    while time.monotonic() < end:
        with suppress(ProcessLookupError):
            os.kill(pid, 0)
            time.sleep(0.05)
            continue
        return True
    return False


def test_ranks_do_not_outlive_the_program_that_started_them(tmp_path):
    program = subprocess.Popen([sys.executable, str(HERE / "ranked.py"), "run", str(tmp_path)], env=ENVIRONMENT)
    marks = [tmp_path / "rank0", tmp_path / "rank1"]
    end = time.monotonic() + 60
    while not all(mark.exists() and mark.read_text() for mark in marks):
        assert program.poll() is None
        assert time.monotonic() < end, "the ranks did nothing"
        time.sleep(0.01)
    program.kill()
    program.wait(10)
    assert all(gone(int(mark.read_text())) for mark in marks)


def test_torchrun_can_start_a_run_too(tmp_path, undisturbed):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    out = tmp_path / "metrics"
    subprocess.run([*torchrun, str(HERE / "ranked.py"), "torchrun", str(out)], check=True, timeout=120, env=ENVIRONMENT)
    assert out.read_text() == repr(undisturbed["ddp"].metrics)


def test_a_comparison_on_two_devices(tmp_path):
    task = Tiny()
    arms = [Arm("baseline", task.recipe), Arm("slower", task.recipe.with_settings({"lr": 0.01}))]
    asked = {"seeds": 2, "budget": "5steps", "store": tmp_path / "store.db", "executor": "serial"}
    shared = compare(task, arms, **asked, devices=2)
    assert {run.environment["devices"][0] for arm in shared.arms for run in arm.runs} == {"2 (ddp)"}
    assert compare(task, arms, **asked, devices=2, strategy="ddp").reused == 4
    alone = compare(task, arms, **asked)
    assert alone.reused == 0
    for mine, theirs in zip(shared.arms, alone.arms, strict=True):
        for one, other in zip(mine.runs, theirs.runs, strict=True):
            assert one.metrics["test"] == pytest.approx(other.metrics["test"], rel=1e-5)


def test_under_torchrun_a_comparison_is_refused(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    task = Tiny()
    with pytest.raises(AssayError, match="call it once, without torchrun"):
        compare(task, [Arm("a", task.recipe), Arm("b", task.recipe)], devices=2)


def test_what_cannot_be_shared_is_refused_before_anything_is_started():
    task = Tiny()
    arms = [Arm("a", task.recipe), Arm("b", task.recipe)]
    with pytest.raises(AssayError, match="strategy fsdp is about several devices"):
        compare(task, arms, strategy="fsdp")


def test_more_processes_than_cores_are_told_of(monkeypatch):
    monkeypatch.setattr("assay.trials.trial.cpu_count", lambda: 2)
    with pytest.warns(UserWarning, match="4 devices are processes here, more than the 2 cores"):
        assert isinstance(executor_for(None, None, "cpu", devices=4), SerialExecutor)


def test_a_pool_leaves_a_core_to_every_device(monkeypatch):
    monkeypatch.setattr("assay.trials.trial.cpu_count", lambda: 7)
    pool = executor_for(None, None, "cpu", devices=3)
    assert isinstance(pool, PoolExecutor)
    assert pool.limit == 2
