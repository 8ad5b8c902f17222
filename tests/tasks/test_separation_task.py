"""The task counts the iterations that the rules take outside the engine, and goes on after an interruption."""

import math

import numpy as np
import pytest
import torch

from assay.engine import Method, Run
from assay.errors import AssayError, CannotTreat, Interrupted, UnknownName
from assay.methods.label_smoothing import LabelSmoothing
from assay.methods.normalized_gd import NormalizedGD
from assay.optim.separation import separate
from assay.tasks import load

RULES = {"logistic": [], "normalized-logistic": [NormalizedGD()]}


def run_of(spec, methods=(), budget="100steps", lr=10.0, seed=0, **changes):
    task = load(spec)
    recipe = task.recipe.with_settings({"lr": lr}).with_methods(methods)
    return Run(task, recipe, seed, budget, vary=("init", "order", "split"), evaluations=2, **changes)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    "spec", ["separation:data=hard,delta=1.0", "separation:data=digits,first=4,second=9,samples=150"]
)
def test_a_run_takes_the_iterations_of_its_rule(rule, spec):
    run = run_of(spec, RULES[rule], seed=3)
    record = run.train()
    x, y = run.splits.train.batch(torch.arange(len(run.splits.train)))
    found = separate(x.double(), y, rule, 10.0)
    assert 1 < found.iterations.item() < 100
    for part in ("valid", "test"):
        assert record.metrics[part]["log2_iterations"] == math.log2(found.iterations.item())
        assert record.metrics[part]["separated"] == 1.0
    assert record.extras["separated_at"] == found.iterations.item()
    assert record.extras["loss_at_separation"] == pytest.approx(found.loss.item(), rel=1e-6)
    assert record.extras["peak_loss"] == pytest.approx(found.peak_loss.item(), rel=1e-6)


def test_what_is_not_separated_in_time_counts_as_the_whole_budget():
    record = run_of("separation:data=hard", budget="20steps", lr=1.0).train()
    assert record.metrics["test"] == {"log2_iterations": math.log2(20), "separated": 0.0}
    assert "separated_at" not in record.extras


def test_the_last_update_may_be_the_one_that_separates():
    spec = "separation:data=digits,first=4,second=9,samples=150"
    took = separate(*(part.double() if part.is_floating_point() else part for part in all_of(spec)), "logistic", 10.0)
    record = run_of(spec, budget=f"{took.iterations.item()}steps").train()
    assert record.metrics["test"]["separated"] == 1.0
    assert record.metrics["test"]["log2_iterations"] == math.log2(took.iterations.item())


def all_of(spec):
    run = run_of(spec)
    run.build()
    return run.splits.train.batch(torch.arange(len(run.splits.train)))


def test_all_digits_of_a_pair_are_there_with_a_constant_feature():
    x, y = all_of("separation:data=digits,first=1,second=8")
    assert x.shape == (356, 65)
    assert y.sum() == 174
    assert (x[:, -1] == 1).all()
    assert np.allclose(x.numpy() * 16, np.rint(x.numpy() * 16), atol=0)
    assert separate(x.double(), y, "perceptron").iterations.item() == 296


def test_seeds_draw_the_images_and_those_left_are_tested():
    runs = [run_of("separation:data=digits,samples=100", seed=seed) for seed in (0, 1)]
    for run in runs:
        run.build()
        assert (len(run.splits.train), len(run.splits.test)) == (100, 256)
        together = torch.cat([run.splits.train.x, run.splits.test.x])
        assert len(together.unique(dim=0)) == len(all_of("separation:data=digits")[0].unique(dim=0))
    assert not torch.equal(runs[0].splits.train.x, runs[1].splits.train.x)


def test_clothes_train_and_the_public_ones_test(data_dir):
    task = load("separation:first=5,second=7,samples=60", data_dir=data_dir)
    splits = task.splits(1)
    assert (splits.train.x.shape, splits.test.x.shape) == ((60, 785), (2000, 785))
    assert 0 <= splits.train.x.min() < splits.train.x.max() <= 1
    assert splits.train.y.sum() == 30


def test_interrupted_a_run_goes_on_to_the_same_iterations(tmp_path):
    def make(watch=None):
        return run_of("separation:data=hard", budget="400steps", folder=tmp_path, watch=watch)

    with pytest.raises(Interrupted):
        make(lambda run: run.stop() if run.steps >= 270 else None).train()
    record = make().train()
    assert record.extras["separated_at"] == 260
    assert record.steps == 400


def test_part_of_the_data_at_a_time_is_refused():
    task = load("separation:data=hard")
    with pytest.raises(AssayError, match="the whole training set at once: leave batch_size at"):
        Run(task, task.recipe.with_settings({"batch_size": 10}), budget="2steps").train()


def test_the_method_trains_networks_too():
    task = load("digits:model=mlp")
    plain, treated = (
        Run(task, task.recipe.with_settings({"lr": 0.02}).with_methods(methods), budget="60steps").train()
        for methods in ([], [NormalizedGD()])
    )
    assert treated.metrics["test"]["accuracy"] > 0.8
    assert treated.flops == plain.flops


class SoftTargets(Method):
    name = "soft-targets"

    def batch(self, run, batch):
        return batch._replace(y=torch.nn.functional.one_hot(batch.y, 10).float())


def test_the_method_refuses_what_it_cannot_treat():
    for spec in ("bags", "text"):
        task = load(spec)
        with pytest.raises(CannotTreat, match="method 'normalized-gd' cannot treat task"):
            Run(task, task.recipe.with_methods([NormalizedGD()]))
    task = load("digits:model=mlp")
    with pytest.raises(CannotTreat, match="'normalized-gd' replaces the loss: name it before"):
        Run(task, task.recipe.with_methods([LabelSmoothing(), NormalizedGD()]), budget="1step").train()
    with pytest.raises(CannotTreat, match=r"'normalized-gd' cannot treat task 'digits': target must hold a class"):
        Run(task, task.recipe.with_methods([SoftTargets(), NormalizedGD()]), budget="1step").train()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("first=3,second=3", "different classes in 0..9, got 3 and 3"),
        ("second=10", "different classes in 0..9, got 1 and 10"),
        ("samples=1", "samples must be at least 2, got 1"),
        ("data=hard,delta=0.0", "delta must be positive and finite, got 0"),
    ],
)
def test_options_out_of_range_are_refused(spec, message):
    with pytest.raises(AssayError, match=message):
        load(f"separation:{spec}")


def test_too_many_samples_and_unknown_data_are_refused():
    with pytest.raises(AssayError, match="samples must be at most 356, the images of the two classes, got 400"):
        load("separation:data=digits,samples=400").splits(0)
    with pytest.raises((UnknownName, AssayError), match="data"):
        load("separation:data=cifar10")
