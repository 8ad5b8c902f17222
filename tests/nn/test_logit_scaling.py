import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from torch.nn.functional import cross_entropy

from assay.metrics.calibration.bins import expected_calibration_error
from assay.nn.logit_scaling import COLDEST, HOTTEST, MatrixScaling, TemperatureScaling, VectorScaling

CLASSES = 5


def draw(n=2000, seed=0, scale=1.0):
    """Logits and classes drawn by them, the logits then made `scale` times too large."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(n, CLASSES, generator=generator, dtype=torch.float64) * 2
    return z * scale, torch.multinomial(z.softmax(1), 1, generator=generator)[:, 0]


def test_the_temperature_of_overconfident_logits_is_found_and_the_ece_falls():
    scaling = TemperatureScaling().fit(*draw(20_000, scale=1.8))
    assert float(scaling.temperature) == pytest.approx(1.8, abs=0.05)
    z, y = draw(20_000, seed=1, scale=1.8)
    before, after = (float(expected_calibration_error(v, y)) for v in (z, scaling(z)))
    assert after < 0.3 * before


def test_the_temperature_is_that_of_a_bounded_search_and_has_no_slope():
    z, y = draw(scale=0.7)
    t = float(TemperatureScaling().fit(z, y).temperature)
    found = minimize_scalar(lambda t: float(cross_entropy(z / t, y)), bounds=(0.05, 20), options={"xatol": 1e-9})
    assert t == pytest.approx(found.x, abs=1e-6)
    free = torch.tensor(t, requires_grad=True, dtype=torch.float64)
    (slope,) = torch.autograd.grad(cross_entropy(z / free, y), free)
    assert float(slope) == pytest.approx(0, abs=1e-8)


def test_reference_vectors(vectors):
    with np.load(vectors / "calibration.npz", allow_pickle=False) as file:
        known = dict(file)
    z, y = torch.from_numpy(known["logits"]), torch.from_numpy(known["labels"])
    assert float(TemperatureScaling().fit(z, y).temperature) == pytest.approx(float(known["temp_nll_opt"]), abs=1e-5)
    grid = [float(TemperatureScaling(criterion=c, search="grid").fit(z, y).temperature) for c in ("nll", "ece")]
    assert grid == pytest.approx(known["temp_grid"].tolist(), abs=1e-6)


@pytest.mark.parametrize("criterion", ["nll", "ece"])
def test_the_grid_takes_the_lowest_of_equals(criterion):
    scaling = TemperatureScaling(criterion=criterion, search="grid").fit(torch.zeros(4, 2), torch.tensor([0, 0, 1, 1]))
    assert float(scaling.temperature) == pytest.approx(0.1)


@pytest.mark.parametrize("places", [(), (3, 2)])
def test_predictions_and_accuracy_stay(places):
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(20, 4, *places, generator=generator)
    y = torch.randint(4, (20, *places), generator=generator)
    scaling = TemperatureScaling().fit(z, y)
    assert torch.equal(scaling(z).argmax(1), z.argmax(1))
    assert scaling(z).shape == z.shape
    assert scaling(z).dtype == z.dtype


@pytest.mark.parametrize(("right", "want"), [(True, COLDEST), (False, HOTTEST)])
def test_separable_examples_stop_at_the_bounds(right, want):
    z = torch.eye(3) * 4
    y = torch.arange(3) if right else (torch.arange(3) + 1) % 3
    assert float(TemperatureScaling().fit(z, y).temperature) == want


def test_logits_that_say_nothing_keep_their_temperature():
    assert float(TemperatureScaling().fit(torch.zeros(6, 3), torch.arange(6) % 3).temperature) == 1
    assert float(TemperatureScaling().fit(torch.randn(6, 1), torch.zeros(6, dtype=torch.long)).temperature) == 1


def test_extreme_logits_have_a_temperature():
    z, y = draw(200)
    assert float(TemperatureScaling().fit(z * 1e4, y).temperature) == HOTTEST
    for kind in (VectorScaling, MatrixScaling):
        scaling = kind(CLASSES).fit(z * 1e4, y)
        assert scaling(z).isfinite().all()


@pytest.mark.parametrize("kind", [VectorScaling, MatrixScaling])
def test_affine_maps_undo_what_was_done_to_the_logits(kind):
    z, y = draw(20_000)
    scale = torch.tensor([0.5, 1.0, 2.0, 1.5, 0.8], dtype=torch.float64)
    shift = torch.tensor([1.0, 0.0, -1.0, 0.5, 0.0], dtype=torch.float64)
    spoilt = (z - shift) / scale
    scaling = kind(CLASSES, ridge=0.0).fit(spoilt, y)
    assert float(cross_entropy(scaling(spoilt), y)) == pytest.approx(float(cross_entropy(z, y)), abs=2e-3)
    off = (scaling(spoilt) - z).log_softmax(1).exp() * CLASSES  # up to a shift of all classes
    assert float((off - 1).abs().mean()) < 0.1


@pytest.mark.parametrize("kind", [VectorScaling, MatrixScaling])
def test_the_ridge_pulls_to_the_identity(kind):
    z, y = draw(300, scale=3.0)
    held = kind(CLASSES, ridge=1e6).fit(z, y)
    torch.testing.assert_close(held(z), z, atol=1e-3, rtol=1e-3)
    assert cross_entropy(kind(CLASSES).fit(z, y)(z), y) < cross_entropy(z, y)


@pytest.mark.parametrize("kind", [VectorScaling, MatrixScaling])
def test_no_weights_do_better_nearby(kind):
    z, y = draw(400, scale=1.5)
    scaling = kind(CLASSES, ridge=0.01).fit(z, y)
    start = kind(CLASSES).weight.double()

    def objective(w, b):
        out = z * w + b if w.ndim == 1 else z @ w.T + b
        return cross_entropy(out, y) + 0.01 * ((w - start).square().sum() + b.square().sum())

    w, b = scaling.weight.double().requires_grad_(), scaling.bias.double().requires_grad_()
    slopes = torch.autograd.grad(objective(w, b), (w, b))
    assert all(float(s.abs().max()) < 1e-5 for s in slopes)


def makers():
    return [lambda: TemperatureScaling(), lambda: VectorScaling(CLASSES), lambda: MatrixScaling(CLASSES)]


@pytest.mark.parametrize("make", makers())
def test_state_goes_to_another_and_unfitted_is_the_identity(make):
    z, y = draw(100)
    other = make()
    torch.testing.assert_close(other(z), z)
    fitted = make().fit(z * 3, y)
    other.load_state_dict(fitted.state_dict())
    assert torch.equal(other(z), fitted(z))


@pytest.mark.parametrize("make", makers())
def test_bfloat16_logits_are_mapped_as_such_and_places_alike(make):
    z, y = draw(120)
    fitted = make().fit(z.bfloat16(), y)
    assert fitted(z.bfloat16()).dtype == torch.bfloat16
    places = z.reshape(10, 12, CLASSES).movedim(-1, 1)
    torch.testing.assert_close(fitted(places).movedim(1, -1).reshape(-1, CLASSES), fitted(z))
    again = make().fit(places.bfloat16(), y.reshape(10, 12))
    torch.testing.assert_close(again(z), fitted(z))


def test_gradients_pass_through():
    z = draw(6)[0]
    for make in makers():
        fitted = make().fit(*draw(100)).double()
        z.requires_grad_()
        assert torch.autograd.gradcheck(fitted, z)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: TemperatureScaling(criterion="ece"), "give search='grid'"),
        (lambda: VectorScaling(0), "at least 1, got 0"),
        (lambda: MatrixScaling(3, ridge=-1.0), "ridge must be at least 0"),
        (lambda: TemperatureScaling().fit(torch.tensor([[-math.inf, 0.0]]), torch.tensor([1])), "must be finite"),
        (lambda: TemperatureScaling().fit(torch.zeros(2, 2), torch.tensor([0, 2])), r"target must lie in \[0, 2\)"),
        (lambda: VectorScaling(3).fit(torch.zeros(2, 2), torch.tensor([0, 1])), "must have 3 classes, got 2"),
    ],
)
def test_what_cannot_be_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
