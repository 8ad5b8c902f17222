import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from assay.engine import Method, Recipe, Run, Splits, Task, TensorExamples
from assay.errors import CannotTreat
from assay.methods.cosine import Cosine


class Line(Task):
    name = "line"

    def splits(self, seed):
        x = torch.randn(40, 2, generator=torch.Generator().manual_seed(seed))
        return Splits(TensorExamples(x, x.sum(1, keepdim=True)))

    def model(self):
        return nn.Linear(2, 1)

    def loss(self, outputs, targets, reduction="mean"):
        return F.mse_loss(outputs, targets, reduction=reduction)


class Rates(Method):
    """Notes the learning rate of every step."""

    name = "rates"
    seen: list[float] = []  # noqa: RUF012 - shared by the copies that runs make

    def updated(self, run):
        self.seen.append(run.optimizer.param_groups[0]["lr"])


@pytest.fixture
def rates():
    Rates.seen.clear()
    return Rates()


def test_rate_follows_half_a_cosine_over_the_budget(rates):
    Run(Line(), Recipe(lr=0.2, methods=(Cosine(), rates)), budget="20steps").train()
    assert rates.seen == pytest.approx([0.1 * (1 + math.cos(math.pi * t / 20)) for t in range(20)])


def test_warm_up_of_the_recipe_is_kept(rates):
    Run(Line(), Recipe(lr=0.2, warmup=0.25, methods=(Cosine(), rates)), budget="20steps").train()
    assert rates.seen[0] < rates.seen[2] < rates.seen[4] < rates.seen[5] == pytest.approx(0.2)
    assert rates.seen[5:] == pytest.approx([0.1 * (1 + math.cos(math.pi * t / 15)) for t in range(15)])


def test_a_schedule_that_is_cosine_already_is_refused():
    with pytest.raises(CannotTreat, match="its schedule is cosine already"):
        Run(Line(), Recipe(schedule="cosine", methods=(Cosine(),)))
