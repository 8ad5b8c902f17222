import math

import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torch import nn

from assay.engine import Method, Recipe, Run, Splits, Task, TensorExamples
from assay.methods.weight_distance import WeightDistance
from assay.papers import parse_arm

EXTRAS = {f"weight_distance/{name}" for name in ("r2_log", "r2_sqrt", "r2_linear", "slope_log", "steps")}


class Bent(Task):
    name = "bent"
    recipe = Recipe(lr=0.05, batch_size=8)
    traits = frozenset({"classification"})

    def splits(self, seed):
        x = torch.randn(64, 3, generator=torch.Generator().manual_seed(seed))
        return Splits(TensorExamples(x, (x.prod(1) > 0).long()))

    def model(self):
        return nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 2))

    def loss(self, outputs, targets, reduction="mean"):
        return F.cross_entropy(outputs, targets, reduction=reduction)


class Weights(Method):
    """Notes all weights before the first step and after each."""

    name = "weights"
    seen: list[torch.Tensor] = []  # noqa: RUF012 - shared by the copies that runs make

    def setup(self, run):
        self.seen[:] = [self.now(run)]

    def updated(self, run):
        self.seen.append(self.now(run))

    @staticmethod
    def now(run):
        return torch.cat([p.detach().double().flatten() for p in run.model.parameters()])


def trained(*methods, budget="20steps", folder=None, **settings):
    recipe = Bent.recipe.with_settings(settings).with_methods(methods)
    run = Run(Bent(), recipe, budget=budget, folder=folder, checkpoint_every=0.0)
    return run, run.train()


def by_hand(steps):
    """R^2 of each law and the slope of the first, over the distances after the steps 1 ... `steps`."""
    t = range(1, steps + 1)
    distances = [(Weights.seen[i] - Weights.seen[0]).norm().item() for i in t]
    laws = {"log": math.log, "sqrt": math.sqrt, "linear": float}
    lines = {name: stats.linregress([law(i) for i in t], distances) for name, law in laws.items()}
    found = {f"weight_distance/r2_{name}": line.rvalue**2 for name, line in lines.items()}
    return found | {"weight_distance/slope_log": lines["log"].slope, "weight_distance/steps": steps}


def test_fits_are_those_of_scipy_to_the_weights_themselves():
    _, record = trained(Weights(), WeightDistance())
    assert record.extras == pytest.approx(by_hand(20), rel=1e-4)
    assert len({record.extras[f"weight_distance/r2_{law}"] for law in ("log", "sqrt", "linear")}) == 3


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        ({"schedule": "cosine"}, 11),  # of 21; the rate after 10 is 0.54 of the first, then 0.46
        ({"schedule": "linear"}, 11),  # 11 / 21 of it, then 10 / 21
        ({"schedule": "constant", "warmup": 0.5}, 21),  # a rising rate is not a low one
    ],
)
def test_only_the_steps_at_a_high_rate_count(settings, steps):
    _, record = trained(Weights(), WeightDistance(), budget="21steps", **settings)
    assert record.extras == pytest.approx(by_hand(steps), rel=1e-4)


def test_a_rate_that_rises_again_begins_no_second_phase():
    class Late(Method):
        name = "late"

        def setup(self, run):
            factors = [1.0] * 5 + [0.1] * 5 + [1.0] * 20
            run.make_schedule = lambda optimizer, total: torch.optim.lr_scheduler.LambdaLR(
                optimizer, factors.__getitem__
            )

    _, record = trained(Late(), WeightDistance())
    assert record.extras["weight_distance/steps"] == 5


def test_measuring_changes_no_bit_of_the_training():
    measured, record = trained(WeightDistance())
    plain, _ = trained()
    assert all(torch.equal(p, q) for p, q in zip(measured.model.parameters(), plain.model.parameters(), strict=True))
    assert record.extras.keys() == EXTRAS


def test_two_points_are_not_called_a_fit():
    assert trained(WeightDistance(), budget="2steps")[1].extras == {}
    assert trained(WeightDistance(), budget="3steps")[1].extras.keys() == EXTRAS


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_a_stopped_run_goes_on_to_the_same_figures(tmp_path, schedule):
    _, whole = trained(WeightDistance(), schedule=schedule)
    trained(WeightDistance(), schedule=schedule, folder=tmp_path)
    max(tmp_path.iterdir()).unlink()  # back to the checkpoint of the step before the last
    assert len(list(tmp_path.iterdir())) == 1
    _, resumed = trained(WeightDistance(), schedule=schedule, folder=tmp_path)
    assert resumed.extras == whole.extras


def test_it_stands_beside_ghost_batch_norm_in_an_arm():
    _, record = trained(*parse_arm("ghost-batchnorm:ghost_batch_size=4+weight-distance"))
    assert record.extras.keys() == EXTRAS
