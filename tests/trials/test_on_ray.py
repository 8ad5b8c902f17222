"""Ray's workers give the bits of this process, and when they or their nodes are lost, no work is lost with them."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest
from tiny import Die, Explode, Fail, NoData, Pause, Scale, Tiny
from typer.testing import CliRunner

from assay.cli.app import app
from assay.engine import Record
from assay.errors import AssayError, Interrupted, MissingData
from assay.trials import Arm, Job, RayExecutor, SerialExecutor, compare, on_ray

MEMORY = 80 * 2**20  # bytes, about the least that Ray takes
ROOT = Path(__file__).parents[2]
QUIET = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # loopback alone
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",
    "RAY_worker_niceness": "0",  # else workers starve beside anything
    "RAY_memory_monitor_refresh_ms": "0",  # the machine's memory is not what is tested
    "RAY_AUTH_MODE": "disabled",  # else a token is left in the home folder
    "RAY_prestart_worker_first_driver": "0",
    "RAY_health_check_failure_threshold": "100",  # a busy machine is no lost node
}


def ended(folder: str | Path, within: float = 20.0) -> bool:
    """Whether no process lives any more that has a file open in the folder or names it."""
    end = time.monotonic() + within
    while time.monotonic() < end:
        if not any(_uses(process, str(folder)) for process in psutil.process_iter() if process.pid != os.getpid()):
            return True
        time.sleep(0.1)
    return False


def _uses(process: psutil.Process, folder: str) -> bool:
    try:
        named = any(folder in part for part in process.cmdline())
        return named or any(file.path.startswith(folder) for file in process.open_files())
    except psutil.Error:  # it has just ended, or is another user's
        return False


@pytest.fixture(scope="module")
def cluster():
    """Two nodes, of one CPU and of two."""
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as folder:
        for name, value in (QUIET | {"RAY_TMPDIR": folder}).items():
            patch.setenv(name, value)
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(Path(__file__).parent)]))
        from ray.cluster_utils import Cluster

        made = Cluster()
        made.add_node(num_cpus=1, object_store_memory=MEMORY, include_dashboard=False, no_monitor=True,
                      include_log_monitor=False)  # fmt: skip
        made.add_node(num_cpus=2, object_store_memory=MEMORY)
        yield made
        made.shutdown()
        assert ended(folder), "its agents would write into the folder after it is gone"


@pytest.fixture(scope="module")
def ray(cluster):
    """Two workers, one a node: Ray fills the node it is called from first."""
    with RayExecutor(cluster.address, limit=2) as executor:
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


def test_ray_and_serial_give_the_same_bits_and_tell_of_progress_alike(ray):
    task, events = Tiny(), []
    jobs = [job(*methods, task=task, seed=seed) for seed in (0, 1) for methods in ((), (Scale(2.0),), (Explode(),))]
    found = records(ray, jobs, events.append)
    assert [figures(record) for record in found] == [figures(record) for record in records(SerialExecutor(), jobs)]
    assert [record.status for record in found[:3]] == ["finished", "finished", "diverged"]
    assert [event.done for event in events if event.state != "running"] == [1, 2, 3, 4, 5, 6]
    assert len(ray.workers) == 2, "they stay for the next call"


def test_a_killed_worker_costs_only_the_step_it_was_in(ray, tmp_path):
    log = tmp_path / "log"
    jobs = [job(Die(str(log)), folder=tmp_path, checkpoint_every=0.0), job(seed=1)]
    found = records(ray, jobs)
    assert log.read_text().split() == [str(step) for step in [*range(21), *range(20, 30)]]
    undisturbed = records(SerialExecutor(), [job(Die(str(log)), folder=tmp_path / "other"), job(seed=1)])
    assert [figures(record) for record in found] == [figures(record) for record in undisturbed]


def test_where_the_callers_folder_is_not_seen_the_run_starts_again(ray, tmp_path, monkeypatch):
    log = tmp_path / "log"
    monkeypatch.setattr(Path, "mkdir", lambda *args, **how: None)  # as on a disk of the caller's own
    (record,) = records(ray, [job(Die(str(log)), folder=tmp_path / "own", checkpoint_every=0.0)])
    monkeypatch.undo()
    assert log.read_text().split() == [str(step) for step in [*range(21), *range(30)]]
    assert not (tmp_path / "own").exists()
    assert figures(record) == figures(records(SerialExecutor(), [job(Die(str(log)))])[0])


def test_a_users_mistake_and_an_error_of_assays_own_come_as_from_the_pool(ray):
    with pytest.raises(
        AssayError, match=r"task 'tiny' with 'fail', seed 3: KeyError: 'no such column' .*tiny.py:.*in b"
    ):
        records(ray, [job(Fail(), seed=3)])
    with pytest.raises(MissingData, match=r"^tiny is not in ~/data; get it with \.\.\.$"):
        records(ray, [job(task=NoData())])


def test_a_run_whose_worker_always_dies_is_given_up_and_others_are_kept(ray, tmp_path):
    done = []
    jobs = [job(Die(str(tmp_path / "log"), times=9), label="greedy, seed 0"), job(seed=5)]
    with pytest.raises(AssayError, match=r"worker doing greedy, seed 0 died 3 times \(its process ended\).*memory"):
        ray.run(jobs, on_record=lambda job, record: done.append(job.seed), on_progress=lambda event: None)
    assert (tmp_path / "log").read_text().split().count("20") == 3
    assert done == [5]


def test_ctrl_c_leaves_checkpoints_from_which_the_same_call_goes_on(cluster, tmp_path):
    log, store = tmp_path / "log", tmp_path / "s.sqlite"
    methods, recipe = [Die(str(log), times=0), Pause(0.05)], Tiny().recipe
    arms = [Arm("base", recipe.with_methods(methods)), Arm("scaled", recipe.with_methods([*methods, Scale(2.0)]))]
    how = {"seeds": 1, "executor": "ray", "address": cluster.address, "workers": 1, "store": store}

    sent = []

    def interrupt(event):
        if event.fraction > 0.2 and not sent:  # a second one would not wait for checkpoints
            sent.append(event)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted, match="goes on from"):
        compare(Tiny(), arms, on_progress=interrupt, **how)
    before = len(log.read_text().split())
    assert 0 < before < 60
    result = compare(Tiny(), arms, **how)
    assert len(log.read_text().split()) == 60, "a step was done twice or left out"
    assert not (tmp_path / "s-checkpoints").exists()
    undisturbed = compare(Tiny(), arms, seeds=1, executor="serial")
    assert result.comparisons == undisturbed.comparisons


def test_threads_are_the_cpus_of_a_run_and_one_worker_takes_both(cluster, ray):
    ray.close()  # its workers hold one CPU of either node
    result = compare(
        Tiny(), [Arm("a", Tiny().recipe), Arm("b", Tiny().recipe.with_methods([Scale(2.0)]))], seeds=1, executor="ray",
        address=cluster.address, cpus_per_run=2,
    )  # fmt: skip
    serial = compare(
        Tiny(), [Arm("a", Tiny().recipe), Arm("b", Tiny().recipe.with_methods([Scale(2.0)]))], seeds=1,
        executor="serial", threads=2,
    )  # fmt: skip
    for mine, theirs in zip(result.arms, serial.arms, strict=True):
        assert mine.runs[0].environment["threads"] == 2
        assert figures(mine.runs[0]) == figures(theirs.runs[0])
    with RayExecutor(cluster.address) as one, RayExecutor(cluster.address, cpus_per_run=2) as two:
        assert one.at_once() == 3
        assert two.at_once() == 1


@pytest.mark.parametrize(("cpus", "gpus", "there"), [(3, 0.0, "2 CPUs"), (1, 0.5, "0 GPUs")])
def test_more_than_any_node_has_is_refused_at_once(cluster, cpus, gpus, there):
    with (
        RayExecutor(cluster.address, cpus_per_run=cpus, gpus_per_run=gpus) as executor,
        pytest.raises(AssayError, match=f"a run is to have {cpus} CPUs and {gpus:g} GPUs.*{there}"),
    ):
        executor.at_once()


def test_a_node_with_other_code_is_refused(ray, monkeypatch):
    monkeypatch.setattr(Job, "key", "0" * 40)  # this process computes another key than the worker will
    with pytest.raises(AssayError, match="has another code"):
        records(ray, [job()])


def test_a_program_that_its_own_workers_would_run_again_is_told_so(ray, monkeypatch, tmp_path):
    (tmp_path / "bare.py").write_text("raise KeyError('this is run')\n")
    monkeypatch.setattr(on_ray, "_origin", lambda: {
        "path": [], "folder": "/none", "main": {"init_main_from_path": str(tmp_path / "bare.py")}})  # fmt: skip
    monkeypatch.setattr(RayExecutor, "starts", 0)
    ray.close()
    with pytest.raises(AssayError, match=r"did not start \(KeyError: 'this is run'\); .*if __name__ == '__main__'"):
        records(ray, [job()])


def test_a_lost_node_gives_its_run_to_another(cluster, ray, tmp_path):
    """The last of the tests on the cluster, which has one node thereafter."""
    jobs = [job(Pause(0.1), seed=seed, folder=tmp_path, checkpoint_every=0.0) for seed in (0, 1)]
    (node,), begun, before = cluster.worker_nodes, set(), []

    def lose(event):
        if event.fraction > 0.2:
            begun.add(event.key)
        if len(begun) == 2 and not before:
            before.extend(ray.workers)
            cluster.remove_node(node)

    found = records(ray, jobs, lose)
    assert len(before) == 2
    assert len(set(before) & set(ray.workers)) == 1, "one was lost with its node"
    undisturbed = records(SerialExecutor(), [job(Pause(0.0), seed=seed) for seed in (0, 1)])
    assert [record.metrics for record in found] == [record.metrics for record in undisturbed]


@pytest.mark.slow
def test_on_the_command_line_ray_is_started_here_and_leaves_nothing(tmp_path):
    """A task in a file of one's own, from another folder; all in a process that has never seen Ray."""
    (tmp_path / "mine.py").write_text("from tiny import Tiny\n\nclass Mine(Tiny):\n    pass\n")
    temporary = Path(tempfile.mkdtemp(prefix="t", dir="/tmp"))
    env = os.environ | QUIET | {"TMPDIR": str(temporary), "HOME": str(tmp_path)}
    env |= {"PYTHONPATH": os.pathsep.join([str(ROOT), str(Path(__file__).parent)])}
    typed = ["compare", "mine.py:Mine", "--with", "label-smoothing", "--seeds", "1", "--budget", "5steps", "--json"]
    program = [sys.executable, "-c", "from assay.cli import main; main()", *typed]
    done = subprocess.run([*program, "--executor", "ray"], capture_output=True, text=True, env=env, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    serial = subprocess.run([*program, "--executor", "serial", "--store", "other.db"],
                            capture_output=True, text=True, env=env, cwd=tmp_path)  # fmt: skip
    mine, theirs = json.loads(done.stdout), json.loads(serial.stdout)
    assert mine["comparisons"] == theirs["comparisons"]
    assert [arm["runs"][0]["metrics"] for arm in mine["arms"]] == [arm["runs"][0]["metrics"] for arm in theirs["arms"]]
    assert list(temporary.iterdir()) == []
    temporary.rmdir()
    assert ended(temporary)
    assert not temporary.exists()


def test_a_local_ray_has_this_machines_cpus(monkeypatch):
    monkeypatch.setattr(on_ray, "_here", lambda: (6.0, 1.0))
    assert RayExecutor(cpus_per_run=4).at_once() == 1
    assert RayExecutor(cpus_per_run=1, gpus_per_run=0.25).at_once() == 4
    assert RayExecutor(limit=9).at_once() == 9
    with pytest.raises(AssayError, match="no node of the Ray cluster has as many; nodes have 6 CPUs and 1 GPUs"):
        RayExecutor(cpus_per_run=7).at_once()


LINE = ["compare", f"{Path(__file__).with_name('tiny.py')}:Tiny", "--with", "label-smoothing", "--seeds", "1"]


def refused(*args: str) -> str:
    done = CliRunner().invoke(app, [*LINE, *args], catch_exceptions=False)
    assert (done.exit_code, done.stdout) == (2, ""), done.output
    (line,) = done.stderr.splitlines()
    return line


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--executor", "ray", "--cpus-per-run", "0"], "must be at least 1, got 0"),
        (["--executor", "ray", "--cpus-per-run", "4000"], "a run is to have 4000 CPUs"),
        (["--executor", "ray", "--cpus-per-run", "2", "--threads", "1"], "threads and cpus_per_run are one thing"),
        (["--executor", "ray", "--gpus-per-run", "2"], "gpus_per_run must lie between 0 and 1"),
        (["--executor", "ray", "--gpus-per-run", "-1"], "gpus_per_run must lie between 0 and 1"),
        (["--executor", "ray", "--gpus-per-run", "1"], "got accelerator cpu and gpus_per_run 1"),
        (["--executor", "ray", "--accelerator", "auto"], "got accelerator auto and gpus_per_run 0"),
        (["--executor", "ray", "--workers", "0"], "workers must be at least 1, got 0"),
        (["--executor", "ray", "--address", "ray://head:10001"], "is for a Ray client"),
        (["--executor", "ray", "--address", "head"], "must be HOST:PORT or auto, got 'head'"),
        (["--executor", "pool", "--address", "head:6379"], "address is for executor 'ray', got 'head:6379' without it"),
        (["--cpus-per-run", "2"], "cpus_per_run is for executor 'ray', got 2 without it"),
        (["--executor", "serial", "--gpus-per-run", "1"], "gpus_per_run is for executor 'ray', got 1.0 without it"),
    ],
)
def test_a_wrong_option_is_one_clear_message(args, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert message in refused(*args)


def test_an_address_where_nobody_answers_is_said_in_seconds(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        began = time.monotonic()
        assert f"no Ray cluster answers at {address}" in refused("--executor", "ray", "--address", address)
        assert time.monotonic() - began < 2 * on_ray.ANSWER


def test_without_ray_one_message_says_what_to_install_and_other_executors_work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(on_ray, "find_spec", lambda name: None)
    assert "Ray, which is not installed: pip install 'assay[ray]'" in refused("--executor", "ray")


def test_ray_is_not_imported_unless_asked_for():
    code = (
        "import sys\nsys.modules['ray'] = None\nfrom assay.trials.trial import executor_for\n"
        "executor_for('serial', None, 'cpu'), executor_for('pool', 1, 'cpu')"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONPATH": str(ROOT)})


def test_a_trial_on_ray_is_priced_without_starting_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(on_ray, "_here", lambda: (4.0, 0.0))
    args = ["plan", *LINE[1:], "--budget", "2steps", "--executor", "ray", "--cpus-per-run", "2", "--json"]
    done = CliRunner().invoke(app, args, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["workers"] == 2
