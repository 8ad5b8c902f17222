import json
from inspect import signature
from pathlib import Path

import pytest
from typer.testing import CliRunner

from assay.cli.app import app
from assay.cli.compare import compare
from assay.cli.plan import plan
from assay.engine import Run

ROOT = Path(__file__).parents[2]
TINY = f"{ROOT}/tests/trials/tiny.py:Tiny"
GOOD = [TINY, "--with", "label-smoothing", "--seeds", "2", "--budget", "5steps", "--executor", "serial"]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*args: str):
    return CliRunner().invoke(app, ["plan", *args], catch_exceptions=False)


def test_a_line_of_compare_is_priced_as_it_stands_and_nothing_is_written():
    compared = CliRunner().invoke(app, ["compare", *GOOD, "--json", "--out", "r.html", "--store", "s.db"])
    flops = sum(run["flops"] for arm in json.loads(compared.stdout)["arms"] for run in arm["runs"])
    before = {path.name for path in Path().iterdir()}
    done = run(*GOOD, "--json", "--out", "r.html", "--store", "s.db", "--log", "csv", "--log-dir", "logs")
    assert json.loads(done.stdout)["total"]["flops"] == flops
    assert {path.name for path in Path().iterdir()} == before


def test_every_option_of_compare_is_taken():
    assert signature(compare).parameters.keys() - {"task"} <= signature(plan).parameters.keys()


def test_the_table_has_a_line_for_each_kind_of_runs_and_the_gpus_price():
    done = run(*GOOD, "--tune", "lr=0.1/0.2", "--gpu", "t4", "--price", "0.5", "--utilisation", "0.5")
    assert (done.exit_code, done.stderr) == (0, "")
    words = " ".join(done.stdout.split())
    assert "baseline the trial 2 5" in words
    assert "label-smoothing tuning 2 5" in words
    assert "On one NVIDIA T4, at 50% of its peak rate, " in words
    assert "Note: The trial's runs are priced before tuning: what it will choose of lr is not known." in words


def test_money_is_time_on_the_gpu_times_the_price():
    found = json.loads(run(*GOOD, "--json", "--gpu", "l4", "--price", "3600", "--utilisation", "1").stdout)
    total = found["total"]
    seconds = (total["flops"] + total["evaluation_flops"]) / 30.3e12  # linear layers in float32
    assert found["gpu"]["seconds"] == pytest.approx([seconds] * 2)
    assert found["gpu"]["dollars"] == pytest.approx([seconds] * 2)


def test_a_papers_claim_is_priced_with_what_it_ran_itself():
    found = json.loads(run("ghost-batchnorm", "--quick", "--executor", "serial", "--gpu", "h100", "--json").stdout)
    assert {part["arm"] for part in found["parts"]} >= {"large batch", "small batch", "sqrt rate, ghost, longer"}
    (scale,) = found["scales"]
    assert scale["gpu"]["seconds"][0] == pytest.approx(scale["flops"] / (989.4e12 * found["gpu"]["utilisation"][1]))
    done = run("multi-sample-dropout", "--quick", "--executor", "serial")
    assert "The paper's own scale: ImageNet, VGG16" in " ".join(done.stdout.split())
    assert "None of it can be priced" in done.stdout


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["digits"], "what is to be set against 'digits'? give --with METHOD, or the name of a paper alone"),
        (["cutmx"], "what is to be set against 'cutmx'?"),
        (["cutmix", "--with", "cutmix"], "unknown task 'cutmix'"),
        (["cutmix", "--seeds", "3"], "--seeds is fixed by the claim of 'cutmix'"),
        (["cutmix", "--tune", "lr"], "--tune is fixed by the claim of 'cutmix'"),
        (["mixdq"], "paper 'mixdq' is planned: it has no claim to price yet"),
        ([*GOOD, "--quick"], "--quick is for papers"),
        ([*GOOD, "--price", "2"], "--price is of a GPU; say which with --gpu"),
        ([*GOOD, "--utilisation", "0.2"], "--utilisation is of a GPU; say which with --gpu"),
        ([*GOOD, "--gpu", "h10"], "unknown GPU 'h10'; did you mean 'h100'?"),
        ([*GOOD, "--gpu", "h100", "--price", "-1"], "price must be dollars an hour"),
        ([*GOOD, "--gpu", "h100", "--utilisation", "2"], "utilisation must lie in (0, 1]"),
        ([*GOOD, "--gpu", "h100", "--set", "precision=64-true"], "no GPU's rate at precision 64-true is known"),
        ([*GOOD, "--with", "label-smothing"], "unknown method 'label-smothing'; did you mean 'label-smoothing'?"),
        ([*GOOD, "--set", "rl=1"], "unknown setting 'rl'; did you mean 'lr'?"),
        ([*GOOD, "--budget", "10 parsecs"], "cannot read budget '10 parsecs'"),
        ([*GOOD, "--seeds", "0"], "seeds must be"),
        ([*GOOD, "--tune", "rl"], "unknown setting to tune 'rl'; did you mean 'lr'?"),
        ([*GOOD, "--executor", "poll"], "unknown executor 'poll'; did you mean 'pool'?"),
    ],
)
def test_a_mistake_is_told_in_one_paragraph_before_anything_is_trained(args, message, monkeypatch):
    monkeypatch.setattr(Run, "train", lambda self: pytest.fail("a run was trained"))
    done = run(*args)
    assert (done.exit_code, done.stdout) == (2, ""), done.output
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(Path().iterdir()) == []
