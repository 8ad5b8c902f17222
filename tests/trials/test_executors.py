"""Both executors give the same records, and neither loses work or hides what went wrong."""

import os
import signal

import numpy as np
import pytest
import torch
from tiny import Die, Explode, Fail, NoData, Pause, Scale, Tiny

from assay.engine import Record
from assay.errors import AssayError, Interrupted, MissingData
from assay.trials import Job, PoolExecutor, SerialExecutor


@pytest.fixture(scope="module")
def pool():
    with PoolExecutor(2) as executor:
        yield executor


def job(*methods, task: Tiny | None = None, seed: int = 0, **changes) -> Job:
    task = task or Tiny()
    return Job(task, task.recipe.with_methods(methods), seed, "30steps", **changes)


def records(executor, jobs, on_progress=lambda event: None) -> list[Record]:
    found = {}
    executor.run(jobs, on_record=lambda job, record: found.update({job.key: record}), on_progress=on_progress)
    return [found[job.key] for job in jobs]


def figures(record: Record) -> dict:
    """All of a record that does not tell of time and memory."""
    timed = {"seconds", "wall_seconds", "peak_memory", "curve", "outcomes"}
    curve = [{k: v for k, v in point.items() if k != "seconds"} for point in record.curve]
    outcomes = {name: values.tobytes() for name, values in record.outcomes.items()}
    return {k: v for k, v in vars(record).items() if k not in timed} | {"curve": curve, "outcomes": outcomes}


def test_pool_and_serial_give_the_same_bits(pool):
    task = Tiny()
    jobs = [job(*methods, task=task, seed=seed) for seed in (0, 1) for methods in ((), (Scale(2.0),), (Explode(),))]
    before = torch.get_num_threads()
    serial, pooled = records(SerialExecutor(), jobs), records(pool, jobs)
    assert torch.get_num_threads() == before
    assert [figures(record) for record in pooled] == [figures(record) for record in serial]
    assert [record.status for record in serial[:3]] == ["finished", "finished", "diverged"]
    assert figures(serial[0]) != figures(serial[3])


def test_the_key_does_not_depend_on_this_process_threads():
    before, keys = torch.get_num_threads(), set()
    for number in (1, 2):
        torch.set_num_threads(number)
        keys.add(job().key)
    torch.set_num_threads(before)
    assert len(keys) == 1
    assert job(threads=2).key not in keys


def test_workers_are_no_more_than_runs_and_stay_for_the_next_call(pool):
    with PoolExecutor(4) as executor:
        records(executor, [job()])
        (first,) = executor.workers
        records(executor, [job(seed=1)])
        assert executor.workers == [first]
    assert first.process.exitcode == 0
    alone = PoolExecutor(1)
    records(alone, [job()])
    assert alone.workers == []


def test_progress_of_every_run_ends_with_its_end(pool):
    events = []
    jobs = [job(Pause(0.02), label="slow"), job(Explode(), label="exploding")]
    records(pool, jobs, events.append)
    for one, end in zip(jobs, ("finished", "diverged"), strict=True):
        mine = [event for event in events if event.key == one.key]
        fractions = [event.fraction for event in mine]
        assert fractions == sorted(fractions)
        assert (fractions[0], fractions[-1]) == (0.0, 1.0)
        assert {event.state for event in mine[:-1]} == {"running"}
        assert (mine[-1].state, mine[-1].label) == (end, one.label)
    assert [event.done for event in events if event.state != "running"] == [1, 2]
    assert {event.total for event in events} == {2}


def test_a_killed_worker_costs_only_the_step_it_was_in(pool, tmp_path):
    log = tmp_path / "log"
    killed = job(Die(str(log)), folder=tmp_path, checkpoint_every=0.0)
    (record,) = records(pool, [killed])
    assert log.read_text().split() == [str(step) for step in [*range(21), *range(20, 30)]]
    (undisturbed,) = records(SerialExecutor(), [job(Die(str(log)), folder=tmp_path / "other")])
    assert figures(record) == figures(undisturbed)


def test_a_run_whose_worker_always_dies_is_given_up_and_others_are_kept(pool, tmp_path):
    done = []
    jobs = [job(Die(str(tmp_path / "log"), times=9), label="greedy, seed 0"), job(seed=5)]
    with pytest.raises(AssayError, match=r"worker doing greedy, seed 0 died 3 times .*SIGKILL.*memory"):
        pool.run(jobs, on_record=lambda job, record: done.append(job.seed), on_progress=lambda event: None)
    assert (tmp_path / "log").read_text().split().count("20") == 3
    assert done == [5]


@pytest.mark.parametrize("kind", ["pool", "serial"])
def test_a_mistake_in_a_users_code_is_told_with_its_place(pool, kind):
    executor = pool if kind == "pool" else SerialExecutor()
    with pytest.raises(AssayError) as error:
        records(executor, [job(Fail(), seed=3)])
    text = str(error.value)
    for part in ("task 'tiny' with 'fail', seed 3", "KeyError: 'no such column'", "tiny.py:", "in batch"):
        assert part in text
    assert "\n" not in text
    assert "no such column" in str(error.value.__cause__)


@pytest.mark.parametrize("kind", ["pool", "serial"])
def test_an_error_of_assays_own_passes_as_itself(pool, kind):
    executor = pool if kind == "pool" else SerialExecutor()
    with pytest.raises(MissingData, match=r"^tiny is not in ~/data; get it with \.\.\.$"):
        records(executor, [job(task=NoData())])


def test_what_cannot_be_sent_to_a_worker_is_said(pool):
    class Local(Tiny):
        pass

    with pytest.raises(AssayError, match=r"'tiny' .* cannot be sent to a worker process .* top level of a file"):
        records(pool, [job(task=Local())])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("kind", ["pool", "serial", "worker"])
def test_a_signal_leaves_a_checkpoint_from_which_the_run_goes_on(pool, kind, number, tmp_path):
    """The signal goes to the process that asks for the runs, or to one of its workers."""
    executor = SerialExecutor() if kind == "serial" else pool
    log = tmp_path / "log"
    die = Die(str(log), times=0 if kind == "pool" else 1, number=number)
    jobs = [job(die, Pause(0.02), seed=seed, folder=tmp_path) for seed in (0, 1)]

    sent = []

    def interrupt(event):
        if kind == "pool" and event.key == jobs[1].key and not sent:  # a second one would not wait for checkpoints
            sent.append(event)
            os.kill(os.getpid(), number)

    with pytest.raises(Interrupted):
        records(executor, jobs, interrupt)
    if kind != "serial":
        assert pool.workers == []
    assert len(log.read_text().split()) < 60
    after = records(executor, jobs)
    assert len(log.read_text().split()) == 60, "a step was done twice or left out"
    undisturbed = records(SerialExecutor(), [job(die, seed=seed) for seed in (0, 1)])
    for mine, theirs in zip(after, undisturbed, strict=True):
        assert np.array_equal(mine.outcomes["test/nll"], theirs.outcomes["test/nll"])
        assert mine.metrics == theirs.metrics


def test_less_than_one_worker_is_refused():
    with pytest.raises(AssayError, match="workers must be at least 1, got 0"):
        PoolExecutor(0)
