"""LAMB's rates by batch size, and warm-up with polynomial decay."""

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import SequentialLR

from assay.optim import LAMB, untuned_lamb, warmup_polynomial


def rates(scheduler, steps):
    found = []
    for _ in range(steps):
        found.append(scheduler.optimizer.param_groups[0]["lr"])
        scheduler.optimizer.step()
        scheduler.step()
    return found


def optimizer(lr=1.0):
    return LAMB([nn.Parameter(torch.ones(1))], lr)


@pytest.mark.parametrize("k", range(7))
def test_the_papers_tables(k):
    batch = 32768 // 2**k
    bert, resnet = untuned_lamb(batch), untuned_lamb(batch, "resnet50")
    assert bert.lr == pytest.approx(5 / (2 ** (k / 2) * 1000))
    assert resnet.lr == pytest.approx(4 / (2 ** (k / 2) * 100))
    assert bert.warmup == pytest.approx(2 ** (6 - k) / 320)
    assert resnet.warmup * 90 == pytest.approx(0.3125 * 2 ** (6 - k))


def test_batches_and_references_out_of_range_are_refused():
    with pytest.raises(ValueError, match="batch_size must lie between 0 and 163840 for 'bert', got 200000"):
        untuned_lamb(200_000)
    with pytest.raises(ValueError, match="got 0"):
        untuned_lamb(0)
    with pytest.raises(ValueError, match="reference must be one of bert, resnet50, got 'gpt'"):
        untuned_lamb(512, "gpt")


def test_rises_linearly_then_follows_the_line_from_the_first_step():
    assert rates(warmup_polynomial(optimizer(2.0), 10, 4), 12) == pytest.approx(
        [0.5, 1.0, 1.5, 2.0, 1.2, 1.0, 0.8, 0.6, 0.4, 0.2, 0.0, 0.0]
    )


def test_power_bends_the_decay():
    assert rates(warmup_polynomial(optimizer(), 4, power=2.0), 4) == pytest.approx([1.0, 0.5625, 0.25, 0.0625])


def test_a_second_phase_warms_up_anew():
    shared = optimizer()
    phases = [warmup_polynomial(shared, 6, 2), warmup_polynomial(shared, 4, 2)]
    both = SequentialLR(shared, phases, milestones=[3])
    assert rates(both, 7) == pytest.approx([0.5, 1.0, 4 / 6, 0.5, 1.0, 0.5, 0.25])


def test_goes_on_from_a_saved_state():
    straight, resumed = warmup_polynomial(optimizer(), 10, 4), warmup_polynomial(optimizer(), 10, 4)
    rates(straight, 6)
    resumed.optimizer.load_state_dict(straight.optimizer.state_dict())
    resumed.load_state_dict(straight.state_dict())
    assert rates(resumed, 4) == rates(straight, 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0,), "total_steps must be positive"),
        ((5, 6), r"warmup_steps must lie in \[0, 5\]"),
        ((5, 1, 0.0), "power must"),
    ],
)
def test_numbers_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        warmup_polynomial(optimizer(), *arguments)
