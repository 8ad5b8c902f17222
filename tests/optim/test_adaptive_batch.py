"""Tests of the batch size against the published vectors, naive loops, and cases known in closed form."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.optim import AdaptiveBatchSize, GradientMoments
from assay.optim.adaptive_batch import (
    coordinate_norm_test,
    inner_product_test,
    norm_test,
    orthogonality_test,
)

TESTS = {
    "norm": norm_test,
    "inner-product": inner_product_test,
    "orthogonality": orthogonality_test,
    "coordinate": coordinate_norm_test,
}
EACH = pytest.mark.parametrize("name", TESTS)


def drawn(samples=12, shapes=((3, 4), (5,), ()), seed=0, mean=0.3):
    draw = torch.Generator().manual_seed(seed)
    return [mean + torch.randn((samples, *shape), generator=draw, dtype=torch.float64) for shape in shapes]


def joined(grads):
    return torch.cat([g.flatten(1) if g.ndim > 1 else g[:, None] for g in grads], dim=1)


def naive(name, g, factor, ddof):
    """Variance, and the batch size at which the test passes, of gradients [samples, coordinates] by its definition."""
    g = g.numpy()
    mean, n = g.mean(0), len(g) - ddof
    square = (mean**2).sum()
    if name == "coordinate":
        each = ((g - mean) ** 2).sum(0) / n
        return each.sum(), (each / (factor * mean) ** 2).max()
    if name == "norm":
        variance = sum(((row - mean) ** 2).sum() for row in g) / n
    elif name == "inner-product":
        variance = sum((row @ mean - square) ** 2 for row in g) / n
        return variance, variance / (factor * square) ** 2
    else:
        variance = sum(((row - (row @ mean) / square * mean) ** 2).sum() for row in g) / n
    return variance, variance / (factor**2 * square)


@pytest.mark.parametrize("case", ["c0", "c1", "c2"])
def test_reference_vectors(vectors, case):
    data = np.load(vectors / "adadagrad.npz", allow_pickle=False)
    b, eta, theta, nu = data[f"{case}_params"].tolist()
    count = sum(key.startswith(f"{case}_grads") for key in data)
    grads = [torch.from_numpy(data[f"{case}_grads_p{i}"]) for i in range(count)]
    moments = GradientMoments.of(grads)
    found = {
        "norm_test": norm_test(moments, eta),
        "ip_test": inner_product_test(moments, theta, per_tensor=True),
        "orth_test": orthogonality_test(moments, nu, per_tensor=True),
    }
    for key, test in found.items():
        wanted = data[f"{case}_{key}"]
        assert max(b, math.ceil(test.needed)) == wanted[0]
        assert test.passed == (wanted[0] == b)
        np.testing.assert_allclose([test.variance, test.grad_sq_norm], wanted[1:], rtol=1e-10)
    next_b, along, across, square = data[f"{case}_ip_orth_test"]
    assert max(b, *(math.ceil(found[key].needed) for key in ("ip_test", "orth_test"))) == next_b
    np.testing.assert_allclose([found["ip_test"].variance, found["orth_test"].variance], [along, across], rtol=1e-10)
    assert found["norm_test"].grad_sq_norm == pytest.approx(square, rel=1e-10)


@pytest.mark.parametrize("case", ["c0", "c1", "c2"])
def test_the_parts_of_a_batch_give_the_authors_variance_by_the_authors_sum(vectors, case):
    """Which is another than that of the batch: within parts on average, plus between their means."""
    data = np.load(vectors / "adadagrad.npz", allow_pickle=False)
    count = sum(key.startswith(f"{case}_grads") for key in data)
    grads = [torch.from_numpy(data[f"{case}_grads_p{i}"]) for i in range(count)]
    halves = [GradientMoments.of([g[rows] for g in grads]) for rows in np.split(np.arange(len(grads[0])), 2)]
    within = sum(half.variances().sum().item() for half in halves) / 2
    between = sum(((a - b) / 2).square().sum().item() for a, b in zip(*(half.mean for half in halves), strict=True))
    wanted = data[f"{case}_norm_test_accum2"]
    assert within + between == pytest.approx(wanted[1], rel=1e-10)
    halves[0].merge(halves[1])
    assert halves[0].mean_squares().sum().item() == pytest.approx(wanted[2], rel=1e-10)


@EACH
@pytest.mark.parametrize("batch_size", [None, 7])
def test_is_its_definition_of_the_whole_gradient(name, batch_size):
    grads = drawn()
    found = TESTS[name](GradientMoments.of(grads), 0.6, batch_size=batch_size)
    variance, needed = naive(name, joined(grads), 0.6, 1 if batch_size is None else 0)
    assert found.variance == pytest.approx(variance, rel=1e-12)
    assert found.needed == pytest.approx(needed, rel=1e-12)
    assert found.passed == (needed <= (batch_size or 12))


def test_two_samples_at_right_angles():
    moments = GradientMoments.of([torch.eye(2, dtype=torch.float64)])
    for eta in (0.3, 0.5, 2.0):
        found = norm_test(moments, eta)
        assert found[1:] == pytest.approx((2 / eta**2, 1.0, 0.5))
        assert found.passed == (eta >= 1)
    assert inner_product_test(moments, 0.5) == (True, 0.0, 0.0, 0.5)
    assert orthogonality_test(moments, 1.0)[1:] == pytest.approx((2.0, 1.0, 0.5))
    assert coordinate_norm_test(moments, 1.0)[1:] == pytest.approx((2.0, 1.0, 0.5))


@EACH
@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10**6), st.floats(0.01, 100.0))
def test_neither_a_rotation_nor_the_scale_of_the_gradients_matters(name, seed, scale):
    (g,) = drawn(shapes=((6,),), seed=seed)
    draw = torch.Generator().manual_seed(seed)
    rotation = torch.linalg.qr(torch.randn(6, 6, generator=draw, dtype=torch.float64)).Q
    needed = TESTS[name](GradientMoments.of([g]), 0.5).needed
    scaled = TESTS[name](GradientMoments.of([scale * g]), 0.5).needed
    assert scaled == pytest.approx(needed, rel=1e-8)
    if name != "coordinate":  # its axes are the coordinates'
        turned = g @ rotation
        assert TESTS[name](GradientMoments.of([turned]), 0.5).needed == pytest.approx(needed, rel=1e-8)
        parts = list(turned.split([1, 2, 3], dim=1))
        assert TESTS[name](GradientMoments.of(parts), 0.5).needed == pytest.approx(needed, rel=1e-8)


@pytest.mark.parametrize("scale", [1e-18, 1e16])
@pytest.mark.parametrize("name", ["inner-product", "orthogonality"])
def test_the_fourth_power_of_a_gradient_leaves_float32_and_not_the_test(name, scale):
    grads = drawn()
    wanted = TESTS[name](GradientMoments.of(grads), 0.5).needed
    found = TESTS[name](GradientMoments.of([(scale * g).float() for g in grads]), 0.5).needed
    assert found == pytest.approx(wanted, rel=1e-3)


@EACH
def test_a_larger_tolerance_asks_for_fewer_samples(name):
    moments = GradientMoments.of(drawn())
    asked = [TESTS[name](moments, factor).needed for factor in (0.1, 0.3, 1.0, 3.0)]
    assert asked == sorted(asked, reverse=True)
    assert asked[0] / asked[1] == pytest.approx(9)


def test_gradients_alike_pass_and_a_mean_of_zero_never_does():
    alike = GradientMoments.of([torch.ones(5, 3)])
    opposed = GradientMoments.of([torch.tensor([[1.0, 0.0], [-1.0, 0.0]])])
    nothing = GradientMoments.of([torch.zeros(4, 3)])
    for test in TESTS.values():
        assert test(alike, 0.1).needed == 0.0
        assert test(nothing, 0.1)[:2] == (True, 0.0)
        assert test(opposed, 9.0)[:2] == (False, math.inf)


def test_isotropic_noise_asks_for_its_variance_over_the_mean_that_is_seen():
    samples, coordinates, sigma, eta, mean = 64, 4000, 1.0, 0.5, 0.05
    draw = torch.Generator().manual_seed(1)
    g = mean + sigma * torch.randn(samples, coordinates, generator=draw, dtype=torch.float64)
    variance = sigma**2 * coordinates
    expected = variance / (eta**2 * (coordinates * mean**2 + variance / samples))
    assert norm_test(GradientMoments.of([g]), eta).needed == pytest.approx(expected, rel=0.1)


def test_the_exact_test_is_about_the_error_of_batches_drawn_from_all_data():
    (g,) = drawn(samples=10, shapes=((3,),))
    mean, b = g.mean(0), 4
    draw = torch.Generator().manual_seed(0)
    batches = g[torch.randint(10, (100_000, b), generator=draw)].mean(1)
    error = (batches - mean).square().sum(1).mean().item()
    eta = math.sqrt(error / mean.square().sum().item())  # at which such batches just pass
    moments = GradientMoments.of([g])
    assert norm_test(moments, eta, batch_size=b).needed == pytest.approx(b, rel=0.02)
    along = ((batches - mean) @ mean).square().mean().item()
    theta = math.sqrt(along) / mean.square().sum().item()
    assert inner_product_test(moments, theta, batch_size=b).needed == pytest.approx(b, rel=0.02)


def test_a_quantile_lets_the_worst_coordinates_fail():
    moments = GradientMoments.of(drawn(shapes=((10,),)))
    each = sorted(naive("coordinate", g[:, None], 0.5, 1)[1] for g in drawn(shapes=((10,),))[0].T)
    for quantile, wanted in ((0.1, each[0]), (0.75, each[7]), (1.0, each[9])):
        assert coordinate_norm_test(moments, 0.5, quantile=quantile).needed == pytest.approx(wanted)


def test_per_tensor_forms_of_one_tensor_are_the_full_ones():
    moments = GradientMoments.of(drawn(shapes=((3, 4),)))
    for test in (inner_product_test, orthogonality_test):
        assert test(moments, 0.5, per_tensor=True) == pytest.approx(test(moments, 0.5))


@EACH
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_gradients_that_are_not_finite_are_refused(name, bad):
    grads = drawn()
    grads[0][3, 1, 1] = bad
    with pytest.raises(FloatingPointError, match="gradients must be finite"):
        TESTS[name](GradientMoments.of(grads), 0.5)


@EACH
def test_what_makes_no_sense_is_refused(name):
    moments = GradientMoments.of(drawn())
    for bad in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="must be positive and finite, got"):
            TESTS[name](moments, bad)
    with pytest.raises(ValueError, match="batch_size must be positive, got 0"):
        TESTS[name](moments, 0.5, batch_size=0)
    with pytest.raises(ValueError, match="needs at least 2 samples, got 1"):
        TESTS[name](GradientMoments.of([g[:1] for g in drawn()]), 0.5)


def test_the_rule_grows_by_what_the_test_asks_up_to_its_limit():
    rule = AdaptiveBatchSize(2, 30, eta=0.5)
    moments = GradientMoments.of([torch.eye(2, dtype=torch.float64)])
    assert rule.due
    assert rule.update(moments) == 8
    assert rule.update(GradientMoments.of([torch.ones(8, 2)])) == 8  # never back
    noisy = GradientMoments.of([torch.tensor([[1.0], [-1.0]])])
    assert rule.update(noisy) == 30
    assert not rule.due
    assert rule.update(None) == 30


def test_the_rule_rounds_up():
    g = torch.eye(2, dtype=torch.float64)
    assert AdaptiveBatchSize(2, 99, eta=0.6).update(GradientMoments.of([g])) == math.ceil(2 / 0.36)


def test_the_exact_rule_asks_of_its_own_batch_size():
    moments = GradientMoments.of(drawn(samples=40))
    needed = norm_test(moments, 0.7, batch_size=1).needed
    for start in (2, 20):
        rule = AdaptiveBatchSize(start, 1000, eta=0.7)
        assert rule.update(moments, exact=True) == max(start, math.ceil(needed))


@pytest.mark.parametrize("test", ["norm", "inner-product", "augmented", "coordinate"])
def test_the_rule_holds_the_test_that_it_names(test):
    moments = GradientMoments.of(drawn())
    rule = AdaptiveBatchSize(2, 10**6, test, eta=0.2, theta=0.1, nu=0.3, quantile=0.9)
    wanted = {
        "norm": [norm_test(moments, 0.2)],
        "inner-product": [inner_product_test(moments, 0.1)],
        "augmented": [inner_product_test(moments, 0.1), orthogonality_test(moments, 0.3)],
        "coordinate": [coordinate_norm_test(moments, 0.2, quantile=0.9)],
    }[test]
    assert rule.needs_products == (test in ("inner-product", "augmented"))
    assert rule.update(moments) == math.ceil(max(found.needed for found in wanted))


def test_an_interval_tests_the_first_step_of_so_many():
    rule = AdaptiveBatchSize(2, 100, interval=3)
    moments = GradientMoments.of([torch.ones(2, 2)])
    due = []
    for _ in range(7):
        due.append(rule.due)
        rule.update(moments if rule.due else None)
    assert due == [True, False, False, True, False, False, True]
    with pytest.raises(ValueError, match="step 9 is to be tested"):
        rule.update(None), rule.update(None), rule.update(None)


def test_the_rule_goes_on_from_its_state():
    rule, moments = AdaptiveBatchSize(2, 50, interval=2), GradientMoments.of([torch.eye(2)])
    rule.update(moments)
    other = AdaptiveBatchSize(2, 50, interval=2)
    other.load_state_dict(rule.state_dict())
    assert (other.batch_size, other.steps, other.due) == (8, 1, False)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 1}, r"batch_size must lie in 2\.\.max_batch_size=64, got 1"),
        ({"batch_size": 65}, "batch_size must lie in"),
        ({"test": "nrm"}, "test must be one of norm, inner-product, augmented, coordinate, got 'nrm'"),
        ({"eta": 0.0}, "eta must be positive"),
        ({"theta": -1.0}, "theta must be positive"),
        ({"nu": math.inf}, "nu must be positive"),
        ({"quantile": 0.0}, r"quantile must lie in \(0, 1\]"),
        ({"interval": 0}, "interval must be positive"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        AdaptiveBatchSize(**{"batch_size": 8, "max_batch_size": 64} | settings)
