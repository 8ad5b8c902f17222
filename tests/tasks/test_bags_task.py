"""In training and validation a bag's mean response is all there is; the test is of single samples."""

import pytest
import torch

from assay.engine import Recipe, Run
from assay.errors import AssayError, CannotTreat, UnknownName
from assay.losses.aggregate import bag_loss, instance_loss
from assay.methods.aggregate_responses import AggregateResponses, InstanceLoss
from assay.tasks.bags import Bags
from assay.trials import Arm, compare


def test_bags_are_of_whole_samples_with_their_mean_response():
    task = Bags(bag_size=4)
    alone, bagged = Bags(bag_size=1).splits(3), task.splits(3)
    one_x, one_y = alone.train.batch(torch.arange(len(alone.train)))
    x, y = bagged.train.batch(torch.arange(len(bagged.train)))
    assert (x.shape, y.shape) == ((55, 4, 10), (55,))
    rows = (x[:, :, None] == one_x[:, 0][None, None]).all(-1)  # which sample each one is
    assert (rows.sum(2) == 1).all()
    assert rows.any(0).any(0).sum() == 220, "all of them, none twice"
    torch.testing.assert_close(y, one_y[rows.int().argmax(2)].mean(1))


def test_what_does_not_fill_a_bag_is_dropped_and_the_mean_is_of_what_is_there():
    x, y = (lambda s: s.batch(torch.arange(len(s))))(Bags(bag_size=30).splits(0).train)
    whole_x, whole_y = (lambda s: s.batch(torch.arange(len(s))))(Bags(bag_size=1).splits(0).train)
    assert len(x) == 220 // 30
    for bag, mean in zip(x, y, strict=True):
        rows = (bag[:, None] == whole_x[:, 0][None]).all(-1).int().argmax(1)
        torch.testing.assert_close(whole_y[rows].mean(), mean)


def test_the_test_is_of_the_same_single_samples_whatever_the_seed():
    parts = [Bags(bag_size=k).splits(seed) for k, seed in ((5, 0), (10, 1))]
    tests = [part.test.batch(torch.arange(len(part.test))) for part in parts]
    assert tests[0][0].shape == (142, 10)
    assert torch.equal(tests[0][0], tests[1][0])
    known = torch.cat(
        [part.batch(torch.arange(len(part)))[0].flatten(0, 1) for part in (parts[0].train, parts[0].valid)]
    )
    assert not (known[:, None] == tests[0][0][None]).all(-1).any()
    assert len(known) == 300


def test_private_aggregates_are_drawn_once_with_the_split():
    task, plain = Bags(bag_size=5, epsilon=1.0), Bags(bag_size=5)
    y = [t.splits(0).train.batch(torch.arange(44))[1] for t in (task, task, plain)]
    assert torch.equal(y[0], y[1])
    assert not torch.equal(y[0], y[2])
    assert (y[0] - y[2]).std().item() == pytest.approx(2**0.5 * 2 * 2.0 / (5 * 1.0), rel=0.6)
    with pytest.raises(AssayError, match="epsilon is for data=diabetes"):
        Bags(data="digits", epsilon=1.0)


@pytest.mark.parametrize("data", ["diabetes", "digits"])
def test_it_trains_on_bags_and_is_judged_on_samples(data):
    run = Run(Bags(data=data, bag_size=5), Recipe(optimizer="adamw", lr=0.01, batch_size=16), 0, "20epochs")
    record = run.train()
    assert record.status == "finished"
    metrics = record.metrics
    if data == "diabetes":
        assert metrics["test"]["mse"] < 0.9, "the mean alone has 1"
    else:
        assert metrics["test"]["accuracy"] > 0.6
        assert "accuracy" not in metrics["valid"], "single labels are not known there"


@pytest.mark.parametrize(("method", "wanted"), [(AggregateResponses(0.0), bag_loss), (InstanceLoss(), instance_loss)])
def test_the_method_changes_the_loss_and_nothing_else(method, wanted):
    task = Bags(bag_size=5)
    run = Run(task, task.recipe.with_methods([method]), 0, "1steps")
    run.train()
    outputs, y = torch.randn(7, 5, generator=torch.Generator().manual_seed(0)), torch.arange(7.0)
    torch.testing.assert_close(run.loss(outputs, y), wanted(outputs, y))
    assert run.loss(outputs, y, reduction="none").shape == (7,)
    torch.testing.assert_close(task.loss(outputs, y), bag_loss(outputs, y))


def test_a_trial_may_judge_digits_by_accuracy():
    task = Bags(data="digits", bag_size=10)
    arms = [Arm("bag", task.recipe), Arm("between", task.recipe.with_methods([AggregateResponses(0.1)]))]
    result = compare(task, arms, seeds=2, budget="5epochs", metric="accuracy", evaluations=1, executor="serial")
    assert 0 < result.arms[1].runs[0].metrics["test"]["accuracy"] <= 1


def test_other_tasks_are_refused_by_name():
    from assay.tasks import load

    with pytest.raises(CannotTreat, match="'aggregate-responses' cannot treat task 'digits': it needs bags"):
        Run(load("digits"), Recipe(methods=(AggregateResponses(),)), 0, "1steps")


@pytest.mark.parametrize("rho", [-0.1, 1.5, float("nan")])
def test_a_weight_outside_its_range_is_refused(rho):
    with pytest.raises(AssayError, match="rho must lie in"):
        AggregateResponses(rho)


@pytest.mark.parametrize(
    ("options", "kind", "says"),
    [
        ({"bag_size": 0}, AssayError, "bag_size must lie in 1..30, got 0"),
        ({"bag_size": 31}, AssayError, "got 31"),
        ({"epsilon": -1.0}, AssayError, "epsilon must be finite and not negative"),
    ],
)
def test_bad_options_are_refused(options, kind, says):
    with pytest.raises(kind, match=says):
        Bags(**options)


def test_unknown_data_is_told_from_the_command_line():
    from assay.tasks import load

    with pytest.raises((UnknownName, AssayError), match="boston"):
        load("bags:data=boston")
