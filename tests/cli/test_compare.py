import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from assay.cli.app import app
from assay.trials import TrialResult

ROOT = Path(__file__).parents[2]
TINY = f"{ROOT}/tests/trials/tiny.py:Tiny"
ARGS = ["compare", TINY, "--with", "label-smoothing:smoothing=0.2", "--seeds", "2", "--budget", "5steps"]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*args: str):
    return CliRunner().invoke(app, [*ARGS, "--executor", "serial", *args], catch_exceptions=False)


def test_verdict_goes_to_stdout_and_the_report_is_where_it_says():
    done = run()
    assert done.exit_code == 0
    assert done.stderr == ""
    assert "label-smoothing:smoothing=0.2" in done.stdout
    report = Path(done.stdout.rpartition("Report: ")[2].strip())
    assert report == Path(".assay/reports/tiny-label-smoothing-smoothing-0.2.html")
    assert report.is_file()
    assert report.with_suffix(".csv").is_file()


def test_json_is_all_of_stdout_and_is_the_result():
    done = run("--json", "--out", "there/report.html")
    result = TrialResult.from_json(json.loads(done.stdout))
    assert [arm.name for arm in result.arms] == ["baseline", "label-smoothing:smoothing=0.2"]
    assert result.seeds == [0, 1]
    assert result.budget == "5steps"
    assert json.loads(Path("there/report.json").read_text()) == json.loads(done.stdout)


def test_the_command_to_repeat_it_is_the_one_that_was_typed():
    done = run("--json", "--out", "a b.html")
    typed = ["assay", *ARGS, "--executor", "serial", "--json", "--out", "a b.html"]
    assert shlex.split(json.loads(done.stdout)["command"]) == typed


def test_settings_reach_every_arm():
    result = json.loads(run("--set", "lr=0.25,batch_size=20", "--set", "schedule=linear", "--json").stdout)
    assert [(a["recipe"]["lr"], a["recipe"]["batch_size"], a["recipe"]["schedule"]) for a in result["arms"]] == [
        (0.25, 20, "linear")
    ] * 2


def test_each_with_is_an_arm_and_plus_joins_methods():
    result = json.loads(run("--with", "label-smoothing+cosine", "--json").stdout)
    methods = {arm["name"]: [m["name"] for m in arm["recipe"]["methods"]] for arm in result["arms"]}
    assert methods == {
        "baseline": [],
        "label-smoothing:smoothing=0.2": ["label-smoothing"],
        "label-smoothing+cosine": ["label-smoothing", "cosine"],
    }


def test_tuning_tries_the_values_given_in_every_arm():
    result = json.loads(run("--tune", "lr=0.01/0.3", "--json").stdout)
    assert all(arm["tuned"] is not None for arm in result["arms"])
    assert all(arm["recipe"]["lr"] in (0.01, 0.1, 0.3) for arm in result["arms"])


def test_what_was_run_is_not_run_again():
    first, second = (json.loads(run("--json").stdout) for _ in range(2))
    assert (first["reused"], second["reused"]) == (0, 4)
    assert first["comparisons"] == second["comparisons"]
    assert json.loads(run("--json", "--seeds", "3").stdout)["reused"] == 4


def test_trials_of_a_store_are_listed():
    run()
    listed = json.loads(CliRunner().invoke(app, ["trials", "--json"]).stdout)
    assert [(t["trial"], list(t["verdicts"])) for t in listed] == [(1, ["label-smoothing:smoothing=0.2"])]
    assert "tiny" in CliRunner().invoke(app, ["trials"]).stdout


def test_every_run_is_logged_where_it_is_said_and_the_store_has_it_without():
    first = json.loads(run("--json", "--log", "csv", "--log-dir", "logs").stdout)
    written = {str(path.parent.relative_to("logs")) for path in Path("logs").rglob("metrics.csv")}
    assert {name.rpartition("-")[0] for name in written} == {
        f"tiny/{arm}/seed-{seed}" for arm in ("baseline", "label-smoothing-smoothing=0.2") for seed in (0, 1)
    }
    assert (first["reused"], json.loads(run("--json").stdout)["reused"]) == (0, 4)
    assert run("--log", "csv").stderr == ""
    assert len(list(Path(".assay/logs").rglob("metrics.csv"))) == 4


def test_ctrl_c_says_how_to_go_on_and_the_same_command_does(here):
    (here / "slow.py").write_text(
        "from pathlib import Path\n"
        "from tests.trials.tiny import Tiny\n"
        "class Slow(Tiny):\n"
        "    def step(self, run, batch):\n"
        "        Path('under-way').touch()\n"
        "        return super().step(run, batch)\n"
    )
    typed = ["compare", "slow.py:Slow", "--with", "label-smoothing", "--seeds", "1", "--budget", "2s"]
    command = [sys.executable, "-c", "from assay.cli import main; main()", *typed, "--executor", "serial"]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
    while not (here / "under-way").exists() and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert out == ""
    assert err == "assay: stopped; the same command goes on where this one was\n"
    assert not list(here.rglob("*.html"))
    assert len(list(here.rglob("*.pt"))) == 1

    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "label-smoothing" in done.stdout
    assert not list(here.rglob("*.pt"))


def test_devices_and_strategy_reach_every_run():
    result = json.loads(run("--devices", "2", "--strategy", "fsdp", "--json").stdout)
    assert {str(one["environment"]["devices"]) for arm in result["arms"] for one in arm["runs"]} == {"['2 (fsdp)']"}


def test_a_strategy_without_devices_is_a_mistake():
    done = run("--strategy", "fsdp")
    assert done.exit_code == 2
    assert "strategy fsdp is about several devices; give devices, from 2 up, or no strategy" in done.stderr
