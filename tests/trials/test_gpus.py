import tomllib
from pathlib import Path

import pytest

import assay.trials.gpus
from assay.errors import AssayError, UnknownName
from assay.trials.gpus import estimate, gpu

NAMES = tomllib.loads(Path(assay.trials.gpus.__file__).with_name("gpus.toml").read_text())["gpus"]


@pytest.mark.parametrize("name", NAMES)
def test_a_gpus_rates_fall_with_the_width_of_its_numbers(name):
    row = gpu(name)
    assert row.half > row.tf32 >= row.fp32 > 1
    assert 10e9 < row.memory < 300e9
    assert row.source
    assert row.price is None or 0.05 < row.price < 50


def test_time_is_flops_over_the_peak_rate_times_utilisation():
    a100 = gpu("A100")
    at_peak = a100.seconds_at_peak(312e12 * 3600, "bf16-mixed", 0.5)
    assert at_peak == pytest.approx(3600)
    found = estimate(a100, at_peak, price=2.0, utilisation=0.25)
    assert found.seconds == pytest.approx((4 * 3600, 4 * 3600))
    assert found.dollars == pytest.approx((8.0, 8.0))
    assert found.price_source == ""


def test_float32_is_tf32_in_convolutions_alone():
    a100 = gpu("a100")
    flops = 1e15
    assert a100.seconds_at_peak(flops, "32-true", 1.0) == pytest.approx(1000 / 156)
    assert a100.seconds_at_peak(flops, "32-true", 0.0) == pytest.approx(1000 / 19.5)
    assert a100.seconds_at_peak(flops, "32-true", 0.25) == pytest.approx(250 / 156 + 750 / 19.5)


def test_the_assumed_utilisation_is_a_range_and_the_example_price_says_whose_it_is():
    found = estimate(gpu("h100"), 100.0)
    low, high = found.utilisation
    assert 0 < low < high < 1
    assert found.seconds == pytest.approx((100 / high, 100 / low))
    assert found.price_source
    assert found.dollars == pytest.approx(tuple(found.price * s / 3600 for s in found.seconds))


def test_without_a_price_there_is_no_money_until_one_is_given():
    assert estimate(gpu("t4"), 3600.0).dollars is None
    assert estimate(gpu("t4"), 3600.0, price=0.5, utilisation=1.0).dollars == (0.5, 0.5)


def test_what_leaves_a_tenth_of_the_memory_free_fits():
    assert estimate(gpu("a100"), 1.0, memory=72e9).fits
    assert not estimate(gpu("a100"), 1.0, memory=72.1e9).fits
    assert estimate(gpu("a100"), 1.0).fits is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"price": -1.0}, "price must be dollars an hour"),
        ({"price": float("inf")}, "price must be dollars an hour"),
        ({"utilisation": 0.0}, r"utilisation must lie in \(0, 1\]"),
        ({"utilisation": 1.1}, r"utilisation must lie in \(0, 1\]"),
        ({"utilisation": float("nan")}, r"utilisation must lie in \(0, 1\]"),
    ],
)
def test_what_is_out_of_range_is_refused(given, message):
    with pytest.raises(AssayError, match=message):
        estimate(gpu("a100"), 1.0, **given)


def test_an_unknown_gpu_or_precision_is_refused():
    with pytest.raises(UnknownName, match="unknown GPU 'h10'; did you mean 'h100'"):
        gpu("h10")
    with pytest.raises(AssayError, match="precision 64-true"):
        gpu("h100").seconds_at_peak(1.0, "64-true", 0.0)
