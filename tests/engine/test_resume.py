"""A run that was killed at any instant goes on to the same bits: weights, figures, curve, outcomes."""

import os
import pickle
import random
import signal
import time

import killable
import pytest


def until(condition, child, seconds=60.0):
    """Wait for `condition`; tell whether it came before the child's end."""
    end = time.monotonic() + seconds
    while not condition():
        if child.exitcode is not None:
            return False
        assert time.monotonic() < end, "the child did nothing"
        time.sleep(0.002)
    return True


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What a run gives that nothing interrupts, by kind."""
    found = {}

    def get(kind, folder=None):
        if kind not in found:
            out = tmp_path_factory.mktemp("whole") / "bits"
            child = killable.start(kind, folder, out)
            child.join(120)
            assert child.exitcode == 0
            found[kind] = pickle.loads(out.read_bytes())
        return found[kind]

    return get


def finish(kind, folder, out):
    child = killable.start(kind, folder, out)
    child.join(120)
    assert child.exitcode == 0
    return pickle.loads(out.read_bytes())


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("kind", "seed"), [("classifier", 0), ("gan", 1), ("growing", 2)])
def test_killed_at_random_moments_a_run_goes_on_to_the_same_bits(kind, seed, tmp_path, whole):
    chance, folder, out = random.Random(seed), tmp_path / "checkpoints", tmp_path / "bits"
    kills, steps = 0, []
    while kills < 6:
        before = killable.newest(folder)
        child = killable.start(kind, folder, out)
        going = until(lambda before=before: killable.newest(folder) > before, child)
        assert going, f"the run ended after {kills} kills, at {steps}"
        time.sleep(chance.uniform(0, 0.04))
        os.kill(child.pid, signal.SIGKILL)
        child.join(10)
        assert child.exitcode == -signal.SIGKILL, f"the run ended after {kills} kills, at {steps}"
        kills += 1
        steps.append(killable.newest(folder))
    assert steps == sorted(steps)
    assert finish(kind, folder, out) == whole(kind)
    assert not list(folder.glob("*.part"))


@pytest.mark.parametrize("moment", ["half written", "before the rename", "after the rename"])
def test_killed_while_it_writes_a_checkpoint_a_run_goes_on_to_the_same_bits(moment, tmp_path, whole):
    folder, out = tmp_path / "checkpoints", tmp_path / "bits"
    for nth in (1, 3):
        child = killable.start("classifier", folder, out, die=(moment, nth))
        child.join(60)
        assert child.exitcode == -signal.SIGKILL
        assert bool(list(folder.glob("*.part"))) == (moment != "after the rename")
    assert finish("classifier", folder, out) == whole("classifier")
    assert not list(folder.glob("*.part"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_asked_to_stop_a_run_ends_its_step_and_goes_on_to_the_same_bits(number, tmp_path, whole):
    folder, out = tmp_path / "checkpoints", tmp_path / "bits"
    child = killable.start("classifier", folder, out)
    assert until(lambda: killable.newest(folder) > 0, child)
    os.kill(child.pid, number)
    child.join(60)
    assert child.exitcode == 2
    assert out.read_text() == f"run stopped after {killable.newest(folder)} steps; it continues from {folder}"
    assert finish("classifier", folder, out) == whole("classifier")


def test_asked_to_stop_while_it_is_judged_a_run_ends_that_first(tmp_path, whole):
    """On the way (the point is in the checkpoint) and at the very end (training is over, and is not done again)."""
    folder, out, mark = tmp_path / "checkpoints", tmp_path / "bits", tmp_path / "judging"
    for steps in (20, 40):
        mark.unlink(missing_ok=True)
        child = killable.start("judging", folder, out)
        assert until(mark.exists, child)
        os.kill(child.pid, signal.SIGINT)
        child.join(60)
        assert child.exitcode == 2
        assert killable.newest(folder) == steps
        assert out.read_text().startswith(f"run stopped after {steps} steps")
    expected = finish("judging", folder, out)
    assert [point["steps"] for point in expected["record"]["curve"]] == [20, 40]
    assert finish("judging", tmp_path / "other" / "checkpoints", out) == expected


def test_a_second_signal_acts_as_ever(tmp_path):
    folder, out, mark = tmp_path / "checkpoints", tmp_path / "bits", tmp_path / "judging"
    child = killable.start("judging", folder, out)
    assert until(mark.exists, child)
    os.kill(child.pid, signal.SIGTERM)
    time.sleep(0.05)
    os.kill(child.pid, signal.SIGTERM)
    child.join(60)
    assert child.exitcode == -signal.SIGTERM
    assert not out.exists()


def test_signal_handlers_are_left_as_found():
    from workloads import Ones

    from assay.engine import Run

    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    Run(Ones(), budget="2steps").train()
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_a_run_outside_the_main_thread_trains_too():
    import threading

    from workloads import Ones

    from assay.engine import Run

    found = []
    thread = threading.Thread(target=lambda: found.append(Run(Ones(), budget="2steps").train().steps))
    thread.start()
    thread.join(60)
    assert found == [2]
