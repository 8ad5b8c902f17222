"""AGVM in a run is AGVM in a loop; constant rates by module; and what neither can treat."""

import pytest
import torch
from torch import nn

from assay.engine import Method, Recipe, Run, Task
from assay.engine.devices import part
from assay.errors import AssayError, CannotTreat, Interrupted
from assay.methods.agvm import AGVM, ModuleRates
from assay.methods.cutmix import CutMix
from assay.methods.ghost_batch_norm import GhostBatchNorm
from assay.methods.lamb import LAMB
from assay.optim import AGVM as Modulator
from assay.optim.agvm import module_param_groups
from assay.tasks import load

TASK = "segmentation:train_size=64,side=16,width=4"
RECIPE = Recipe(lr=0.2, batch_size=15, precision="64-true", weight_decay=1e-3)


def a_run(methods, recipe=RECIPE, budget="7steps", task=TASK, **options):
    return Run(load(task), recipe.with_methods(methods), 1, budget, evaluations=1, test=False, **options)


def trained(*given, **options):
    run = a_run(*given, **options)
    return run, run.train()


def rates(run):
    return {group.get("module"): group["lr"] for group in run.optimizer.param_groups}


@pytest.mark.parametrize("settings", [{}, {"optimizer": "adamw", "lr": 0.01}, {"batch_size": 4}])
def test_a_run_is_the_loop_of_the_toolbox(settings):
    recipe = RECIPE.with_settings(settings)
    run, record = trained([AGVM(alpha=0.5, interval=3)], recipe)
    by_hand = a_run([], recipe)
    by_hand.build()
    model = by_hand.model.double()
    made = by_hand.make_optimizer(module_param_groups(model))
    agvm = Modulator(made, alpha=0.5, interval=3)
    for _ in range(7):
        batch = by_hand.stream.next()
        whole = len(batch.ids)
        for rows in [part(whole, half, 2) for half in (0, 1)] if agvm.due else [slice(None)]:
            x, y = batch.x[rows].double(), batch.y[rows]
            (by_hand.task.loss(model(x), y) * len(x) / whole).backward()
            agvm.split(len(x) / whole)
        agvm.measure()
        made.step()
        made.zero_grad()
    for p, q in zip(run.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-11)
    for module in ("backbone", "neck", "head"):
        assert record.extras[f"agvm/factor of {module}"] == pytest.approx(agvm.factors[module], rel=1e-8)
        assert record.extras[f"agvm/variance of {module}"] == pytest.approx(agvm.variances[module], rel=1e-8)
    assert agvm.factors["neck"] != 1


def test_before_its_start_the_run_is_the_plain_one():
    plain, _ = trained([])
    never, record = trained([AGVM(start=1.0)])
    for p, q in zip(plain.model.parameters(), never.model.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-12)  # sums over parameters go in another order
    assert record.extras["agvm/factor of head"] == 1
    late, _ = trained([AGVM(start=0.5, alpha=0.0, interval=2)])
    assert late.methods[0]._agvm.start_step == 4, "the first step after half of seven"


def test_it_costs_no_more_flops_than_the_plain_run():
    assert trained([AGVM()])[1].flops == trained([])[1].flops


def test_schedules_go_their_way():
    recipe = RECIPE.with_settings({"schedule": "cosine", "warmup": 0.3})
    run, _ = trained([AGVM(alpha=0.0, interval=1)], recipe)
    plain, _ = trained([], recipe)
    assert set(rates(run).values()) == set(rates(plain).values())


def test_a_stopped_run_goes_on_to_the_same_bits(tmp_path):
    methods = [AGVM(alpha=0.5, interval=3, start=0.1)]
    whole, _ = trained(methods, budget="9steps")
    first = a_run(methods, budget="9steps", folder=tmp_path, checkpoint_every=0.0)
    first.watch = lambda run: run.stop() if run.steps == 0 else None
    with pytest.raises(Interrupted):
        first.train()
    second, _ = trained(methods, budget="9steps", folder=tmp_path)
    assert second.methods[0].state_dict() == whole.methods[0].state_dict()
    for p, q in zip(whole.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(p, q)


def test_modules_may_be_named_and_the_first_is_the_anchor():
    run, record = trained([AGVM(modules="neck+backbone+head.1", alpha=0.0, interval=1)])
    assert list(rates(run)) == ["neck", "backbone", "head.1"]
    assert record.extras["agvm/factor of neck"] == 1
    assert len(run.optimizer.param_groups[0]["params"]) > len(list(run.model.neck.parameters())), "the rest of the head"


def test_optimizers_of_other_methods_are_modulated_if_they_come_before():
    run, record = trained([LAMB(lr=0.01), AGVM(interval=1)])
    assert type(run.optimizer).__name__ == "LAMB"
    assert len(run.optimizer.param_groups) == 7, "matrices, vectors and norms, where a module has them"
    assert record.extras["agvm/factor of head"] != 1
    run, _ = trained([GhostBatchNorm(5), AGVM(interval=2)])
    assert rates(run)["neck"] == pytest.approx(0.2 * 3**0.5)
    with pytest.raises(CannotTreat, match="'agvm' must come after the one that puts another optimizer in place"):
        trained([AGVM(), LAMB()])


def test_mixed_batches_are_divided_with_their_targets():
    run, record = trained([CutMix(), AGVM(interval=1)], task="digits", recipe=RECIPE.with_settings({"batch_size": 16}))
    assert record.status == "finished"
    assert list(rates(run)) == ["features", "readout"]


def test_constant_rates_are_those_of_a_plain_optimizer_with_these_groups():
    run, _ = trained([ModuleRates((1.0, 0.5, 2.0))])
    assert rates(run) == {"backbone": 0.2, "neck": 0.1, "head": 0.4}
    one, _ = trained([ModuleRates((1.0, 1.0, 1.0))])
    plain, _ = trained([])
    for p, q in zip(one.model.parameters(), plain.model.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-12)
    with pytest.raises(CannotTreat, match="factors must be 3, one for each of backbone, neck, head"):
        a_run([ModuleRates((1.0, 2.0))]).build()
    with pytest.raises(AssayError, match="factors must be positive"):
        ModuleRates((1.0, 0.0))


class OwnStep(Method):
    name = "own-step"

    def step(self, run, batch, proceed):
        return proceed(batch)


class Steps(Task):
    name = "steps"

    def step(self, run, batch):
        return super().step(run, batch)


class Whole(Task):
    name = "whole"

    def objective(self, run, batch):
        return super().objective(run, batch)


@pytest.mark.parametrize(
    ("task", "methods", "settings", "says"),
    [
        (Steps(), [AGVM()], {}, "'agvm' cannot treat task 'steps': it divides batches"),
        (Whole(), [AGVM()], {}, "'agvm' cannot treat task 'whole': .* say divisible = True"),
        (load(TASK), [AGVM()], {"batch_size": 1}, "needs batch_size 2 or more, got 1"),
        (load(TASK), [AGVM()], {"precision": "16-mixed"}, "give bf16-mixed"),
        (load(TASK), [AGVM(), OwnStep()], {}, "cannot be combined with 'own-step'"),
    ],
)
def test_what_cannot_be_divided_is_refused(task, methods, settings, says):
    recipe = RECIPE.with_settings(settings).with_methods(methods)
    with pytest.raises(CannotTreat, match=says):
        AGVM().check(task, recipe)


def test_a_network_of_one_module_is_refused():
    class Single(type(load("digits"))):
        def model(self):
            return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

    with pytest.raises(CannotTreat, match=r"modules must be two or more, got \['1'\]"):
        Run(Single(), RECIPE.with_methods([AGVM()]), 0, "1steps").build()
    with pytest.raises(CannotTreat, match="modules must hold parameters that are trained, 'tail' has none"):
        a_run([AGVM(modules="backbone+tail")]).build()


def test_parts_of_devices_are_halves_only_if_they_are_equal():
    with pytest.raises(CannotTreat, match="must be a multiple of 2"):
        a_run([AGVM()], devices=2)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"alpha": 1.5}, r"alpha must lie in \[0, 1\], got 1.5"),
        ({"start": -1.0}, r"start must lie in \[0, 1\], got -1"),
        ({"interval": 0}, "interval must be at least 1, got 0"),
    ],
)
def test_settings_out_of_range_are_refused(options, says):
    with pytest.raises(AssayError, match=says):
        AGVM(**options)
