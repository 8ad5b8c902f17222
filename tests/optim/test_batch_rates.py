"""Largest rates against what heavy-ball SGD does on a quadratic; rules against their limits."""

import math

import pytest
import torch

from assay.analysis.batch_spectrum import BatchSpectrum, MarchenkoPasturNoise, WignerNoise
from assay.optim.batch_rates import max_learning_rate, scale_learning_rate


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_sgd_diverges_just_above_the_largest_rate_and_not_just_below(momentum):
    eigenvalues = torch.tensor([4.0, 0.5], dtype=torch.float64)
    for factor, diverges in ((0.98, False), (1.02, True)):
        w = torch.ones(2, dtype=torch.float64, requires_grad=True)
        sgd = torch.optim.SGD([w], lr=factor * max_learning_rate(4.0, momentum=momentum), momentum=momentum)
        for _ in range(3000):
            w.grad = eigenvalues * w.detach()
            sgd.step()
        assert (float(w.detach().norm()) > 1e3) is diverges
        assert (float(w.detach().norm()) < 1e-3) is not diverges


def test_without_positive_curvature_any_rate_will_do():
    assert max_learning_rate(0.0) == max_learning_rate(-3.0) == math.inf


def test_rules_without_a_spectrum_are_powers_that_compose():
    assert scale_learning_rate(0.1, 32, 128) == pytest.approx(0.4)
    assert scale_learning_rate(0.1, 32, 128, "sqrt") == pytest.approx(0.2)
    for rule in ("linear", "sqrt"):
        there = scale_learning_rate(0.1, 32, 50, rule)
        assert scale_learning_rate(there, 50, 800, rule) == pytest.approx(scale_learning_rate(0.1, 32, 800, rule))
        assert scale_learning_rate(0.1, 7, 7, rule) == 0.1


def test_rules_on_a_spectrum_are_the_powers_in_noise_and_level_off_above_it():
    spectrum = BatchSpectrum(1.0, 0.0, MarchenkoPasturNoise(10**9, 0.01))
    for rule, factor in (("linear", 16), ("sqrt", 4)):
        grown = scale_learning_rate(0.1, 4, 64, rule, largest_at=spectrum.largest_at)
        assert grown == pytest.approx(0.1 * factor, rel=0.02)
        flat = scale_learning_rate(0.1, 10**11, 10**12, rule, largest_at=spectrum.largest_at)
        assert flat == pytest.approx(0.1, rel=0.02)


def test_the_linear_rule_on_a_spectrum_keeps_the_share_of_the_largest_rate():
    spectrum = BatchSpectrum(2.0, -0.1, WignerNoise(5000, 0.02, 10_000))
    for batch in (1, 16, 300, 10_000):
        lr = scale_learning_rate(0.05, 64, batch, largest_at=spectrum.largest_at)
        share = lr / max_learning_rate(spectrum.largest_at(batch))
        assert share == pytest.approx(0.05 / max_learning_rate(spectrum.largest_at(64)))


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match=r"momentum must lie in \[0, 1\), got 1"):
        max_learning_rate(1.0, momentum=1.0)
    with pytest.raises(ValueError, match="got NaN"):
        max_learning_rate(math.nan)
    with pytest.raises(ValueError, match="base_batch must be positive, got 0"):
        scale_learning_rate(0.1, 0, 4)
    with pytest.raises(ValueError, match="positive eigenvalues, got -1"):
        scale_learning_rate(0.1, 1, 4, largest_at=lambda batch: -1.0)
    if not hasattr(scale_learning_rate, "__wrapped__"):  # else the types are checked before
        with pytest.raises(ValueError, match="rule must be linear or sqrt"):
            scale_learning_rate(0.1, 1, 4, "cubic")
