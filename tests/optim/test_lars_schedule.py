import pytest
import torch
from torch import nn

from assay.optim.lars_schedule import imagenet_lars, warmup_then_polynomial


def rates(total, warmup, power=1.6, lr=43.0):
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr)
    scheduler = warmup_then_polynomial(optimizer, total, warmup, power)
    found = []
    for _ in range(total + 2):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize(
    ("batch", "lr", "warmup"),
    [(256, 10, 5), (16_383, 10, 5), (16_384, 25, 5), (32_768, 31.2, 25), (65_535, 31.2, 25), (98_304, 43, 41)],
)
def test_the_authors_settings_by_batch(batch, lr, warmup):
    assert imagenet_lars(batch) == (lr, warmup)


def test_at_batch_96k_the_rate_is_half_its_peak_at_epoch_20_and_a_half_and_full_at_41():
    found = rates(1000, 410)  # ten steps an epoch
    assert found[0] == 0
    assert found[205] == pytest.approx(21.5)
    assert found[410] == pytest.approx(43)
    assert found[705] == pytest.approx(43 * 0.5**1.6)
    assert found[1000:] == [0, 0]


def test_without_warmup_and_with_power_one_it_is_a_line():
    assert rates(4, 0, power=1.0, lr=1.0) == pytest.approx([1, 0.75, 0.5, 0.25, 0, 0])


def test_numbers_out_of_range_are_refused():
    with pytest.raises(ValueError, match="batch_size must be positive, got 0"):
        imagenet_lars(0)
    with pytest.raises(ValueError, match=r"warmup_steps must lie in \[0, 4\), got 4"):
        rates(4, 4)
    with pytest.raises(ValueError, match="power must be positive, got 0"):
        rates(4, 0, power=0.0)
