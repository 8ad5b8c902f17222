import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import MultiStepLR

from assay.optim.step_schedule import warmup_milestones


def optimizer(lr=0.1):
    return SGD([nn.Parameter(torch.ones(1))], lr)


def rates(made, steps):
    found = []
    for _ in range(steps):
        found.append(made.optimizer.param_groups[0]["lr"])
        made.optimizer.step()
        made.step()
    return found


def test_reference_rates_of_160_epochs(vectors):
    schedule = warmup_milestones(optimizer(1.0), [80 * 391, 120 * 391])
    for iteration, lr in np.load(vectors / "bn-only.npz", allow_pickle=False)["lr160"]:
        assert 0.1 * schedule.lr_lambdas[0](int(iteration)) == pytest.approx(lr, rel=1e-12)


def test_without_warm_up_it_is_torchs_own():
    wanted = rates(MultiStepLR(optimizer(), [3, 5, 5], 0.5), 8)
    assert rates(warmup_milestones(optimizer(), [3, 5, 5], 0.5), 8) == pytest.approx(wanted)


def test_warm_up_starts_from_zero_and_multiplies_the_drops():
    found = rates(warmup_milestones(optimizer(1.0), [2, 6], 0.1, 4), 8)
    assert found == pytest.approx([0, 0.25, 0.05, 0.075, 0.1, 0.1, 0.01, 0.01])


@pytest.mark.parametrize(
    ("given", "name"), [(([-1],), "milestones"), (([1], 0.0), "factor"), (([1], 0.1, -1), "warmup_steps")]
)
def test_numbers_out_of_range_are_refused(given, name):
    with pytest.raises(ValueError, match=f"{name} must"):
        warmup_milestones(optimizer(), *given)
