"""The largest rates that train, by rows written out, and the task that looks for them."""

import math

import numpy as np
import pytest
import torch

from assay.engine import Recipe, Run
from assay.errors import AssayError
from assay.methods.batch_scaling import BatchScaling
from assay.tasks import load
from assay.tasks.stable_rates import SIZES, StableRates, last_below

NAN = math.nan


@pytest.mark.parametrize(
    ("losses", "want"),
    [
        ([2.4, 2.2, 1.0, 2.0, 2.5, NAN], (3.5, True)),
        ([2.4, 1.0, 2.5, 2.0, NAN, NAN], (1.5, True)),  # the first failure counts, not a lucky rate beyond it
        ([2.4, 2.2, 1.0], (2.0, False)),
        ([2.4, NAN, math.inf], (0.0, False)),
        ([1.0, 2.4, 2.4], (0.5, True)),
    ],
)
def test_the_edge_is_halfway_from_the_last_that_trains_to_the_first_that_does_not(losses, want):
    assert last_below(np.array(losses), math.log(10)) == want


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_the_misfit_is_what_is_left_of_the_slope(power):
    task = StableRates(octaves=5)
    losses = np.stack([np.where(task.multiples < 0.9 * (size / 16) ** power, 1.0, 3.0) for size in SIZES])
    assert task._slope(losses, math.log(10)) == (pytest.approx(power, abs=0.1), 0.0)


def run(recipe, budget="3steps", octaves=1):
    return Run(StableRates(octaves=octaves), recipe, budget=budget, vary=("init", "order", "split"), evaluations=0)


def test_every_network_has_its_share_of_the_batch_and_its_multiple_of_the_rate():
    made = run(StableRates.recipe.with_settings({"lr": 0.3}))
    made.build()
    before = {name: [p.clone() for p in n.parameters()] for name, n in made.model.named_children()}
    batch = made.stream.next()
    made.task.step(made, batch)
    for name, network in made.model.named_children():
        size, k = (int(part) for part in name.split("/"))
        alone = made.task.model()["2/0"]
        alone.load_state_dict(dict(zip(alone.state_dict(), before[name], strict=True)))
        loss = made.task.loss(alone(batch.x[:size]), batch.y[:size])
        gradients = torch.autograd.grad(loss, list(alone.parameters()))
        for was, now, g in zip(before[name], network.parameters(), gradients, strict=True):
            torch.testing.assert_close(now, was - 0.3 * 2 ** ((k - 2) / 2) * g)
    assert all(torch.equal(a, b) for a, b in zip(before["2/0"], before["128/4"], strict=True))


@pytest.mark.parametrize(("rule", "power"), [("linear", 1.0), ("sqrt", 0.5)])
def test_a_rule_scales_each_batch_size_by_itself(rule, power):
    made = run(StableRates.recipe.with_methods([BatchScaling(rule, base_batch=8)]))
    made.build()
    for group in made.optimizer.param_groups:
        assert group["lr"] == pytest.approx((group["batch_size"] / 8) ** power)


def test_networks_that_diverge_are_no_diverged_run():
    record = run(Recipe(lr=1e30, momentum=0.9, batch_size=128), budget="5steps").train()
    assert record.status == "finished"
    assert record.metrics["test"]["censored"] == 1.0


def test_what_cannot_be_is_refused():
    assert load("stable-rates:octaves=2").octaves == 2
    with pytest.raises(AssayError, match="octaves must be at least 1, got 0"):
        load("stable-rates:octaves=0")
    for wrong in ({"batch_size": 64}, {"schedule": "cosine"}):
        with pytest.raises(AssayError, match="needs batch_size of at least 128 and schedule=constant"):
            run(StableRates.recipe.with_settings(wrong)).train()
