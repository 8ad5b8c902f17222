import math

import pytest
import torch
from torch import nn

from assay.optim.gradient_noise import noise_to_match, noisy_mean
from assay.optim.large_batch import Regime, adapt_regime, clip_at_high_lr, sqrt_scaled_lr


def test_sqrt_rule_leaves_the_rate_at_the_base_batch_and_composes():
    assert sqrt_scaled_lr(0.1, 128, 128) == 0.1
    assert sqrt_scaled_lr(0.1, 128, 2048) == pytest.approx(0.4)
    assert sqrt_scaled_lr(sqrt_scaled_lr(0.1, 64, 512), 512, 4096) == pytest.approx(sqrt_scaled_lr(0.1, 64, 4096))


def test_sqrt_rule_keeps_the_covariance_of_the_update():
    # an update is lr times the mean of B independent gradients of variance v: lr^2 v / B
    assert sqrt_scaled_lr(0.1, 128, 1024) ** 2 / 1024 == pytest.approx(0.1**2 / 128)


@pytest.mark.parametrize(("base", "large"), [(128, 128), (128, 1024), (20, 300)])
def test_adapted_regime_makes_as_many_updates(base, large):
    samples = 6 * base * large
    regime = adapt_regime([81, 122, 164], 200, base, large)
    for small, adapted in [(200, regime.epochs), *zip([81, 122, 164], regime.milestones, strict=True)]:
        assert adapted * samples // large == small * samples // base


def test_adapted_regime_rounds_the_ratio_up():
    assert adapt_regime([10], 30, 100, 250) == Regime(90, (30,))
    assert adapt_regime([], 30, 100, 50) == Regime(30, ())


@pytest.mark.parametrize("sizes", [(0, 10), (10, 0), (-1, 10)])
def test_batch_sizes_must_be_positive(sizes):
    with pytest.raises(ValueError, match="must be positive, got"):
        sqrt_scaled_lr(0.1, *sizes)
    with pytest.raises(ValueError, match="must be positive, got"):
        adapt_regime([1], 2, *sizes)


@pytest.fixture
def groups():
    parameters = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1))]
    parameters[0].grad, parameters[1].grad = torch.tensor([6.0, 0.0]), torch.tensor([8.0])
    optimizer = torch.optim.SGD([{"params": parameters[:1], "lr": 0.1}, {"params": parameters[1:], "lr": 0.01}])
    return optimizer, parameters


def test_clipping_takes_the_norm_over_all_groups(groups):
    optimizer, parameters = groups
    assert clip_at_high_lr(optimizer).item() == pytest.approx(10)
    torch.testing.assert_close(torch.cat([p.grad for p in parameters]), torch.tensor([3.0, 0.0, 4.0]))


def test_clipping_stops_when_the_rate_has_fallen(groups):
    optimizer, parameters = groups
    assert clip_at_high_lr(optimizer, min_lr=0.1) is not None
    parameters[1].grad = torch.tensor([8.0])
    optimizer.param_groups[0]["lr"] = 0.05
    assert clip_at_high_lr(optimizer, min_lr=0.1) is None
    assert parameters[1].grad.item() == 8


def test_clipping_needs_a_positive_norm(groups):
    with pytest.raises(ValueError, match="max_norm must be positive, got 0"):
        clip_at_high_lr(groups[0], 0.0)


def test_no_noise_is_the_plain_mean_and_draws_nothing():
    losses, generator = torch.rand(5), torch.Generator().manual_seed(0)
    before = generator.get_state()
    assert torch.equal(noisy_mean(losses, 0.0, generator=generator), losses.mean())
    assert torch.equal(generator.get_state(), before)


def test_noise_is_that_of_the_given_generator():
    losses = torch.rand(5, dtype=torch.float64)
    z = torch.empty(5, dtype=torch.float64).normal_(1, 0.5, generator=torch.Generator().manual_seed(3))
    got = noisy_mean(losses, 0.5, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(got, sum(z * losses) / 5)


def test_noise_leaves_the_gradient_unbiased_and_gives_it_the_predicted_covariance():
    generator = torch.Generator().manual_seed(0)
    per_sample = torch.randn(6, 3, generator=generator, dtype=torch.float64)  # gradients of the losses per_sample @ w
    w = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    draws = 3000
    found = torch.stack(
        [torch.autograd.grad(noisy_mean(per_sample @ w, 2.0, generator=generator), w)[0] for _ in range(draws)]
    )
    covariance = 2.0**2 * per_sample.T @ per_sample / 6**2
    error = (covariance.diagonal() / draws).sqrt()
    assert ((found.mean(0) - per_sample.mean(0)).abs() < 4 * error).all()
    torch.testing.assert_close(
        found.T.cov(), covariance, rtol=0, atol=4 * math.sqrt(2 / draws) * covariance.max().item()
    )


def test_matched_noise_gives_the_small_batchs_covariance():
    assert noise_to_match(64, 64) == 0
    # gradients of mean 0 and variance v: (1 + sigma^2) v / M must be v / m
    assert (1 + noise_to_match(64, 1024) ** 2) / 1024 == pytest.approx(1 / 64)


def test_bad_noise_is_refused():
    with pytest.raises(ValueError, match="sigma must be finite and not negative, got -1"):
        noisy_mean(torch.ones(2), -1.0)
    with pytest.raises(ValueError, match="batch_size must not be below base_batch_size >= 1, got 10 and 20"):
        noise_to_match(20, 10)
