"""Logs hold what the runs' records hold, each point once, however often a run is ended and goes on."""

import dataclasses
import random
import socket
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from logged import logs
from tiny import Die, Explode, Pause, Tiny

from assay.engine import Method
from assay.errors import AssayError, UnknownName
from assay.trials import Arm, Job, PoolExecutor, compare
from assay.trials import logs as logging_runs
from assay.trials.job import perform
from assay.trials.logs import KINDS, Log

STEPS = 30


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """Whoever reaches for another machine fails."""
    connect = socket.socket.connect

    def local_alone(self, address):
        if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "localhost", "::1"):
            raise AssertionError(f"a connection to {address}")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", local_alone)


@pytest.fixture
def each_step(monkeypatch):
    monkeypatch.setattr(logging_runs, "EVERY", 0.0)


def job(kind, log_dir, *methods, **changes) -> Job:
    log = kind and Log.make(kind, log_dir, "tiny")
    recipe = replace(Tiny.recipe, schedule="linear").with_methods(methods)
    return Job(Tiny(), recipe, 3, f"{STEPS}steps", arm="an arm", log=log, **changes)


def only(kind, folder):
    (found,) = logs(kind, folder).items()
    return found


def valid(record, name="valid/nll"):
    return [(int(point["steps"]), pytest.approx(point[name], rel=1e-6)) for point in record.curve]


@pytest.mark.parametrize("kind", KINDS)
def test_a_log_has_the_learning_curve_the_rates_the_end_and_the_settings(kind, tmp_path, each_step):
    given = job(kind, tmp_path, checkpoint_every=0.0, folder=tmp_path / "checkpoints")  # it looks at each step
    record = perform(given)
    name, (figures, settings) = only(kind, tmp_path)
    assert name == f"an{' ' if kind in ('wandb', 'mlflow') else '-'}arm seed-3-{given.key[:8]}"
    assert figures["valid/nll"] == valid(record)
    assert figures["test/nll"] == [(STEPS, pytest.approx(record.metrics["test"]["nll"], rel=1e-6))]
    assert figures["flops"] == valid(record, "flops")
    assert figures["final/parameters"] == [(STEPS, 10)]
    rates = dict(figures["train/lr"])
    assert rates[STEPS // 2] == pytest.approx(0.05)
    assert rates[STEPS] == pytest.approx(0.0, abs=1e-9)
    losses = dict(figures["train/loss"])
    assert sorted(losses) == list(range(1, STEPS + 1))
    thirds = [np.mean([losses[step] for step in (at - 2, at - 1, at)]) for at in range(3, STEPS + 1, 3)]
    assert thirds == pytest.approx([point["train_loss"] for point in record.curve], rel=1e-5)
    assert all(value > 0 for _, value in figures["train/samples_per_second"])
    wanted = {"task": "tiny", "arm": "an arm", "seed": 3, "lr": 0.1, "schedule": "linear", "methods": "none"}
    assert {name: str(value) for name, value in settings.items() if name in wanted} == {
        name: str(float(value) if kind == "tensorboard" and name == "seed" else value) for name, value in wanted.items()
    }


class Crash(Method):
    """Its program ends in step 20, once."""

    name = "crash"

    def batch(self, run, batch):
        if run.steps == 20 and run.folder and (mark := run.folder / "not yet").exists():
            mark.unlink()
            raise KeyboardInterrupt
        return batch


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_goes_on_logs_no_point_twice_and_none_is_lost(kind, tmp_path, each_step):
    """The log has come to step 20; the checkpoint gone on from is that of step 19."""
    crashing = job(kind, tmp_path / "a", Crash(), folder=tmp_path, checkpoint_every=0.0, evaluations=STEPS)
    (tmp_path / crashing.key).mkdir()
    (tmp_path / crashing.key / "not yet").touch()
    with pytest.raises(KeyboardInterrupt):
        perform(crashing)
    _, (before, _) = only(kind, tmp_path / "a")
    assert before["valid/nll"][-1][0] == 20
    newest = max((tmp_path / crashing.key).glob("*.pt"))
    assert "-000000000020-" in newest.name
    newest.unlink()
    perform(crashing)
    perform(replace(crashing, folder=None, log=replace(crashing.log, folder=tmp_path / "b")))
    _, (found, settings) = only(kind, tmp_path / "a")
    _, (undisturbed, wanted) = only(kind, tmp_path / "b")
    for name in ("valid/nll", "valid/accuracy", "samples", "test/nll", "train/loss", "train/lr"):
        assert [step for step, _ in found[name]] == [step for step, _ in undisturbed[name]], name
        assert [value for _, value in found[name]] == pytest.approx([value for _, value in undisturbed[name]]), name
    assert settings == wanted


class Fragile(Tiny):
    """Its test split cannot be read at first."""

    def evaluate(self, run, examples, batch_size):
        if examples is run.splits.test and (mark := run.folder / "not yet").exists():
            mark.unlink()
            raise KeyboardInterrupt
        return super().evaluate(run, examples, batch_size)


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_ended_after_its_last_checkpoint_has_one_end(kind, tmp_path, each_step):
    crashing = replace(job(kind, tmp_path / "a", folder=tmp_path), task=Fragile())
    (tmp_path / crashing.key).mkdir()
    (tmp_path / crashing.key / "not yet").touch()
    with pytest.raises(KeyboardInterrupt):
        perform(crashing)
    record = perform(crashing)
    _, (figures, _) = only(kind, tmp_path / "a")
    assert figures["valid/nll"] == valid(record)
    for points in figures.values():
        assert len(dict(points)) == len(points)
    assert figures["train/loss"][-1] == (STEPS, pytest.approx(record.curve[-1]["train_loss"]))


def test_a_row_that_was_cut_off_is_left_out(tmp_path, each_step):
    given = job("csv", tmp_path)
    perform(given)
    (path,) = tmp_path.rglob("metrics.csv")
    text = path.read_text()
    path.write_text(text[: text.rindex(",")])
    perform(replace(given, folder=None))
    _, (figures, _) = only("csv", tmp_path)
    assert [step for step, _ in figures["valid/nll"]] == list(range(3, STEPS + 1, 3))


class Meddler:
    """A logger that draws from all generators."""

    fresh = True

    def __init__(self, folder, name, after):
        random.seed(0), np.random.seed(0), torch.manual_seed(0)

    @staticmethod
    def has(folder, name):
        return False

    def log(self, figures, step):
        random.random(), np.random.rand(), torch.rand(())

    def end(self, figures, step):
        torch.rand(())

    def close(self, how):
        torch.rand(())


def bits(record):
    timed = {"seconds", "wall_seconds", "peak_memory"}
    curve = [{name: value for name, value in point.items() if name != "seconds"} for point in record.curve]
    outcomes = {name: values.tobytes() for name, values in record.outcomes.items()}
    told = {name: value for name, value in vars(record).items() if name not in timed}
    return told | {"curve": curve, "outcomes": outcomes}


@dataclasses.dataclass
class Noisy(Method):
    """Draws from global generators in each step."""

    name = "noisy"

    def batch(self, run, batch):
        noise = torch.randn(batch.x.shape) + np.random.rand()  # not of `random`, from which beartype draws its samples
        return batch._replace(x=batch.x + noise)


def test_a_log_changes_neither_key_nor_bits(tmp_path, each_step, monkeypatch):
    from assay.trials import loggers

    plain, logged = job(None, tmp_path, Noisy()), job("csv", tmp_path, Noisy())
    monkeypatch.setitem(loggers.SINKS, "csv", Meddler)
    assert plain.key == logged.key
    torch.manual_seed(1), np.random.seed(1)
    state = torch.get_rng_state(), np.random.get_state()[1].copy()
    assert bits(perform(plain)) == bits(perform(logged))
    assert torch.equal(torch.get_rng_state(), state[0])
    assert np.array_equal(np.random.get_state()[1], state[1])


def test_a_diverged_run_says_where(tmp_path):
    record = perform(job("csv", tmp_path, Explode()))
    _, (figures, settings) = only("csv", tmp_path)
    assert figures["final/diverged_at"] == [(record.steps, record.diverged_at)] == [(record.steps, 3)]
    assert "test/nll" not in figures
    assert settings["methods"] == "explode"


ARMS = [Arm("baseline", Tiny.recipe), Arm("half: 0.5", replace(Tiny.recipe, lr=0.05))]


@pytest.fixture(scope="module")
def pool():
    with PoolExecutor(2) as executor:
        yield executor


@pytest.mark.parametrize("kind", KINDS)
def test_workers_log_each_run_of_a_trial(kind, pool, tmp_path):
    result = compare(Tiny(), ARMS, seeds=2, executor=pool, log=kind, log_dir=tmp_path)
    found = logs(kind, tmp_path)
    assert len(found) == 4
    for arm in result.arms:
        for seed, record in zip(result.seeds, arm.runs, strict=True):
            plain = arm.name if kind in ("wandb", "mlflow") else arm.name.replace(": ", "-")
            ((figures, _),) = (log for name, log in found.items() if name.startswith(f"{plain} seed-{seed}-"))
            assert figures["valid/nll"] == valid(record)
            assert figures["test/nll"] == [(30, pytest.approx(record.metrics["test"]["nll"], rel=1e-6))]


def test_a_run_whose_worker_was_killed_has_one_log(pool, tmp_path):
    die = Die(str(tmp_path / "died"), at=20)
    killed = job("tensorboard", tmp_path / "logs", die, Pause(0.01), folder=tmp_path, checkpoint_every=0.0)
    done = []
    pool.run([killed], on_record=lambda job, record: done.append(record), on_progress=lambda event: None)
    assert len(list((tmp_path / "logs").rglob("events.*"))) == 2
    _, (figures, _) = only("tensorboard", tmp_path / "logs")
    assert figures["valid/nll"] == valid(done[0])


@pytest.mark.parametrize("kind", KINDS)
def test_runs_that_the_store_has_are_logged_once(kind, tmp_path):
    def trial(**log):
        return compare(Tiny(), ARMS, seeds=1, store=tmp_path / "s.db", executor="serial", **log)

    trial()
    for _ in range(2):
        result = trial(log=kind, log_dir=tmp_path / "logs")
        assert result.reused == 2
        found = logs(kind, tmp_path / "logs")
        assert len(found) == 2
        for arm in result.arms:
            (figures,) = (log for log, settings in found.values() if settings["arm"] == arm.name)
            assert figures["valid/nll"] == valid(arm.runs[0])
            assert figures["test/nll"] == [(30, pytest.approx(arm.runs[0].metrics["test"]["nll"], rel=1e-6))]


def test_tuning_runs_are_logged_as_such(tmp_path):
    compare(
        Tiny(), ARMS, seeds=1, executor="serial", log="csv", log_dir=tmp_path, tune={"lr": ["0.2", "0.3"]},
        equal_flops=False,
    )  # fmt: skip
    found = logs("csv", tmp_path)
    assert sum(" tuning-" in name for name in found) >= 4
    assert all("test/nll" not in figures for name, (figures, _) in found.items() if " tuning-" in name)


def test_an_unknown_kind_and_a_missing_package_are_told_before_anything_is_trained(tmp_path, monkeypatch):
    with pytest.raises(UnknownName, match=r"unknown log 'tensorbord'; did you mean 'tensorboard'\?"):
        compare(Tiny(), ARMS, log="tensorbord", log_dir=tmp_path)
    monkeypatch.setattr(logging_runs, "find_spec", lambda name: None if name == "mlflow" else find_spec(name))
    with pytest.raises(AssayError, match=r"'mlflow' needs mlflow, not installed here: pip install 'assay\[mlflow\]'"):
        compare(Tiny(), ARMS, log="mlflow", log_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_without_a_log_no_logger_is_imported():
    code = (
        "import sys; sys.path.insert(0, 'tests/trials')\n"
        "from test_logs import ARMS, Tiny, compare\n"
        "compare(Tiny(), ARMS, seeds=1, executor='serial')\n"
        "sys.exit(', '.join(m for m in sys.modules if m in ('lightning_fabric', 'tensorboard', 'wandb', 'mlflow',"
        " 'assay.trials.loggers')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stderr == "\n"
