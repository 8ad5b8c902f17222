"""The closed form minimises the loss it claims to, and the theory's risk is what simulation finds."""

import math

import numpy as np
import pytest
import torch

from assay.analysis.aggregate_risk import (
    aggregate_least_squares,
    aggregate_risk,
    instance_bag_size,
    optimal_bag_size,
    optimal_rho,
    private_noise_variance,
)
from assay.data.bags import aggregate, label_dp_aggregate, make_bags
from assay.losses.aggregate import InterpolatedAggregateLoss


def problem(samples, features, size, seed=0, noise=1.0, norm2=4.0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, features, generator=generator, dtype=torch.float64)
    theta = torch.randn(features, generator=generator, dtype=torch.float64)
    theta *= math.sqrt(norm2) / theta.norm()
    y = x @ theta + math.sqrt(noise) * torch.randn(samples, generator=generator, dtype=torch.float64)
    return x, y, theta, make_bags(samples, size, generator), generator


@pytest.mark.parametrize("rho", [0.0, 0.05, 1.0])
def test_the_closed_form_is_where_the_gradient_of_the_loss_is_zero(rho):
    x, y, _, bags, _ = problem(97, 8, 6)  # the last bag has one
    targets = aggregate(y, bags)
    found = aggregate_least_squares(x, targets, bags, rho=rho).requires_grad_()
    InterpolatedAggregateLoss(rho)(x @ found, targets, bags).backward()
    assert found.grad.abs().max() < 1e-13


def test_without_a_pull_it_is_least_squares_on_the_bags_and_of_least_norm_if_these_are_few():
    x, y, _, bags, _ = problem(60, 5, 4)
    means, targets = aggregate(x, bags), aggregate(y, bags)
    wanted = np.linalg.lstsq(means.numpy(), targets.numpy(), rcond=None)[0]
    np.testing.assert_allclose(aggregate_least_squares(x, targets, bags, rho=0.0).numpy(), wanted)
    x, y, _, bags, _ = problem(24, 30, 4)
    means, targets = aggregate(x, bags), aggregate(y, bags)
    found = aggregate_least_squares(x, targets, bags, rho=0.0)
    torch.testing.assert_close(found, torch.linalg.pinv(means) @ targets)
    torch.testing.assert_close(means @ found, targets)


def test_it_does_not_matter_how_samples_lie():
    x, y, _, bags, generator = problem(40, 4, 5)
    order = torch.randperm(40, generator=generator)
    targets = aggregate(y, bags)
    found = [aggregate_least_squares(x[p], targets, bags[p], rho=0.2) for p in (torch.arange(40), order)]
    torch.testing.assert_close(*found)


@pytest.mark.parametrize(
    ("m", "d", "k", "rho"),
    [(200, 75, 2, 0.3), (200, 75, 4, 1.0), (150, 100, 3, 0.05), (100, 150, 4, 0.5), (200, 50, 5, 0.0)],
)
def test_the_risk_is_what_simulation_finds(m, d, k, rho):
    errors = []
    for seed in range(40):
        x, y, theta, bags, _ = problem(m * k, d, k, seed)
        estimate = aggregate_least_squares(x, aggregate(y, bags), bags, rho=rho)
        errors.append(float((estimate - theta).square().sum()))
    found = aggregate_risk(m * k, d, k, rho, noise_variance=1.0, signal_norm2=4.0).total
    assert found == pytest.approx(np.mean(errors), rel=0.05)


def test_its_parts_are_those_of_the_sheet_of_figures():
    """Twelve-run simulations at full size, published beside the formula: squared bias and variance."""
    for (m, d, k, rho), bias2, variance in (
        ((400, 150, 2, 0.3), 0.444, 0.258),
        ((400, 150, 4, 1.0), 2.328, 0.0259),
        ((300, 200, 3, 0.05), 0.274, 0.852),
        ((200, 300, 4, 0.5), 2.424, 0.273),
        ((400, 100, 5, 0.0), 0.0, 0.333),
    ):
        found = aggregate_risk(m * k, d, k, rho, noise_variance=1.0, signal_norm2=4.0)
        assert (found.bias2, found.variance) == (pytest.approx(bias2, abs=6e-4), pytest.approx(variance, rel=2e-3))


def test_in_the_limits_it_is_known():
    how = {"noise_variance": 2.0, "signal_norm2": 3.0}
    n, d, k = 1200, 100, 5
    t = d / (n - d)
    instance = aggregate_risk(n, d, k, 1.0, **how)
    assert instance.bias2 == pytest.approx(3 * ((1 - 1 / k) ** 2 + (k - 1) * t / k**2))
    assert instance.variance == pytest.approx(2 * t / k)
    bag = aggregate_risk(n, d, k, 0.0, **how)
    assert (bag.bias2, bag.variance) == (pytest.approx(0, abs=1e-12), pytest.approx(2 * d / (n / k - d)))
    assert aggregate_risk(n, d, k, 1e-7, **how).total == pytest.approx(bag.total, rel=1e-4), "continuous in rho"
    for rho in (0.0, 0.3, 1.0):
        assert aggregate_risk(n, d, 1, rho, **how).total == pytest.approx(2 * d / (n - d)), "ordinary least squares"


def test_the_best_rho_is_where_a_fine_grid_has_it():
    how = {"noise_variance": 4.0, "signal_norm2": 1.0}
    found = optimal_rho(1200, 100, 5, **how)
    grid = np.exp(np.linspace(-7, 7, 4001))
    risks = [aggregate_risk(1200, 100, 5, rho, **how).total for rho in grid]
    assert found == pytest.approx(grid[int(np.argmin(risks))], rel=0.01)
    assert aggregate_risk(1200, 100, 5, found, **how).total <= min(risks) + 1e-9
    assert optimal_rho(1200, 100, 5, noise_variance=1.0, signal_norm2=1.0) < found, "less noise wants less"
    assert optimal_rho(1200, 100, 2, noise_variance=0.0, signal_norm2=1.0) == 0.0, "without noise the bags are exact"


def test_private_noise_adds_to_that_of_the_means_as_it_is_counted():
    size, epsilon, clip = 4, 0.8, 3.0
    found = []
    for seed in range(60):
        generator = torch.Generator().manual_seed(seed)
        y, bags = torch.randn(800, generator=generator, dtype=torch.float64), make_bags(800, size, generator)
        found.append(label_dp_aggregate(y, bags, epsilon=epsilon, clip=clip, generator=generator))
    wanted = private_noise_variance(size, noise_variance=1.0, epsilon=epsilon, clip=clip) / size
    assert torch.cat(found).var().item() == pytest.approx(wanted, rel=0.05)


@pytest.mark.parametrize("epsilon", [0.3, 0.5, 1.0, 2.0])
def test_the_best_bag_of_the_instance_loss_is_that_of_the_closed_form(epsilon):
    how = {"noise_variance": 1.0, "signal_norm2": 4.0, "epsilon": epsilon, "clip": 3.0}
    exact = instance_bag_size(1200, 100, **how)
    assert optimal_bag_size(1200, 100, **how, largest=100).size in (max(math.floor(exact), 1), math.ceil(exact))


def test_the_best_bag_grows_with_privacy_and_is_one_for_the_bag_loss():
    how = {"noise_variance": 1.0, "signal_norm2": 4.0, "clip": 3.0, "largest": 60}
    sizes = [optimal_bag_size(1200, 100, epsilon=e, **how).size for e in (2.0, 0.5, 0.2)]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1]
    assert optimal_bag_size(1200, 100, epsilon=0.5, **how, rho=0.0).size == 1
    tuned = optimal_bag_size(1200, 100, epsilon=0.5, **how, rho=None)
    risks = [
        aggregate_risk(
            1200, 100, size, rho, signal_norm2=4.0,
            noise_variance=private_noise_variance(size, noise_variance=1.0, epsilon=0.5, clip=3.0),
        ).total
        for size, rho in (tuned, optimal_bag_size(1200, 100, epsilon=0.5, **how))
    ]  # fmt: skip
    assert risks[0] <= risks[1]


def test_ever_larger_bags_are_best_where_the_responses_say_little():
    assert instance_bag_size(150, 100, noise_variance=9.0, signal_norm2=0.1, epsilon=1.0, clip=1.0) == math.inf
    assert instance_bag_size(10_000, 10, noise_variance=0.1, signal_norm2=4.0, epsilon=1e6, clip=1.0) == 1.0


def test_a_best_bag_at_an_end_has_no_better_risk_inside():
    how = {"noise_variance": 0.1, "signal_norm2": 4.0}
    ends = {k: aggregate_risk(190, 100, k, 1.0, **how).total for k in (1, 2, 5, 50)}
    exact = instance_bag_size(190, 100, **how, epsilon=1e6, clip=1.0)
    assert min(ends, key=ends.get) == (
        1 if exact == 1 else 50 if exact == math.inf else min(ends, key=lambda k: abs(k - exact))
    )


ONE_BAG = torch.zeros(2, dtype=torch.int64)
UNIT = {"noise_variance": 1, "signal_norm2": 1}


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: aggregate_risk(100, 60, 2, 0.0, **UNIT), "more bags than features, got 50, 60"),
        (lambda: aggregate_risk(50, 60, 2, 0.1, **UNIT), "more samples than features"),
        (lambda: aggregate_risk(100, 10, 2, -0.1, **UNIT), "rho >= 0"),
        (lambda: aggregate_risk(100, 10, 0.5, 0.1, **UNIT), "1 <= bag_size"),
        (lambda: aggregate_risk(100, 10, 2, 0.1, noise_variance=-1, signal_norm2=1), "noise_variance >= 0"),
        (lambda: private_noise_variance(2, noise_variance=1, epsilon=0, clip=1), "must be positive"),
        (lambda: instance_bag_size(9, 10, **UNIT, epsilon=1, clip=1), "more samples than"),
        (lambda: aggregate_least_squares(torch.ones(2, 1), torch.ones(1), ONE_BAG, rho=-1), "rho must be at least 0"),
        (lambda: aggregate_least_squares(torch.ones(2, 1), torch.tensor([math.inf]), ONE_BAG), "must be finite"),
    ],
)
def test_what_makes_no_sense_is_refused(make, says):
    with pytest.raises(ValueError, match=says):
        make()
