"""The learner and the rules as methods of a run."""

import pytest
import torch

from assay.engine import Recipe, Run
from assay.errors import AssayError, CannotTreat, Interrupted, UnknownName
from assay.methods.batch_scaling import BatchScaling
from assay.methods.curvature_rate import CurvatureRate
from assay.optim.curvature_rate import optimal_heavy_ball
from assay.tasks import load
from assay.tasks.digits import Digits


def trained(method, budget="40steps", **given):
    task = Digits(model="mlp")
    recipe = task.recipe.with_settings(given).with_methods([method] if method else [])
    run = Run(task, recipe, budget=budget, evaluations=0)
    return run.train(), run


def test_rate_and_momentum_are_those_of_the_measured_spectrum_whatever_the_recipe_says():
    record, run = trained(CurvatureRate())
    (group,) = run.optimizer.param_groups
    found = record.extras
    assert set(found) == {"lr", "momentum", "largest", "smallest"}
    want = optimal_heavy_ball(found["largest"] + 5e-4, found["smallest"] + 5e-4)
    assert found["lr"] == group["lr"] == pytest.approx(0.1 * want.lr)
    assert found["momentum"] == group["momentum"] == pytest.approx(want.momentum)
    other, _ = trained(CurvatureRate(), lr=3.0, momentum=0.0, schedule="linear")
    assert other.extras == found
    assert other.metrics == record.metrics
    assert record.metrics["test"]["accuracy"] > 0.5


def test_measurements_cost_and_the_steps_between_do_not():
    plain, _ = trained(None)
    few, _ = trained(CurvatureRate(every=100, samples=64, steps=4))
    many, _ = trained(CurvatureRate(samples=64, steps=4))
    assert plain.flops < few.flops < many.flops
    # 40 steps are two epochs of 18 and a part: three measurements in all
    assert many.flops - plain.flops == pytest.approx(3 * (few.flops - plain.flops), rel=1e-6)


def test_mixed_precision_measures_at_full_precision():
    one, _ = trained(CurvatureRate(steps=4), budget="1steps")
    other, _ = trained(CurvatureRate(steps=4), budget="1steps", precision="bf16-mixed")
    assert other.extras == one.extras
    double, _ = trained(CurvatureRate(steps=4), budget="1steps", precision="64-true")
    assert double.extras["largest"] == pytest.approx(one.extras["largest"], rel=1e-3)


def test_an_interrupted_run_goes_on_to_the_same_bits(tmp_path):
    def run(watch=None):
        task = Digits(model="mlp")
        recipe = task.recipe.with_methods([CurvatureRate(steps=4, every=2)])
        return Run(task, recipe, budget="60steps", evaluations=0, folder=tmp_path if watch else None, watch=watch)

    whole = run().train()
    seen = []

    def stop(at):
        if at.steps and not seen:
            seen.append(at.steps)
            at.stop()

    with pytest.raises(Interrupted):
        run(stop).train()
    assert seen[0] > 0
    again = run(stop)
    assert again.train().metrics == whole.metrics
    assert again.extras == whole.extras


def test_a_rule_scales_the_rate_and_the_schedule_keeps_to_it():
    for rule, want in (("linear", 0.4), ("sqrt", 0.2)):
        _, run = trained(BatchScaling(rule, base_batch=16), budget="1steps", lr=0.1, batch_size=64, schedule="constant")
        assert run.optimizer.param_groups[0]["lr"] == pytest.approx(want)
    task = Digits(model="mlp")
    made = Run(task, task.recipe.with_methods([BatchScaling("sqrt", base_batch=16)]), budget="10steps")
    made.build()
    assert made.optimizer.param_groups[0]["initial_lr"] == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("task", "settings", "said"),
    [
        ("digits", {"optimizer": "adam"}, "sets the rate and the momentum of sgd, and the optimizer is adam"),
        ("contrastive:data=clusters", {}, "more than a loss of its network's outputs"),
    ],
)
def test_what_it_makes_no_sense_on_is_refused(task, settings, said):
    task = load(task)
    recipe = Recipe(**{"optimizer": "sgd"} | settings).with_methods([CurvatureRate()])
    with pytest.raises(CannotTreat, match=said):
        Run(task, recipe, budget="1steps")


def test_bad_settings_are_refused():
    for given in ({"every": 0}, {"samples": 0}, {"momentum_max": 1.0}, {"fraction": 2.0}):
        with pytest.raises(AssayError, match=next(iter(given))):
            CurvatureRate(**given)
    with pytest.raises(AssayError, match="base_batch must be positive"):
        BatchScaling(base_batch=0)
    if not hasattr(BatchScaling.__post_init__, "__wrapped__"):  # else the types are checked before
        with pytest.raises(UnknownName, match="did you mean 'linear'"):
            BatchScaling("lineer")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_on_cuda_it_learns_what_it_learns_on_the_cpu():
    task = Digits(model="mlp")
    recipe = task.recipe.with_methods([CurvatureRate(steps=4)])
    found = [Run(task, recipe, budget="1steps", accelerator=a).train().extras["largest"] for a in ("cpu", "cuda")]
    assert found[1] == pytest.approx(found[0], rel=1e-2)
