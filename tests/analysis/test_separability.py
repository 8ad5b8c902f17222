"""Margins against a support vector machine, and the bounds against what the rules take."""

import numpy as np
import pytest
import torch
from sklearn.svm import LinearSVC

from assay.analysis.separability import hard_family, iteration_bound, separable_margin
from assay.optim.separation import separate

RULES = ("logistic", "normalized-logistic", "perceptron", "normalized-perceptron")


def drawn(seed, samples=40, features=5):
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, features, generator=draw, dtype=torch.float64)
    along = x @ torch.randn(features, generator=draw, dtype=torch.float64)
    keep = along.abs() > 0.2
    return x[keep], torch.where(along[keep] > 0, 1, -1)


@pytest.mark.parametrize("seed", range(4))
def test_the_margin_is_that_of_a_hard_support_vector_machine(seed):
    x, y = drawn(seed)
    machine = LinearSVC(C=1e5, loss="hinge", fit_intercept=False, tol=1e-8, max_iter=1_000_000, random_state=0)
    theta = machine.fit(x.numpy(), y.numpy()).coef_[0]
    wanted = (y.numpy() * (x.numpy() @ theta)).min() / np.linalg.norm(theta)
    assert separable_margin(x, y) == pytest.approx(wanted, rel=1e-3)
    assert separable_margin(x, y) >= wanted * (1 - 1e-9), "none can be wider"


def test_the_hard_familys_margin_has_a_closed_form():
    for samples, delta in ((2, 0.5), (100, 0.2), (1000, 3.0)):
        x, y = hard_family(samples, delta)
        wanted = delta / (4 + delta**2) ** 0.5
        assert separable_margin(x, y) == pytest.approx(wanted, rel=1e-9)
        assert separable_margin(1e6 * x, y) == pytest.approx(1e6 * wanted, rel=1e-9)


def test_what_nothing_separates_has_margin_zero():
    x = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    assert separable_margin(x, torch.tensor([1, 1])) == 0.0
    x, y = drawn(0)
    assert separable_margin(torch.cat([x, x[:1]]), torch.cat([y, -y[:1]])) == 0.0


@pytest.mark.parametrize("rule", RULES)
def test_no_rule_takes_longer_than_its_bound(rule):
    rates = [0.1, 1.0, 10.0, 1e4]
    for x, y in (*(drawn(seed) for seed in range(5)), hard_family(50, 0.5)):
        n, radius, margin = len(x), float(x.norm(dim=1).max()), separable_margin(x, y)
        found = separate(x, y, rule, rates, max_iter=3000)
        for rate, iterations, separated in zip(rates, found.iterations.tolist(), found.separated.tolist(), strict=True):
            bound = iteration_bound(rule, n, radius, margin, rate)
            assert iterations <= bound
            assert separated or bound > 3000


def test_bounds_are_the_papers():
    n, r, mu = 50, 2.0, 0.1
    assert iteration_bound("perceptron", n, r, mu) == pytest.approx(n * 400)
    assert iteration_bound("normalized-perceptron", n, r, mu) == pytest.approx(400)
    # max_z z / (1 + e^z) is 0.2785 to four digits
    assert iteration_bound("logistic", n, r, mu, 5.0) == pytest.approx(2 * n * (4 + 4 * 0.2785 * n / 5) * 100, rel=1e-3)
    assert iteration_bound("normalized-logistic", n, r, mu, 5.0) == pytest.approx(
        (4 + 4 * 0.2785 * n / 5) * 100, rel=1e-3
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: iteration_bound("logistic", 5, 1.0, 0.1), "lr must be positive, got None"),
        (lambda: iteration_bound("perceptron", 5, 1.0, 0.0), "margin must be positive, got 0.0"),
        (lambda: hard_family(1, 0.5), "samples must be at least 2 and delta positive, got 1 and 0.5"),
        (lambda: hard_family(5, 0.0), "samples must be at least 2 and delta positive, got 5 and 0.0"),
    ],
)
def test_bad_input_is_told_what_it_was(call, message):
    with pytest.raises(ValueError, match=message):
        call()
