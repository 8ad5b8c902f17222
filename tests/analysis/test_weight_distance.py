import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from assay.analysis.fits import fit_line
from assay.analysis.weight_distance import WeightDistance


def test_line_is_that_of_scipy():
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=20), generator.normal(size=20)
    want = stats.linregress(x, y)
    assert fit_line(x, y) == pytest.approx((want.slope, want.intercept, want.rvalue**2))


def test_line_through_equal_values_is_exact():
    assert fit_line(np.array([1.0, 2.0]), np.array([3.0, 3.0])) == (0, 3, 1)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        ([1.0, 1.0], [1.0, 2.0], "at least two different values, got 1"),
        ([], [], "at least two different values, got 0"),
        ([1.0, math.nan], [1.0, 2.0], "must be finite"),
    ],
)
def test_line_through_bad_points_is_refused(x, y, message):
    with pytest.raises(ValueError, match=message):
        fit_line(np.array(x), np.array(y))


def test_line_through_points_of_unequal_number_is_refused():
    with pytest.raises((ValueError, TypeError), match="y"):
        fit_line(np.arange(2.0), np.arange(3.0))


def record(distance, steps=range(1, 200)):
    """A recorder whose network moves as `distance(t)` says, along a fixed direction over two tensors."""
    model = nn.Linear(3, 2, dtype=torch.float64)
    start = [p.detach().clone() for p in model.parameters()]
    recorder = WeightDistance(model)
    for t in steps:
        with torch.no_grad():
            for p, q in zip(model.parameters(), start, strict=True):
                p.copy_(q + distance(t) / math.sqrt(8))  # eight weights in all
        recorder.update(t)
    return recorder


def test_distance_is_that_of_the_joined_weight_vector():
    recorder = record(lambda t: float(t), [1, 5])
    np.testing.assert_allclose(recorder.distances, [1, 5])
    assert recorder.steps.tolist() == [1, 5]


def test_each_law_fits_itself_best():
    for law, truth in (("log", math.log), ("sqrt", math.sqrt), ("linear", float)):
        recorder = record(lambda t, truth=truth: 0.5 + 2 * truth(t))
        line = recorder.fit(law)
        assert line == pytest.approx((2, 0.5, 1))
        assert all(recorder.fit(other).r2 < 0.99 for other in ("log", "sqrt", "linear") if other != law)


@pytest.mark.parametrize("alpha", [1.0, 2.0, 3.0])
def test_alpha_is_recovered(alpha):
    assert record(lambda t: 3 * math.log(t) ** (2 / alpha)).alpha() == pytest.approx(alpha)


def test_only_steps_up_to_the_limit_count():
    recorder = record(lambda t: math.log(t) if t <= 100 else 50.0)
    assert recorder.fit(until=100).slope == pytest.approx(1)
    assert recorder.alpha(until=100) == pytest.approx(2)
    assert recorder.fit().r2 < 0.9


def test_chosen_parameters_alone_are_watched():
    model = nn.Linear(3, 2)
    recorder = WeightDistance(model, [model.weight])
    with torch.no_grad():
        model.bias.add_(1)
    recorder.update(1)
    assert recorder.distances.tolist() == [0]


def test_half_precision_weights_are_measured_in_float32():
    model = nn.Linear(64, 64, dtype=torch.bfloat16)
    recorder = WeightDistance(model, [model.weight])
    start = model.weight.detach().float()
    with torch.no_grad():
        model.weight.add_(torch.randn(64, 64, generator=torch.Generator().manual_seed(0)).bfloat16())
    recorder.update(1)
    want = (model.weight.detach() - start.bfloat16()).double().norm().item()
    assert recorder.distances[0] == pytest.approx(want, rel=1e-5)


def test_records_survive_a_resume():
    recorder = record(math.log, range(1, 50))
    other = WeightDistance(nn.Linear(3, 2, dtype=torch.float64))
    other.load_state_dict(recorder.state_dict())
    other.update(50)
    np.testing.assert_array_equal(other.distances[:-1], recorder.distances)
    assert other.distances[-1] > 0


def test_bad_use_is_refused():
    recorder = record(float, [3])
    with pytest.raises(ValueError, match=r"step must grow from 1 on, got 3 after \[3\]"):
        recorder.update(3)
    with pytest.raises(ValueError, match="step must grow from 1 on, got 0"):
        WeightDistance(nn.Linear(1, 1)).update(0)
    with pytest.raises((ValueError, TypeError), match="law"):
        recorder.fit("cubic")
    with pytest.raises(ValueError, match="at least two different values"):
        recorder.fit()


def test_the_start_follows_a_network_that_is_moved():
    model = nn.Linear(3, 2)
    walk = WeightDistance(model)
    model.to("meta")  # a device like any other, but that nothing is computed there
    walk.update(1)
    assert walk.steps.tolist() == [1]
