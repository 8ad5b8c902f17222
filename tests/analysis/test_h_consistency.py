import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from assay.analysis.h_consistency import (
    complete_minimizability_gap,
    conditional_bayes_risk,
    conditional_risk,
    deterministic_bayes_risk,
    inverse_transform,
    minimizability_gap,
    minimizability_gap_bound,
    simple_bound,
    transform,
    zero_one_bound,
    zero_one_risk,
)

TAUS = [0.0, 0.5, 0.9, 1.0, 1.3, 1.7, 1.95, 2.0, 3.0]
GRID = np.linspace(0, 1, 101)


def problem(points=6, n=3, seed=0):
    """Points of the plane with their weights and class probabilities."""
    g = np.random.default_rng(seed)
    return g.normal(size=(points, 2)), g.dirichlet(np.ones(points)), g.dirichlet(np.ones(n), size=points)


def test_reference_vectors(vectors):
    data = np.load(vectors / "comp-sum.npz", allow_pickle=False)
    for tau, bayes, t in zip(data["taus"], data["cond_bayes"], data["T"], strict=True):
        np.testing.assert_allclose(conditional_bayes_risk(data["cond_probs"], float(tau)), bayes, rtol=1e-10)
        np.testing.assert_allclose(transform(data["betas"], float(tau), int(data["n_classes"])), t, rtol=1e-10)


@pytest.mark.parametrize("tau", TAUS)
@pytest.mark.parametrize("n", [2, 10])
def test_the_transform_is_convex_increasing_and_inverted(tau, n):
    t = transform(GRID, tau, n)
    assert t[0] == 0
    assert (np.diff(t) > 0).all()
    assert (np.diff(t, 2) > -1e-12).all()
    np.testing.assert_allclose(inverse_transform(t, tau, n), GRID, atol=1e-7)
    assert inverse_transform(t[-1] * 1.5, tau, n) == 1


@pytest.mark.parametrize("n", [2, 7])
def test_special_cases_and_continuity_of_the_transform(n):
    np.testing.assert_allclose(transform(GRID, 0.0, n), 1 - np.sqrt(1 - GRID**2), atol=1e-14)
    b = GRID[1:-1]
    want = (1 + b) / 2 * np.log(1 + b) + (1 - b) / 2 * np.log(1 - b)
    np.testing.assert_allclose(transform(b, 1.0, n), want, atol=1e-15)
    for tau, near in ((1.0, 1 - 1e-7), (1.0, 1 + 1e-7), (2.0, 2 - 1e-6)):
        np.testing.assert_allclose(transform(GRID, near, n), transform(GRID, tau, n), atol=2e-5)


@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0, 1.5, 1.99])
def test_the_transform_keeps_its_digits_near_zero(tau):
    from decimal import Decimal, getcontext

    getcontext().prec = 80
    for b in (1e-9, 1e-6, 1e-4, 1e-2):
        up, down, q = 1 + Decimal(b), 1 - Decimal(b), 1 / (2 - Decimal(tau))
        if tau == 1:
            want = (up * up.ln() + down * down.ln()) / 2
        else:
            a = ((up**q + down**q) / 2) ** (2 - Decimal(tau))
            below = Decimal(2) ** (1 - Decimal(tau)) if tau < 1 else 1 / Decimal(4) ** (Decimal(tau) - 1)
            want = below * (1 - a) / (1 - Decimal(tau))
        assert float(transform(b, tau, 4)) == pytest.approx(float(want), rel=1e-9)


@pytest.mark.parametrize("tau", TAUS)
@pytest.mark.parametrize("n", [2, 10, 1000])
def test_the_simple_bound_is_above(tau, n):
    t = transform(GRID, tau, n)
    assert (simple_bound(t, tau, n) >= inverse_transform(t, tau, n) - 1e-7).all()


@pytest.mark.parametrize("tau", TAUS)
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(2, 6), sharp=st.floats(0.05, 5), scale=st.floats(0.01, 20))
def test_a_zero_one_regret_costs_at_least_its_transform(tau, seed, n, sharp, scale):
    g = np.random.default_rng(seed)
    p, h = g.dirichlet(np.full(n, sharp), size=50), scale * g.normal(size=(50, n))
    regret = conditional_risk(h, p, tau) - conditional_bayes_risk(p, tau)
    gap = zero_one_risk(h, p) - (1 - p.max(-1))
    assert (regret >= -1e-9).all()
    assert (regret >= transform(np.clip(gap, 0, 1), tau, n) - 1e-9).all()


@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0, 1.5, 1.9])
def test_the_bayes_risk_is_what_minimisation_finds(tau):
    for p in np.random.default_rng(1).dirichlet(np.ones(4), size=4):
        found = minimize(lambda h, p=p: float(conditional_risk(h, p, tau)), np.log(p), method="Nelder-Mead",
                         options={"xatol": 1e-9, "fatol": 1e-14, "maxiter": 10_000, "maxfev": 10_000})  # fmt: skip
        assert found.fun == pytest.approx(float(conditional_bayes_risk(p, tau)), abs=1e-6)


@pytest.mark.parametrize("tau", [2.0, 3.0])
def test_from_two_on_the_bayes_risk_is_approached_by_certain_scores(tau):
    p = np.array([0.2, 0.5, 0.3])
    assert float(conditional_risk(np.array([0.0, 100.0, 0.0]), p, tau)) == pytest.approx(
        float(conditional_bayes_risk(p, tau))
    )


@pytest.mark.parametrize("tau", TAUS)
def test_bounded_scores_of_a_certain_class_pay_what_their_bound_says(tau):
    grid = np.array(list(itertools.product(np.linspace(-1.5, 1.5, 7), repeat=3)))
    found = conditional_risk(grid, np.array([0.0, 1.0, 0.0]), tau).min()
    assert float(found) == pytest.approx(deterministic_bayes_risk(3, tau, 1.5))


@pytest.mark.parametrize("tau", TAUS)
def test_the_gap_of_all_functions_is_zero_and_of_fewer_it_is_what_enumeration_says(tau):
    _, weights, probabilities = problem(points=2)
    scores = np.array(list(itertools.product((-1.0, 0.0, 2.0), repeat=3)))
    everything = np.array(list(itertools.product(scores, repeat=2)))  # every function of two points on the grid
    risks = conditional_risk(everything, probabilities, tau)
    assert minimizability_gap(risks, weights) == pytest.approx(0, abs=1e-12)
    constant = np.repeat(scores[:, None], 2, 1)
    few = conditional_risk(constant, probabilities, tau)
    best = min(sum(w * r for w, r in zip(weights, row, strict=True)) for row in few.tolist())
    apart = sum(w * min(column) for w, column in zip(weights, few.T.tolist(), strict=True))
    assert minimizability_gap(few, weights) == pytest.approx(best - apart, abs=1e-12)
    assert best - apart > 1e-4


@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0, 1.5])
def test_linear_scores_obey_bound_and_gap_at_every_step_of_their_minimisation(tau):
    # linear scores with a bias reach any score at any point: symmetric and complete
    x, weights, probabilities = problem()
    features = np.concatenate([x, np.ones((len(x), 1))], 1)
    steps = []

    def risk_of(of):
        def risk(w):
            return float(conditional_risk(features @ w.reshape(3, 3), probabilities, of) @ weights)

        return risk

    def least(of, keep=None):
        options = {"maxiter": 300, "gtol": 1e-9, "ftol": 1e-15}
        return float(minimize(risk_of(of), np.zeros(9), method="L-BFGS-B", callback=keep, options=options).fun)

    best = least(tau, lambda w: steps.append(w.copy()))
    gap = complete_minimizability_gap(best, probabilities, weights, tau)
    assert 1e-4 < gap < minimizability_gap_bound(least(0.0), probabilities, weights, tau) + 1e-6

    # the zero-one risk of linear scores, by brute force over many of them
    g = np.random.default_rng(0)
    many = zero_one_risk(features @ g.normal(size=(20_000, 3, 3)), probabilities)
    best_zero_one, zero_one_gap = (many @ weights).min(), minimizability_gap(many, weights)
    assert len(steps) > 5
    for w in steps:
        regret = zero_one_risk(features @ w.reshape(3, 3), probabilities) @ weights - best_zero_one
        bound = zero_one_bound(max(risk_of(tau)(w) - best, 0.0), tau, 3, gap=gap, zero_one_gap=zero_one_gap)
        assert regret <= bound + 1e-9


def test_of_equal_scores_the_highest_class_is_predicted():
    assert zero_one_risk(np.zeros((1, 3)), np.array([[0.5, 0.3, 0.2]])).tolist() == pytest.approx([0.8])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: transform(1.1, 1.0, 3), r"beta must lie in \[0, 1\]"),
        (lambda: transform(0.5, -1.0, 3), "tau must be at least 0 and finite, got -1.0"),
        (lambda: transform(0.5, 1.0, 1), "num_classes must be at least 2, got 1"),
        (lambda: inverse_transform(-0.1, 1.0, 3), "regret must be at least 0"),
        (lambda: simple_bound(-0.1, 1.0, 3), "regret must be at least 0"),
        (lambda: conditional_bayes_risk(np.array([0.5, 0.6]), 1.0), "sum to 1"),
        (lambda: deterministic_bayes_risk(3, 1.0, -1.0), "bound must be at least 0"),
        (lambda: minimizability_gap_bound(-1.0, np.ones((1, 1)), np.ones(1), 1.0), "best_sum_exponential_risk must"),
        (lambda: minimizability_gap(np.ones((0, 2)), np.array([0.5, 0.5])), "risks must be"),
    ],
)
def test_what_makes_no_sense_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_an_infinite_bound_leaves_nothing_to_pay():
    assert deterministic_bayes_risk(3, 1.5, math.inf) == 0
