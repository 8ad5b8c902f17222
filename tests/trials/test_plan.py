"""A plan against what it plans: every figure of FLOPs is held to the record of a real run."""

import json
import time
from dataclasses import dataclass, replace

import pytest
import torch
from tiny import NoTest, Tiny
from torch import nn

from assay.engine import Budget, Method, Recipe, Run
from assay.errors import AssayError
from assay.papers import parse_arm
from assay.tasks import load
from assay.trials import Arm, SerialExecutor, compare
from assay.trials.memory import TensorMemory
from assay.trials.plan import plan
from assay.trials.rehearsal import rehearse


def planned(task, recipe: Recipe, budget: str, **asked):
    """The plan of one run of `recipe`, which two arms share."""
    arms = [Arm("baseline", recipe), Arm("treated", recipe)]
    return plan(task, arms, seeds=1, budget=budget, executor="serial", **asked).parts[0]


@pytest.mark.parametrize("budget", ["7steps", "2.5epochs", "1000samples", "2e7flops"])
@pytest.mark.parametrize(
    ("task", "arm"),
    [
        ("digits:model=mlp,dropout=0.5", "multi-sample-dropout:num_samples=4"),
        ("digits:model=resnet8", "bn-only"),
        ("digits", "cutmix:prob=0.5"),
        ("digits", "ghost-batchnorm:ghost_batch_size=16"),
        ("digits", "weight-distance"),
    ],
)
def test_flops_are_those_of_the_runs_record(task, arm, budget):
    loaded = load(task)
    if budget.endswith("flops"):  # enough for several steps of any of them
        budget = f"{6.5 * rehearse(Run(loaded, budget='3steps', evaluations=0)).step.flops:.6g}flops"
    recipe = loaded.recipe.with_methods(parse_arm(arm))
    record = Run(loaded, recipe, 0, budget, evaluations=0, test=False).train()
    found = planned(loaded, recipe, budget)
    assert found.steps == record.steps
    assert found.flops == pytest.approx(record.flops, rel=1e-9)
    assert found.parameters == record.parameters


def test_arms_that_cost_less_or_more_are_told_apart():
    """The case in which a plan that priced the baseline alone would pass the test above."""
    loaded = load("digits:model=resnet8")
    plain, frozen = (planned(loaded, r, "5steps").flops for r in (loaded.recipe, _with(loaded, "bn-only")))
    assert frozen < 0.8 * plain


def _with(task, arm):
    return task.recipe.with_methods(parse_arm(arm))


@dataclass
class Clock(Method):
    """Each step takes 10 ms of a clock that nothing else moves."""

    name = "clock"

    def updated(self, run):
        Clock.now += 0.01


def test_flops_of_a_budget_in_seconds_follow_from_the_time_of_a_step(monkeypatch):
    Clock.now = 0.0
    monkeypatch.setattr(time, "perf_counter", lambda: Clock.now)
    recipe = Tiny.recipe.with_methods([Clock()])
    record = Run(Tiny(), recipe, 0, "2s").train()
    found = planned(Tiny(), recipe, "2s")
    assert record.steps == pytest.approx(200, abs=1)
    assert found.flops == pytest.approx(record.flops, rel=0.01)
    assert found.seconds == pytest.approx(record.seconds, rel=0.01)


@pytest.mark.parametrize("hook", ["setup", "epoch", "finish"])
@pytest.mark.parametrize("budget", ["30steps", "3epochs", "40000flops"])
def test_what_a_method_computes_outside_the_steps_is_foreseen(hook, budget):
    def work(self, run):
        torch.ones(10, 20) @ torch.ones(20, 5)

    busy = type("Busy", (Method,), {"name": "busy", hook: work})()
    recipe = Tiny.recipe.with_methods([busy])
    record = Run(Tiny(), recipe, 0, budget).train()
    found = planned(Tiny(), recipe, budget)
    assert (found.steps, found.flops) == (record.steps, record.flops)


def test_an_epoch_of_one_step_is_priced_like_any_other():
    def work(self, run):
        torch.ones(10, 20) @ torch.ones(20, 5)

    busy = type("Busy", (Method,), {"name": "busy", "epoch": work})()
    recipe = replace(Tiny.recipe, batch_size=200).with_methods([busy])
    assert planned(Tiny(), recipe, "40epochs").flops == Run(Tiny(), recipe, 0, "40epochs").train().flops


class Ledger(SerialExecutor):
    """Keeps the records of all that is run."""

    def __init__(self):
        self.done = []

    def run(self, jobs, *, on_record, **kwargs):
        def keep(job, record):
            self.done.append(record)
            on_record(job, record)

        super().run(jobs, on_record=keep, **kwargs)


@dataclass
class More(Method):
    """`times` extra passes; a `weight` that costs nothing."""

    name = "more"
    times: int = 1
    weight: float = 0.5

    def step(self, run, batch, proceed):
        for _ in range(self.times):
            run.task.loss(run.model(batch.x), batch.y).backward()
            run.optimizer.zero_grad()
        return proceed(batch)


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"budget": "2epochs", "equal_flops": False},
        {"tune": {"lr": ["0.1", "0.3"]}},
        {"tune": {"lr": ["0.1"], "batch_size": ["8", "16"]}, "equal_flops": False},
        {"tune": {"lr": ["0.1"], "more.times": ["1", "3"], "more.weight": ["0.1", "0.9"]}, "equal_flops": False},
        {"tune": {"lr": None}, "tune_trials": 3, "equal_flops": False},
        {"tune": {"batch_size": ["8", "16"]}, "tune_seeds": 2, "equal_flops": False},
    ],
    ids=["control", "plain", "grid", "batches", "method", "optuna", "seeds"],
)
def test_runs_and_flops_of_a_whole_trial_are_those_that_it_turns_out_to_have(asked):
    recipe = Tiny.recipe
    arms = [
        Arm("baseline", recipe),
        Arm("more", recipe.with_methods([More()])),
        Arm("twin", recipe),  # of the baseline: its runs are done once
    ]
    ledger = Ledger()
    result = compare(Tiny(), arms, seeds=2, executor=ledger, **asked)
    found = plan(Tiny(), arms, seeds=2, executor="serial", **asked)
    assert {part.arm for part in found.parts} <= {arm.name for arm in result.arms}
    if "tune" not in asked:
        assert found.runs == len(ledger.done)
        assert found.flops == pytest.approx(sum(record.flops for record in ledger.done), rel=1e-9)
        return
    # what tuning chose decides which of the arms' own runs coincide; the tuning runs are known
    tuning = [part for part in found.parts if part.purpose == "tuning"]
    own = {id(run) for arm in result.arms for run in arm.runs}
    tuned = [record for record in ledger.done if id(record) not in own]
    assert sum(part.runs for part in tuning) == len(tuned)
    assert sum(part.runs * part.flops for part in tuning) == pytest.approx(sum(r.flops for r in tuned), rel=1e-9)


def test_planning_reads_no_test_example_and_leaves_the_generators_as_they_were():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    arms = [Arm("a", Tiny.recipe), Arm("b", Tiny.recipe.with_methods([More()]))]
    assert plan(NoTest(), arms, seeds=1, executor="serial").flops > 0
    assert torch.equal(before, torch.get_rng_state())


def test_evaluations_are_as_many_as_the_run_makes():
    found = rehearse(Run(Tiny(), budget="30steps"))

    def evaluations(budget: str, points: int, test: bool) -> float:
        cost = found.whole(Budget.parse(budget), evaluations=points, test=test)
        return cost.evaluation.flops / (2 * 100 * 4 * 2)  # 100 validation examples through a linear layer, 4 to 2

    assert evaluations("30steps", 10, False) == 10  # the curve's last point is that of the end
    assert evaluations("30steps", 10, True) == 11  # as many test examples
    assert evaluations("30steps", 0, False) == 1
    assert evaluations("3steps", 10, False) == 3


def test_the_finished_network_is_evaluated_at_its_own_price():
    def finish(self, run):
        run.model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))

    grow = type("Grow", (Method,), {"name": "grow", "finish": finish})()
    found = rehearse(Run(Tiny(), Tiny.recipe.with_methods([grow]), budget="30steps"))
    assert (found.point.flops, found.valid.flops) == (2 * 100 * 8, 2 * 100 * (16 + 8))


def test_memory_of_a_step_is_that_of_its_tensors():
    """Wide layers on few samples: weights, momentum and gradients are nearly all there is."""

    class Wide(Tiny):
        def model(self):
            return nn.Sequential(nn.Linear(4, 1000), nn.Linear(1000, 1000), nn.Linear(1000, 2))

    recipe = replace(Tiny.recipe, batch_size=2)
    weights = 4 * (5 * 1000 + 1001 * 1000 + 2002)
    assert planned(Wide(), recipe, "5steps").memory == pytest.approx(3 * weights, rel=0.02)  # SGD with momentum
    adam = replace(recipe, optimizer="adam")
    assert planned(Wide(), adam, "5steps").memory >= 4 * weights


def test_memory_counts_each_storage_once_and_while_it_lives():
    with TensorMemory() as memory:
        a = torch.zeros(1000)
        b = a.view(10, 100)[2:]  # the same storage
        assert (memory.live, memory.peak) == (4000, 4000)
        c = a + 1
        del a
        assert memory.live == 8000
        del b, c
        assert (memory.live, memory.peak) == (0, 8000)


def test_impossible_plans_are_refused_as_the_trial_would_be():
    one, other = Arm("a", Tiny.recipe), Arm("b", Tiny.recipe)
    with pytest.raises(AssayError, match="at least two"):
        plan(Tiny(), [one])
    with pytest.raises(AssayError, match="smallest_effect"):
        plan(Tiny(), [one, other], smallest_effect=-1.0)
    with pytest.raises(AssayError, match="unknown setting to tune 'rl'"):
        plan(Tiny(), [one, other], tune={"rl": None}, executor="serial")
    with pytest.raises(AssayError, match="unknown executor"):
        plan(Tiny(), [one, other], executor="poll")


def test_an_error_in_an_arms_step_is_told_with_its_place():
    def batch(self, run, batch):
        raise KeyError("no such column")

    wrong = type("Wrong", (Method,), {"name": "wrong", "batch": batch})()
    with pytest.raises(AssayError, match=r"'tiny' with 'wrong'.*KeyError.*test_plan.py"):
        planned(Tiny(), Tiny.recipe.with_methods([wrong]), "5steps")


def test_a_step_that_spends_nothing_of_its_budget_is_refused():
    class Idle(Tiny):
        def objective(self, run, batch):
            return sum(p.sum() for p in run.model.parameters())

    with pytest.raises(AssayError, match="a step spends no flops"):
        planned(Idle(), Tiny.recipe, "1e6flops")


def test_a_plan_as_json_has_its_sums():
    arms = [Arm("a", Tiny.recipe), Arm("b", Tiny.recipe.with_methods([More()]))]
    found = plan(Tiny(), arms, seeds=2, executor="serial")
    told = json.loads(json.dumps(found.to_json()))
    assert told["total"]["runs"] == sum(part["runs"] for part in told["parts"]) == 6
    assert told["total"]["flops"] == sum(part["runs"] * part["flops"] for part in told["parts"])
    assert [part["purpose"] for part in told["parts"]] == ["trial", "trial", "control"]
