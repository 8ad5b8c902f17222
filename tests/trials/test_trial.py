"""A trial asks only for the runs it lacks, and sets each arm against the right baseline."""

import json
import subprocess
import sys
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from tiny import Explode, Scale, Tiny, Twice

from assay.engine import Budget, Method, Splits
from assay.errors import AssayError, CannotTreat, Interrupted
from assay.trials import Arm, SerialExecutor, Store, TrialResult, trial
from assay.trials.statistics import compare_pairs

compare = partial(trial.compare, evaluations=1)


class Counting(SerialExecutor):
    """Keeps what it was asked to do."""

    def __init__(self):
        self.jobs = []

    def run(self, jobs, **kwargs):
        self.jobs += jobs
        super().run(jobs, **kwargs)


def arms(*methods: Method) -> list[Arm]:
    recipe = Tiny().recipe
    return [Arm("base", recipe), *(Arm(m.name, recipe.with_methods([m])) for m in methods)]


def figures(result: TrialResult, arm: str, metric: str = "accuracy", worst: float = 0.0) -> list[float]:
    (found,) = (a for a in result.arms if a.name == arm)
    return [run.metrics["test"][metric] if run.metrics else worst for run in found.runs]


@pytest.fixture
def pairs(monkeypatch):
    """What the statistics were given."""
    given = []

    def keep(pairs, **kwargs):
        given.extend(pairs)
        return compare_pairs(pairs, **kwargs)

    monkeypatch.setattr(trial, "compare_pairs", keep)
    return given


def test_differences_are_arm_minus_baseline_seed_by_seed():
    result = compare(Tiny(), arms(Scale(3.0)), seeds=[4, 2, 9], executor="serial")
    assert [[run.seed for run in arm.runs] for arm in result.arms] == [[4, 2, 9]] * 2
    (found,) = result.comparisons
    expected = np.subtract(figures(result, "scale"), figures(result, "base"))
    np.testing.assert_allclose(found.differences, expected)
    assert any(expected != 0)


def test_less_of_a_metric_to_be_minimised_is_a_gain():
    result = compare(Tiny(), arms(Scale(3.0)), seeds=2, metric="nll", executor="serial")
    expected = np.subtract(figures(result, "base", "nll"), figures(result, "scale", "nll"))
    np.testing.assert_allclose(result.comparisons[0].differences, expected)


@pytest.mark.parametrize(("metric", "worst", "sign"), [("accuracy", 0.0, 1), ("nll", 0.6931, -1)])
def test_a_diverged_run_counts_as_the_worst_value(pairs, metric, worst, sign):
    result = compare(Tiny(), arms(Explode()), seeds=2, metric=metric, executor="serial")
    expected = [sign * (worst - figure) for figure in figures(result, "base", metric)]
    np.testing.assert_allclose(result.comparisons[0].differences, expected)
    assert "2 of 2 runs of explode diverged and count as the worst value" in result.comparisons[0].notes
    np.testing.assert_allclose(pairs[0].outcomes.mean(1), expected, rtol=1e-6)


def test_two_diverged_runs_differ_by_nothing():
    recipe = Tiny().recipe.with_methods([Explode()])
    result = compare(Tiny(), [Arm("a", recipe), Arm("b", replace(recipe, lr=0.2))], seeds=2, executor="serial")
    assert result.comparisons[0].differences == [0.0, 0.0]


def test_runs_on_one_test_set_are_compared_example_by_example(pairs):
    compare(Tiny(), arms(Scale(3.0)), seeds=3, executor="serial")
    assert pairs[0].outcomes.shape == (3, 100)
    np.testing.assert_allclose(pairs[0].outcomes.mean(1), pairs[0].differences)
    assert pairs[0].overlap is None


def test_with_varied_splits_the_overlap_is_test_over_train(pairs):
    compare(Tiny(), arms(Scale(3.0)), seeds=2, vary=("split", "init"), executor="serial")
    assert pairs[0].outcomes is None
    assert pairs[0].overlap == 100 / 200


def test_an_arm_is_compared_with_the_one_it_names():
    trio = arms(Scale(3.0), Scale(1.5))
    trio[2] = replace(trio[2], name="half", against="scale")
    result = compare(Tiny(), trio, seeds=1, executor="serial")
    assert [(c.arm, c.baseline) for c in result.comparisons] == [("scale", "base"), ("half", "scale")]


def test_an_arm_of_twice_the_flops_meets_a_baseline_of_as_many():
    result = compare(Tiny(), arms(Twice(), Scale(1.5)), seeds=2, executor="serial")
    assert [(arm.name, arm.control) for arm in result.arms] == [
        ("base", False),
        ("twice", False),
        ("scale", False),
        ("base at twice's FLOPs", True),
    ]
    base, twice, _, control = result.arms
    assert [run.flops for run in twice.runs] == [2 * run.flops for run in base.runs]
    assert [run.flops for run in control.runs] == [run.flops for run in twice.runs]
    assert [run.steps for run in control.runs] == [60, 60]
    assert [run.seed for run in control.runs] == [0, 1]
    against = [(c.arm, c.baseline) for c in result.comparisons]
    assert against == [("twice", "base"), ("scale", "base"), ("twice", "base at twice's FLOPs")]
    expected = np.subtract(figures(result, "twice"), figures(result, "base at twice's FLOPs"))
    np.testing.assert_allclose(result.comparisons[2].differences, expected)


@pytest.mark.parametrize("options", [{"equal_flops": False}, {"budget": "40000flops"}])
def test_no_control_where_it_is_not_wanted_or_flops_are_equal_already(options):
    result = compare(Tiny(), arms(Twice()), seeds=1, executor="serial", **options)
    assert [arm.control for arm in result.arms] == [False, False]


def test_a_diverged_run_that_stopped_early_does_not_hide_an_arms_cost():
    recipe = Tiny().recipe.with_methods([Twice(), Explode()])
    result = compare(Tiny(), [arms()[0], Arm("both", recipe)], seeds=1, executor="serial")
    assert len(result.arms) == 2, "no finished run says what the arm costs"


def test_what_is_in_the_store_is_not_run_again(tmp_path):
    executor, events = Counting(), []
    options = {"store": tmp_path / "s.sqlite", "executor": executor}
    first = compare(Tiny(), arms(Twice()), seeds=2, **options)
    assert len(executor.jobs) == 6
    assert (first.reused, first.training_seconds > 0) == (0, True)
    again = compare(Tiny(), arms(Twice()), seeds=2, on_progress=events.append, **options)
    assert len(executor.jobs) == 6
    assert (again.reused, again.training_seconds) == (6, 0.0)
    assert {event.state for event in events} == {"reused"}
    assert again.comparisons == first.comparisons
    more = compare(Tiny(), arms(Twice()), seeds=3, **options)
    assert {job.seed for job in executor.jobs[6:]} == {2}
    assert more.reused == 6
    assert [number for number, _ in Store(tmp_path / "s.sqlite").trials()] == [1, 2, 3]


def test_the_store_may_be_in_any_state_between_and_the_answer_is_the_same(tmp_path):
    """Stopped after any number of runs, the same call does the rest and nothing twice."""
    whole = compare(Tiny(), arms(Twice()), seeds=2, executor="serial")
    for stop_after in (1, 3, 5):
        executor, store = Counting(), tmp_path / f"{stop_after}.sqlite"
        done = []

        def stop(event, done=done, stop_after=stop_after):
            done.extend([event.key] if event.state == "finished" else [])
            if len(done) == stop_after:
                raise KeyboardInterrupt

        with pytest.raises(Interrupted, match=f"stopped with {stop_after} runs done; the same call goes on from"):
            compare(Tiny(), arms(Twice()), seeds=2, store=store, executor=executor, on_progress=stop)
        result = compare(Tiny(), arms(Twice()), seeds=2, store=store, executor="serial")
        assert result.reused == stop_after
        assert result.comparisons == whole.comparisons


def test_equal_arms_are_run_once():
    executor = Counting()
    result = compare(Tiny(), [Arm("a", Tiny().recipe), Arm("b", Tiny().recipe)], seeds=2, executor=executor)
    assert len(executor.jobs) == 2
    assert result.comparisons[0].differences == [0.0, 0.0]


def test_the_result_survives_json():
    result = compare(Tiny(), arms(Twice()), seeds=2, executor="serial", question="?", command="assay compare ...")
    again = TrialResult.from_json(json.loads(json.dumps(result.to_json())))
    assert again.to_json() == result.to_json()
    assert 0 < result.training_seconds < result.seconds


def test_a_result_from_when_tuning_had_one_seed_is_read():
    result = compare(Tiny(), arms(Twice()), seeds=1, tune={"lr": [0.1]}, executor="serial").to_json()
    for arm in result["arms"]:
        if arm["tuned"]:
            arm["tuned"]["seed"] = arm["tuned"].pop("seeds")[0]
    before = json.dumps(result)
    assert TrialResult.from_json(result).arms[0].tuned["seeds"] == [1000003]
    assert json.dumps(result) == before, "what was read is left as it was"


class Untested(Tiny):
    """A task with no test split."""

    name = "untested"

    def splits(self, seed):
        return Splits(super().splits(seed).train, super().splits(seed).valid)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"arms": arms()}, "at least two arms, got 1"),
        ({"arms": [*arms(), *arms()]}, "different names, got base, base"),
        ({"arms": [arms()[0], replace(arms(Scale())[1], against="bse")]}, "unknown arm 'bse'; did you mean 'base'"),
        ({"arms": [arms()[0], replace(arms(Scale())[1], against="scale")]}, "cannot be compared with 'scale'"),
        ({"arms": [arms()[0], replace(arms(Scale())[1], budget="3 fortnights")]}, "cannot read budget '3 fortnights'"),
        ({"seeds": 0}, "seeds must be a count from 1 up"),
        ({"seeds": [1, 2, 1]}, "seeds must be .* got \\[1, 2, 1\\]"),
        ({"metric": "acuracy"}, "unknown metric of tiny 'acuracy'; did you mean 'accuracy'"),
        ({"vary": ["weather"]}, "cannot vary weather"),
        ({"budget": "0steps"}, "budget must be positive"),
        ({"smallest_effect": -1.0}, "smallest_effect must be at least 0"),
        ({"confidence": 95.0}, "confidence must lie between 0 and 1, such as 0.95, got 95"),
        ({"executor": "poll"}, "unknown executor 'poll'; did you mean 'pool'"),
        ({"workers": 0}, "workers must be at least 1"),
        ({"tune": {"lr": [1.0]}, "tune_trials": 0}, "tune_trials must be at least 1"),
        ({"tune": {"lrr": [1.0]}}, "unknown setting to tune 'lrr'; did you mean 'lr'"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_runs(change, says):
    executor = Counting()
    options = {"task": Tiny(), "arms": arms(Scale()), "executor": executor} | change
    if "workers" in change:
        options["executor"] = "pool"
    with pytest.raises(AssayError, match=says):
        compare(**options)
    assert executor.jobs == []


def test_a_method_that_cannot_treat_the_task_is_refused_before_anything_runs():
    class Picky(Scale):
        requires = frozenset({"images"})

    with pytest.raises(CannotTreat, match="needs images"):
        compare(Tiny(), [*arms(), Arm("picky", Tiny().recipe.with_methods([Picky()]))], executor=Counting())


def test_a_task_without_the_figure_on_its_test_split_is_told_of_after_one_run():
    executor, events = SerialExecutor(), []
    with pytest.raises(AssayError, match="'untested' gave no 'accuracy' on its test split"):
        compare(Untested(), arms(Scale()), executor=executor, on_progress=events.append)
    assert len({event.key for event in events}) == 1


def test_the_budget_may_be_an_object_and_is_the_tasks_by_default():
    assert compare(Tiny(), arms(Scale()), seeds=1, executor="serial").budget == "30steps"
    result = compare(Tiny(), arms(Scale()), seeds=1, budget=Budget(2.0, "epochs"), executor="serial")
    assert (result.budget, result.arms[0].runs[0].steps) == ("2epochs", 24)


def test_importing_the_trials_imports_nothing_heavy():
    code = "import sys, assay.trials.worker; print({'torch', 'sqlalchemy', 'optuna'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
