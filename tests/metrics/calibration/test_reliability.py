import xml.etree.ElementTree as ET

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from assay.metrics.calibration.bins import expected_calibration_error
from assay.metrics.calibration.reliability import reliability


def draw(n=500):
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(n, 5, generator=generator) * 2
    return z, torch.multinomial((z / 2).softmax(1), 1, generator=generator)[:, 0]


@pytest.mark.parametrize("binning", ["uniform", "quantile"])
def test_bins_hold_all_examples_and_make_up_the_ece(binning):
    z, y = draw()
    found = reliability(z, y, 10, binning=binning)
    assert found.count.sum() == 500
    gaps = found.count / 500 * np.abs(found.accuracy - found.confidence)
    assert gaps.sum() == pytest.approx(found.ece)
    assert found.ece == pytest.approx(float(expected_calibration_error(z, y, 10, binning=binning)))
    p = z.softmax(1)
    assert (found.count * found.confidence).sum() == pytest.approx(float(p.amax(1).sum()), rel=1e-5)


def test_intervals_are_wilsons():
    found = reliability(*draw(), 10)
    for n, a, low, high in zip(found.count, found.accuracy, found.low, found.high, strict=True):
        want = binomtest(round(a * n), int(n)).proportion_ci(method="wilson")
        assert (low, high) == pytest.approx((want.low, want.high), abs=1e-6)


def test_the_chart_is_well_formed_and_shows_each_bin():
    found = reliability(*draw(), 10)
    root = ET.fromstring(found.svg("a < b & c"))
    space = "{http://www.w3.org/2000/svg}"
    circles = root.findall(f".//{space}circle")
    assert len(circles) == len(found.count)
    assert root.find(f"{space}title").text == "a < b & c"
    _, _, width, height = map(float, root.get("viewBox").split())
    for circle, c, a in zip(circles, found.confidence, found.accuracy, strict=True):
        x, y = float(circle.get("cx")), float(circle.get("cy"))
        assert 0 < x < width
        assert 0 < y < height
        assert x - 52 == pytest.approx(300 * c, abs=1e-2)
        assert 340 - y == pytest.approx(300 * a, abs=1e-2)


def test_one_example_has_a_chart():
    ET.fromstring(reliability(torch.tensor([[1e4, 0.0]]), torch.tensor([1])).svg())
