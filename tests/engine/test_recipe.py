import itertools
import math
import warnings
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, lr_scheduler
from workloads import Blobs, Ones

from assay.engine import Method, Recipe, Run
from assay.engine.recipe import make_optimizer, make_schedule
from assay.errors import AssayError, UnknownName


def rates(recipe: Recipe, total: int) -> list[float]:
    """The rate that each of `total` steps uses, and the one after the last."""
    optimizer = make_optimizer(recipe, [nn.Parameter(torch.zeros(1))])
    schedule = make_schedule(recipe, optimizer, total)
    found = []
    for _ in range(total + 1):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if schedule is not None:
            schedule.step()
    return found


def test_strings_are_read_as_the_fields_type():
    recipe = Recipe().with_settings({"lr": "0.5", "batch_size": "1e3", "optimizer": "adam", "warmup": 0})
    assert (recipe.lr, recipe.batch_size, recipe.optimizer, recipe.warmup) == (0.5, 1000, "adam", 0.0)
    assert type(recipe.batch_size) is int
    assert type(recipe.warmup) is float


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"learning_rate": 1}, "unknown setting 'learning_rate'"),
        ({"momentun": 1}, "did you mean 'momentum'"),
        ({"methods": ()}, "unknown setting 'methods'"),
        ({"lr": "fast"}, "lr must be a number, got 'fast'"),
        ({"lr": None}, "lr must be a number"),
        ({"lr": "nan"}, "lr must be positive and finite"),
        ({"lr": 0}, "lr must be positive"),
        ({"batch_size": "3.5"}, "batch_size must be a whole number, got '3.5'"),
        ({"batch_size": "inf"}, "batch_size must be a whole number"),
        ({"batch_size": -1}, "batch_size must be positive"),
        ({"weight_decay": -1e-4}, "weight_decay must be finite and not negative"),
        ({"momentum": 1}, r"momentum must lie in \[0, 1\)"),
        ({"warmup": "1"}, r"warmup must lie in \[0, 1\)"),
        ({"optimizer": "adamm"}, "unknown optimizer 'adamm'; did you mean 'adam"),
        ({"schedule": "cosin"}, "did you mean 'cosine'"),
        ({"precision": "bf16"}, "did you mean 'bf16-mixed'"),
    ],
)
def test_a_bad_setting_is_refused_by_name(settings, says):
    with pytest.raises(AssayError, match=says):
        Recipe().with_settings(settings)


def test_a_fraction_of_a_sample_is_refused_in_the_constructor_too():
    with pytest.raises(AssayError, match=r"batch_size must be a whole number, got 2\.5"):
        Recipe(batch_size=2.5)


def test_an_unknown_name_lists_what_is_known_when_nothing_is_near():
    with pytest.raises(UnknownName, match="known: adam, adamw, sgd"):
        Recipe(optimizer="zzz")


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        (Recipe(optimizer="sgd", lr=0.3, momentum=0.8, weight_decay=0.01), SGD),
        (Recipe(optimizer="adam", lr=0.03, momentum=0.8, beta2=0.9, weight_decay=0.01), Adam),
        (Recipe(optimizer="adamw", lr=0.03, momentum=0.8, beta2=0.9, weight_decay=0.01), AdamW),
    ],
)
def test_optimizers_are_torchs_own_with_every_setting_passed_on(recipe, expected):
    theirs = {"lr": recipe.lr, "weight_decay": recipe.weight_decay}
    theirs |= {"momentum": 0.8} if expected is SGD else {"betas": (0.8, 0.9)}
    ends = []
    for make in (lambda ps: make_optimizer(recipe, ps), lambda ps: expected(ps, **theirs)):
        p = nn.Parameter(torch.linspace(-1, 1, 5))
        optimizer = make([p])
        for _ in range(3):
            optimizer.zero_grad()
            p.pow(4).sum().backward()
            optimizer.step()
        assert type(optimizer) is expected
        ends.append(p.detach())
    assert torch.equal(*ends)


def test_a_constant_rate_has_no_schedule():
    assert make_schedule(Recipe(), SGD([nn.Parameter(torch.zeros(1))], lr=0.1), 10) is None


def test_cosine_follows_its_closed_form_to_exactly_zero():
    found = rates(Recipe(schedule="cosine", lr=0.4), 20)
    assert found[:-1] == pytest.approx([0.2 * (1 + math.cos(math.pi * t / 20)) for t in range(20)], rel=1e-12)
    assert found[-1] == 0.0


def test_cosine_is_torchs_cosine():
    optimizer = SGD([nn.Parameter(torch.zeros(1))], lr=0.4)
    theirs = lr_scheduler.CosineAnnealingLR(optimizer, T_max=20)
    for rate in rates(Recipe(schedule="cosine", lr=0.4), 20):
        assert rate == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9, abs=1e-15)
        optimizer.step()
        theirs.step()


def test_linear_falls_evenly_to_exactly_zero():
    assert rates(Recipe(schedule="linear", lr=1.0), 4) == [1.0, 0.75, 0.5, 0.25, 0.0]


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_warm_up_rises_evenly_from_above_zero_to_the_peak_and_then_the_schedule_has_the_rest(schedule):
    found = rates(Recipe(schedule=schedule, lr=1.0, warmup=0.25), 16)
    assert found[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert found[4:] == pytest.approx(rates(Recipe(schedule=schedule, lr=1.0), 12))


def test_onecycle_is_torchs_and_leaves_the_momentum_alone():
    recipe = Recipe(schedule="onecycle", lr=0.4, momentum=0.77, warmup=0.2)
    optimizer = make_optimizer(recipe, [nn.Parameter(torch.zeros(1))])

    def between(a, b, share):
        return b + (a - b) / 2 * (1 + math.cos(math.pi * share))

    top, start, end = 0.2 * 51 - 1, 0.4 / 25, 0.4 / 25 / 1e4
    formula = [
        between(start, 0.4, t / top) if t <= top else between(0.4, end, (t - top) / (50 - top)) for t in range(51)
    ]
    assert rates(recipe, 50) == pytest.approx(formula)
    make_schedule(recipe, optimizer, 50)
    assert optimizer.param_groups[0]["momentum"] == 0.77


@pytest.mark.parametrize("schedule", ["linear", "cosine", "onecycle"])
def test_groups_of_different_rates_keep_their_ratio(schedule):
    groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (0.1, 0.01)]
    optimizer = SGD(groups, lr=1.0)
    plan = make_schedule(Recipe(schedule=schedule), optimizer, 10)
    for _ in range(9):
        large, small = (group["lr"] for group in optimizer.param_groups)
        assert large == pytest.approx(10 * small)
        optimizer.step()
        plan.step()


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine", "onecycle"])
@pytest.mark.parametrize("warmup", [0.0, 0.4])
def test_no_length_is_too_short_for_a_schedule(schedule, warmup):
    for total in (1, 2, 3):
        assert all(0 <= rate <= 0.1 for rate in rates(Recipe(schedule=schedule, warmup=warmup), total))


@pytest.mark.parametrize(
    "budget", ["20steps", "2epochs", "320samples", "flops"], ids=["steps", "epochs", "samples", "flops"]
)
def test_the_schedule_follows_the_budget_in_whatever_currency(budget):
    seen = []

    class Note(Method):
        name = "note"

        def updated(self, run):
            seen.append(run.optimizer.param_groups[0]["lr"])

    recipe = Recipe(schedule="cosine", lr=0.4, batch_size=16).with_methods([Note()])
    if budget == "flops":
        budget = f"{20 * Run(Blobs(), budget='1step', evaluations=0).train().flops:.0f}flops"
    run = Run(Blobs(), recipe, budget=budget)
    assert run.train().steps == 20
    assert seen == pytest.approx([0.2 * (1 + math.cos(math.pi * t / 20)) for t in range(20)], abs=0.4 * math.pi / 1000)
    assert run.optimizer.param_groups[0]["lr"] == 0.0


def test_under_a_seconds_budget_the_rate_is_a_function_of_the_time_spent(monkeypatch):
    seen = []

    class Note(Method):
        name = "note"

        def gradients(self, run):
            seen.append((run.progress, run.optimizer.param_groups[0]["lr"]))

    ticks = itertools.count()
    monkeypatch.setattr("assay.engine.run.time", SimpleNamespace(perf_counter=lambda: next(ticks) / 1000))
    recipe = Recipe(schedule="linear", lr=0.01, batch_size=4).with_methods([Note()])
    run = Run(Ones(), recipe, budget="0.5s")
    record = run.train()
    assert 0.5 <= record.seconds < 0.51
    assert len(seen) > 100
    assert all(rate / 0.01 == pytest.approx(1 - progress, abs=0.003) for progress, rate in seen)
    assert run.optimizer.param_groups[0]["lr"] == 0.0


def test_schedules_of_torch_warn_of_nothing():
    def skips_its_first_update(run, batch):
        loss = run.objective(batch)
        if run.steps:
            run.backward(loss)
            run.update()
        return loss

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for schedule in ("linear", "cosine", "onecycle"):
            for step in (None, skips_its_first_update):
                Run(Ones(step), Recipe(schedule=schedule, warmup=0.3, batch_size=4), budget="5steps").train()


def test_a_description_is_what_the_recipe_is_made_of():
    recipe = Recipe(lr=0.2).with_methods([Method()])
    assert recipe.describe()["lr"] == 0.2
    assert recipe.describe()["methods"] == [{"name": ""}]
    assert recipe.with_settings({}).describe() == recipe.describe()
