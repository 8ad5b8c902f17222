import numpy as np
import pytest
import torch
from sklearn.isotonic import IsotonicRegression

from assay.metrics.calibration.bins import expected_calibration_error
from assay.nn.probability_maps import HistogramBinning, IsotonicCalibration

MAKERS = [IsotonicCalibration, HistogramBinning, lambda: HistogramBinning(10, binning="quantile")]


def draw(n=600, seed=0, scale=2.5, classes=3):
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(n, classes, generator=generator)
    return z * scale, torch.multinomial(z.softmax(1), 1, generator=generator)[:, 0]


def normalised(q):
    q = np.maximum(q, 1e-6)
    return q / q.sum(1, keepdims=True)


def test_isotonic_maps_are_scikit_learns_normalised():
    (z, y), (other, _) = draw(), draw(200, seed=1)
    p, q = z.softmax(1).double().numpy(), other.softmax(1).double().numpy()
    want = [
        IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(p[:, k], y.numpy() == k).predict(q[:, k])
        for k in range(3)
    ]
    found = IsotonicCalibration().fit(z, y)(other).exp()
    np.testing.assert_allclose(found.numpy(), normalised(np.stack(want, 1)), atol=2e-4)


@pytest.mark.parametrize("binning", ["uniform", "quantile"])
def test_histogram_values_are_the_shares_counted_one_by_one(binning):
    z, y = draw(300)
    p, bins = z.softmax(1).numpy(), 8
    fitted = HistogramBinning(bins, binning=binning).fit(z, y)
    mapped = np.zeros_like(p)
    for k in range(3):
        edges = fitted.edges[k].numpy()
        if binning == "uniform":
            np.testing.assert_allclose(edges, np.linspace(0, 1, bins + 1), atol=1e-7)
        which = [next((b for b in range(bins) if v <= edges[b + 1]), bins - 1) for v in p[:, k]]
        for i, b in enumerate(which):
            mapped[i, k] = np.mean([y[j] == k for j in range(300) if which[j] == b])
    np.testing.assert_allclose(fitted(z).exp().numpy(), normalised(mapped), atol=1e-6)


def test_a_bin_without_examples_keeps_its_middle():
    fitted = HistogramBinning(4).fit(torch.tensor([[9.0, 0.0], [0.0, 9.0]]), torch.tensor([0, 1]))
    assert fitted.values[0].tolist() == pytest.approx([0.0, 0.375, 0.625, 1.0])


@pytest.mark.parametrize("make", MAKERS)
def test_overconfident_logits_become_calibrated(make):
    fitted = make().fit(*draw(5000))
    z, y = draw(5000, seed=1)
    assert float(expected_calibration_error(fitted(z), y)) < 0.3 * float(expected_calibration_error(z, y))


@pytest.mark.parametrize("make", MAKERS)
def test_what_comes_out_are_probabilities_of_any_place_and_logits_however_large(make):
    z, y = draw(120, scale=1e4)
    fitted = make().fit(z, y)
    found = fitted(z.reshape(10, 12, 3).movedim(-1, 1))
    assert found.shape == (10, 3, 12)
    assert found.isfinite().all()
    torch.testing.assert_close(found.exp().sum(1), torch.ones(10, 12))
    torch.testing.assert_close(found.movedim(1, -1).reshape(-1, 3), fitted(z))
    assert fitted(z.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("make", MAKERS)
def test_state_goes_to_another_whatever_the_size(make):
    z, y = draw()
    fitted, other = make().fit(z, y), make()
    other.load_state_dict(fitted.state_dict())
    assert torch.equal(other(z), fitted(z))


@pytest.mark.parametrize("make", MAKERS)
def test_one_class_and_one_example(make):
    one = make().fit(torch.tensor([[2.0]]), torch.tensor([0]))
    assert float(one(torch.tensor([[5.0]])).exp()) == pytest.approx(1)


@pytest.mark.parametrize("make", MAKERS)
def test_maps_that_are_not_fitted_or_of_other_classes_are_refused(make):
    z, y = draw()
    with pytest.raises(RuntimeError, match="has not been fitted"):
        make()(z)
    with pytest.raises(ValueError, match="must have 3 classes, got 2"):
        make().fit(z, y)(z[:, :2])
    with pytest.raises(ValueError, match=r"target must lie in \[0, 3\)"):
        make().fit(z, y + 1)


def test_settings_out_of_range_are_refused():
    with pytest.raises(ValueError, match="n_bins must be at least 1"):
        HistogramBinning(0)
    with pytest.raises(ValueError, match="floor must lie"):
        IsotonicCalibration(floor=0.0)
