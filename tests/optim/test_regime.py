"""Regimes, against rates and decays written out by hand."""

import pytest
import torch
from torch import nn
from torch.optim import SGD

from assay.optim import regime
from assay.optim.regime import Phase, SGDRegime

RISING = SGDRegime((Phase(0, 0.1, 1e-3), Phase(2, 0.4, 1e-3), Phase(3, 0.01, 0.0)), epochs=5)

# Epoch by epoch: the last of the old phase and the first of the new one, then the last of all.
BY_HAND = {
    "F1": [(0, 0.1, 1e-4), (9, 0.1, 1e-4), (10, 0.01, 1e-4), (19, 0.01, 1e-4), (20, 1e-3, 1e-4), (29, 1e-3, 1e-4),
           (30, 1e-4, 1e-4), (49, 1e-4, 1e-4)],
    "RESNET44": [(0, 0.1, 1e-4), (80, 0.1, 1e-4), (81, 0.01, 1e-4), (121, 0.01, 1e-4), (122, 1e-3, 1e-4),
                 (163, 1e-3, 1e-4), (164, 1e-4, 1e-4), (199, 1e-4, 1e-4)],
    "WRESNET16_4": [(0, 0.1, 5e-4), (59, 0.1, 5e-4), (60, 0.02, 5e-4), (119, 0.02, 5e-4), (120, 0.004, 5e-4),
                    (139, 0.004, 5e-4), (140, 1e-4, 5e-4), (199, 1e-4, 5e-4)],
    "SHALLOW_CIFAR": [(0, 1e-3, 5e-4), (59, 1e-3, 5e-4), (60, 0.01, 5e-4), (119, 0.01, 5e-4), (120, 1e-3, 5e-4),
                      (179, 1e-3, 5e-4), (180, 1e-4, 5e-4), (199, 1e-4, 5e-4)],
    "ALEXNET_BN": [(0, 0.01, 5e-4), (9, 0.01, 5e-4), (10, 5e-3, 5e-4), (14, 5e-3, 5e-4), (15, 1e-3, 0.0),
                   (19, 1e-3, 0.0), (20, 5e-4, 0.0), (24, 5e-4, 0.0), (25, 1e-4, 0.0), (29, 1e-4, 0.0)],
}  # fmt: skip


def walked(of, steps_per_epoch=1):
    """(learning rate, weight decay) of each epoch as a loop of the regime's length meets them."""
    optimizer = of.optimizer([nn.Parameter(torch.ones(1))])
    schedule = of.schedule(optimizer, steps_per_epoch)
    found = []
    for _ in range(of.epochs):
        met = set()
        for _ in range(steps_per_epoch):
            met.add((optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["weight_decay"]))
            optimizer.step()
            schedule.step()
        (now,) = met  # nothing changes within an epoch
        found.append(now)
    return found


@pytest.mark.parametrize("name", BY_HAND)
@pytest.mark.parametrize("steps_per_epoch", [1, 3])
def test_the_papers_regimes_at_their_boundaries(name, steps_per_epoch):
    found = walked(getattr(regime, name), steps_per_epoch)
    assert len(found) == BY_HAND[name][-1][0] + 1
    for epoch, lr, decay in BY_HAND[name]:
        assert found[epoch] == pytest.approx((lr, decay))


@pytest.mark.parametrize("name", BY_HAND)
def test_the_papers_regimes_are_sgd_with_momentum_at_batches_of_128(name):
    made = getattr(regime, name)
    optimizer = made.optimizer([nn.Parameter(torch.ones(1))])
    assert made.batch_size == 128
    assert type(optimizer) is SGD
    assert optimizer.defaults["momentum"] == 0.9
    assert not optimizer.defaults["nesterov"]


def test_alexnet_has_no_weight_decay_from_epoch_15_on():
    decays = [decay for _, decay in walked(regime.ALEXNET_BN)]
    assert all(decays[:15])
    assert decays[15:] == [0.0] * 15


@pytest.mark.parametrize("name", BY_HAND)
def test_a_batch_of_4096_has_rates_times_sqrt_32(name):
    large = getattr(regime, name).for_batch(4096)
    assert large.batch_size == 4096
    found = walked(large)
    for epoch, lr, decay in BY_HAND[name]:
        assert found[epoch] == pytest.approx((lr * 5.656854249492381, decay))


def test_an_adapted_regime_changes_at_32_times_the_epochs():
    large = regime.RESNET44.for_batch(4096, adapt=True)
    assert large.epochs == 6400
    assert [phase.epoch for phase in large.phases] == [0, 2592, 3904, 5248]
    assert large.at(2591).lr == pytest.approx(0.5656854249492381)
    assert large.at(2592).lr == pytest.approx(0.05656854249492381)
    unscaled = regime.ALEXNET_BN.for_batch(256, scale_lr=False, adapt=True)
    assert unscaled.at(29) == Phase(20, 5e-3, 5e-4)
    assert unscaled.at(30) == Phase(30, 1e-3, 0.0)
    assert unscaled.epochs == 60


def test_an_adapted_regime_makes_the_small_batchs_updates_in_each_phase():
    samples, small, large = 128 * 8 * 5, RISING, RISING.for_batch(1024, adapt=True)
    updates = [(phase.epoch * samples // 128, phase.weight_decay) for phase in small.phases]
    assert [(phase.epoch * samples // 1024, phase.weight_decay) for phase in large.phases] == updates
    assert large.epochs * samples // 1024 == small.epochs * samples // 128


def test_the_batch_of_the_regime_itself_changes_nothing():
    assert RISING.for_batch(128, adapt=True) == RISING


def test_batches_can_be_reached_in_two_steps():
    direct, detour = RISING.for_batch(2048, adapt=True), RISING.for_batch(512, adapt=True).for_batch(2048, adapt=True)
    assert detour.epochs == direct.epochs
    for one, other in zip(detour.phases, direct.phases, strict=True):
        assert one == pytest.approx(other)


def test_a_ratio_that_is_not_whole_is_rounded_up_for_epochs_only():
    odd = RISING.for_batch(320, adapt=True)
    assert odd.epochs == 15
    assert odd.phases[1] == pytest.approx((6, 0.4 * 2.5**0.5, 1e-3))


def test_weight_decay_acts_in_the_update_until_its_phase_ends():
    # The gradient is 0, so that a weight only decays: w <- w - v with v <- 0.5 v + decay w, times lr.
    plan = SGDRegime((Phase(0, 0.1, 0.2), Phase(2, 0.4, 0.0)), epochs=4, momentum=0.5)
    w = nn.Parameter(torch.ones(1, dtype=torch.float64))
    optimizer = plan.optimizer([w])
    schedule = plan.schedule(optimizer)
    want, v = 1.0, 0.0
    for lr, decay in [(0.1, 0.2), (0.1, 0.2), (0.4, 0.0), (0.4, 0.0)]:
        v = 0.5 * v + decay * want
        want -= lr * v
        w.grad = torch.zeros_like(w)
        optimizer.step()
        schedule.step()
        assert w.item() == pytest.approx(want, rel=1e-12)


def test_groups_keep_their_own_rate_and_freedom_from_decay():
    parameters = [nn.Parameter(torch.ones(1)) for _ in range(2)]
    groups = [{"params": parameters[:1]}, {"params": parameters[1:], "lr": 0.01, "weight_decay": 0.0}]
    optimizer = RISING.optimizer(groups)
    schedule = RISING.schedule(optimizer)
    found = []
    for _ in range(4):
        found.append([(group["lr"], group["weight_decay"]) for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    assert found[1] == [pytest.approx((0.1, 1e-3)), pytest.approx((0.01, 0.0))]
    assert found[2] == [pytest.approx((0.4, 1e-3)), pytest.approx((0.04, 0.0))]
    assert found[3] == [pytest.approx((0.01, 0.0)), pytest.approx((0.001, 0.0))]


def test_an_optimizer_of_another_kind_goes_through_the_same_phases():
    optimizer = torch.optim.AdamW([nn.Parameter(torch.ones(1))], lr=1e-3, weight_decay=0.1)
    schedule = RISING.schedule(optimizer)
    for _ in range(2):
        optimizer.step()
        schedule.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(4e-3)
    assert optimizer.param_groups[0]["weight_decay"] == pytest.approx(0.1)


def test_a_resumed_schedule_goes_on_where_it_stood(tmp_path):
    def made():
        optimizer = RISING.optimizer([nn.Parameter(torch.ones(1))])
        return optimizer, RISING.schedule(optimizer, 2)

    optimizer, schedule = made()
    for _ in range(6):
        optimizer.step()
        schedule.step()
    torch.save([optimizer.state_dict(), schedule.state_dict()], tmp_path / "state.pt")
    resumed, again = made()
    for part, state in zip((resumed, again), torch.load(tmp_path / "state.pt", weights_only=True), strict=True):
        part.load_state_dict(state)
    for _ in range(4):
        for name in ("lr", "weight_decay"):
            assert resumed.param_groups[0][name] == optimizer.param_groups[0][name]
        for part in (optimizer, schedule, resumed, again):
            part.step()
    assert resumed.param_groups[0]["weight_decay"] == 0.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"phases": ()}, r"first at 0, got \[\]"),
        ({"phases": (Phase(1, 0.1, 0.0),)}, r"first at 0, got \[1\]"),
        ({"phases": (Phase(0, 0.1, 0.0), Phase(0, 0.2, 0.0))}, r"growing epochs, .*, got \[0, 0\]"),
        ({"phases": (Phase(0, 0.1, 0.0), Phase(3, 0.1, 0.0), Phase(2, 0.1, 0.0))}, r"got \[0, 3, 2\]"),
        ({"phases": (Phase(0, 0.1, 0.0), Phase(3, 0.0, 0.0))}, "lr must be positive and finite, got 0.0 at epoch 3"),
        ({"phases": (Phase(0, float("nan"), 0.0),)}, "lr must be positive and finite, got nan"),
        ({"phases": (Phase(0, 0.1, -1.0),)}, "weight_decay must be finite and not negative, got -1.0"),
        ({"phases": (Phase(0, 0.1, 0.0), Phase(3, 0.1, 0.5))}, "cannot rise from 0, got 0.5 at epoch 3"),
        ({"epochs": 0}, "epochs must be positive, got 0"),
        ({"batch_size": 0}, "batch_size must be positive, got 0"),
        ({"momentum": 1.0}, r"momentum must lie in \[0, 1\), got 1.0"),
    ],
)
def test_a_regime_that_cannot_be_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        SGDRegime(**{"phases": (Phase(0, 0.1, 0.0),), "epochs": 1} | settings)


def test_bad_use_is_refused():
    with pytest.raises(ValueError, match="batch_size must be positive, got 0"):
        RISING.for_batch(0, scale_lr=False)
    with pytest.raises(ValueError, match="epoch must not be negative, got -1"):
        RISING.at(-1)
    with pytest.raises(ValueError, match="steps_per_epoch must be positive, got 0"):
        RISING.schedule(RISING.optimizer([nn.Parameter(torch.ones(1))]), 0)
    with pytest.raises(ValueError, match="weight_decay, which Rprop lacks"):
        RISING.schedule(torch.optim.Rprop([nn.Parameter(torch.ones(1))]))
