from functools import partial

import pytest
import torch

from assay.metrics.calibration.accumulate import Accumulated, BinnedCalibration
from assay.metrics.calibration.bins import expected_calibration_error, ks_calibration_error
from assay.metrics.calibration.report import calibration_report
from tests.ranks import on_two_ranks

BINS = (5, 15)


def draw(n=101, classes=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, classes, generator=generator), torch.randint(classes, (n,), generator=generator)


def fed(metric, z, y, size=17):
    for a, b in zip(z.split(size), y.split(size), strict=True):
        metric.update(a, b)
    return metric


def test_batches_give_what_all_at_once_gives():
    z, y = draw()
    quantile = partial(expected_calibration_error, binning="quantile")
    for measure in (expected_calibration_error, quantile, ks_calibration_error):
        assert float(fed(Accumulated(measure), z, y).compute()) == float(measure(z, y))
    found = fed(BinnedCalibration(4, BINS), z, y).compute()
    whole = calibration_report(z, y, bins=BINS)
    assert found == pytest.approx({name: whole[name] for name in found}, rel=1e-6)
    assert {"ece_5", "mce_15", "cwce_15", "nll", "brier", "accuracy"} <= set(found)


def test_places_count_as_examples():
    z, y = draw(60)
    image, classes = z.reshape(5, 12, 4).movedim(-1, 1), y.reshape(5, 12)
    assert fed(BinnedCalibration(4), image, classes, 2).compute() == fed(BinnedCalibration(4), z, y, 24).compute()
    assert float(fed(Accumulated(ks_calibration_error), image, classes, 2).compute()) == float(
        ks_calibration_error(z, y)
    )


@pytest.mark.parametrize("make", [lambda: Accumulated(expected_calibration_error), lambda: BinnedCalibration(4, BINS)])
def test_state_goes_on_elsewhere_and_reset_forgets(make):
    z, y = draw()
    half, other = fed(make(), z[:50], y[:50]), make()
    other.load_state_dict(half.state_dict())
    half.reset()
    found, want = fed(other, z[50:], y[50:]).compute(), fed(make(), z, y).compute()
    if not isinstance(found, dict):
        found, want = float(found), float(want)
    assert found == pytest.approx(want, rel=1e-6)  # scores of a batch are float32
    with pytest.raises(ValueError, match=r"at least one batch to update\(\) first"):
        half.compute()


def _share(rank, empty):
    z, y = draw()
    first = 0 if empty else 30
    part = slice(0, first) if rank == 0 else slice(first, None)
    kept, sums = Accumulated(expected_calibration_error), BinnedCalibration(4, BINS)
    if len(z[part]):
        fed(kept, z[part], y[part])
        fed(sums, z[part], y[part])
    return {"kept": kept.gathered().compute(), "sums": sums.gathered().compute()}


@pytest.mark.parametrize("empty", [False, True])
def test_processes_give_what_one_gives_whatever_their_shares(empty, tmp_path):
    z, y = draw()
    for found in on_two_ranks(_share, tmp_path, empty):
        assert float(found["kept"]) == float(expected_calibration_error(z, y))
        assert found["sums"] == pytest.approx(fed(BinnedCalibration(4, BINS), z, y).compute(), rel=1e-6)


def test_what_does_not_fit_is_refused():
    kept = fed(Accumulated(expected_calibration_error), *draw())
    with pytest.raises(ValueError, match="4 classes as before, got 3"):
        kept.update(*draw(classes=3))
    with pytest.raises(ValueError, match="must fit"):
        kept.update(torch.randn(3, 4), torch.zeros(2, dtype=torch.long))
    with pytest.raises(ValueError, match="must have 4 classes, got 3"):
        BinnedCalibration(4).update(*draw(classes=3))
    with pytest.raises(ValueError, match="at least 1"):
        BinnedCalibration(0)
    with pytest.raises(ValueError, match="state must hold"):
        BinnedCalibration(4).load_state_dict(BinnedCalibration(5).state_dict())


def test_updates_keep_no_gradient_and_no_view():
    z, y = draw(10)
    kept = Accumulated(expected_calibration_error)
    kept.update(z.requires_grad_(), y)
    want = float(expected_calibration_error(z.detach(), y))
    with torch.no_grad():
        z.zero_()
    assert float(kept.compute()) == want
    assert not kept.compute().requires_grad
