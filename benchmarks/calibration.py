"""How long do calibration errors take, here and elsewhere?

    python benchmarks/calibration.py [--device cuda] [--repeats 21] [--examples 10000] [--classes 10]

Milliseconds on one thread, the contenders taking turns; median of the repeats. On a CPU it is the process's own time,
so that a busy machine does not show. Every contender gets what it wants most: probabilities (as tensors or arrays)
where it takes no logits. Peers: torchmetrics, and netcal and uncertainty-calibration where they are installed
(benchmarks/peers.txt). Beside each time is the value, so that it can be seen what agrees.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from assay.metrics.calibration.accumulate import Accumulated, BinnedCalibration
from assay.metrics.calibration.bins import (
    bin_sums,
    classwise_calibration_error,
    error_of,
    expected_calibration_error,
    max_calibration_error,
    sort_top,
)
from assay.metrics.calibration.mmce import mmce
from assay.metrics.calibration.predictions import checked, top_label
from assay.metrics.calibration.report import BINS, calibration_report
from assay.nn.logit_scaling import TemperatureScaling

Contenders = dict[str, Callable[[], Any]]


def questions(z: Tensor, y: Tensor) -> dict[str, Contenders]:
    """What is asked, and who answers; assay first."""
    p, ece = z.softmax(1), partial(expected_calibration_error, probabilities=True)
    found: dict[str, Contenders] = {
        "ECE of logits, 15 bins": {"assay": lambda: expected_calibration_error(z, y)},
        "ECE, 15 bins": {"assay": lambda: expected_calibration_error(p, y, probabilities=True)},
        "MCE, 15 bins": {"assay": lambda: max_calibration_error(p, y, probabilities=True)},
        "ECE, 15 equal masses": {
            "assay": lambda: expected_calibration_error(p, y, binning="quantile", probabilities=True)
        },
        "cwCE, 15 bins": {"assay": lambda: classwise_calibration_error(p, y, probabilities=True)},
        "ECE and MCE for 9 numbers of bins": {
            "assay": lambda: eighteen(p, y),
            "assay, all 51 measures": lambda: calibration_report(z, y)["ece_15"],
        },
        "ECE in batches of 500": {
            "assay": lambda: batches_of(Accumulated(ece, device=z.device), p, y),
            "assay, sums of all by width": lambda: batches_of(BinnedCalibration(z.shape[1], device=z.device), z, y)[
                "ece_15"
            ],
        },
        "MMCE": {"assay": lambda: mmce(p, y, probabilities=True), "all pairs": lambda: all_pairs(p, y)},
        "temperature": {"assay": lambda: TemperatureScaling().fit(z, y).temperature},
    }
    if find_spec("torchmetrics") is not None:
        add_torchmetrics(found, z, p, y)
    if find_spec("netcal") is not None and not z.is_cuda:
        add_netcal(found, p, y)
    if find_spec("calibration") is not None and not z.is_cuda:
        import calibration

        arrays = p.double().numpy(), y.numpy()
        found["ECE, 15 bins"]["uncertainty-calibration"] = lambda: calibration.get_ece(*arrays, num_bins=15)
        found["ECE, 15 equal masses"]["uncertainty-calibration"] = lambda: calibration.get_ece_em(*arrays, num_bins=15)
    return found


def eighteen(p: Tensor, y: Tensor) -> Tensor:
    """ECE and MCE for each number of bins, from one sort."""
    series = sort_top(top_label(checked(p, y, probabilities=True)))
    sums = [bin_sums(series, bins) for bins in BINS]
    both = [(error_of(found, "l1"), error_of(found, "max")) for found in sums]
    return both[BINS.index(15)][0][0]


def batches_of(metric: Any, z: Tensor, y: Tensor) -> Any:
    for a, b in zip(z.split(500), y.split(500), strict=True):
        metric.update(a, b)
    return metric.compute()


def all_pairs(p: Tensor, y: Tensor) -> Tensor:
    """The plain form, n^2 in time and memory."""
    c, predicted = p.max(1)
    u = ((predicted == y).double() - c) / len(c)
    return (u @ (-(c[:, None] - c).abs().double() / 0.4).exp() @ u).sqrt()


def add_torchmetrics(found: dict[str, Contenders], z: Tensor, p: Tensor, y: Tensor) -> None:
    from torchmetrics.classification import MulticlassCalibrationError
    from torchmetrics.functional.classification import multiclass_calibration_error

    classes = p.shape[1]

    def by(norm: Any, bins: int = 15, check: bool = True) -> Tensor:
        return multiclass_calibration_error(p, y, classes, n_bins=bins, norm=norm, validate_args=check)

    def many() -> Tensor:
        both = [(by("l1", bins), by("max", bins)) for bins in BINS]
        return both[BINS.index(15)][0]

    found["ECE of logits, 15 bins"]["torchmetrics"] = lambda: multiclass_calibration_error(z, y, classes, n_bins=15)
    found["ECE, 15 bins"] |= {
        "torchmetrics": lambda: by("l1"),
        "torchmetrics, unchecked": lambda: by("l1", check=False),
    }
    found["MCE, 15 bins"]["torchmetrics"] = lambda: by("max")
    found["ECE and MCE for 9 numbers of bins"]["torchmetrics, the 18 alone"] = many
    found["ECE in batches of 500"]["torchmetrics"] = lambda: batches_of(
        MulticlassCalibrationError(classes, n_bins=15).to(p.device), p, y
    )


def add_netcal(found: dict[str, Contenders], p: Tensor, y: Tensor) -> None:
    from netcal.metrics import ACE, ECE, MCE
    from netcal.scaling import TemperatureScaling as Theirs

    arrays = p.double().numpy(), y.numpy()
    found["ECE, 15 bins"]["netcal"] = lambda: ECE(15).measure(*arrays)
    found["MCE, 15 bins"]["netcal"] = lambda: MCE(15).measure(*arrays)
    found["ECE, 15 equal masses"]["netcal ACE"] = lambda: ACE(15).measure(*arrays)

    def temperature() -> float:
        model = Theirs()
        model.fit(*arrays)
        return 1 / float(model.temperature[0])

    found["temperature"]["netcal"] = temperature


def milliseconds(contenders: Contenders, repeats: int, cuda: bool) -> tuple[dict[str, float], dict[str, float]]:
    clock = time.perf_counter if cuda else time.process_time
    times: dict[str, list[float]] = {name: [] for name in contenders}
    values = {}
    for repeat in range(repeats + 2):
        for name, answer in contenders.items():
            start = clock()
            values[name] = float(answer())  # reading it waits for the device
            if repeat >= 2:
                times[name].append(1e3 * (clock() - start))
    return {name: statistics.median(found) for name, found in times.items()}, values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=21)
    parser.add_argument("--examples", type=int, default=10_000)
    parser.add_argument("--classes", type=int, default=10)
    options = parser.parse_args()
    # this file has the name of uncertainty-calibration's package, and would be imported in its place
    sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != Path(__file__).resolve().parent]
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    z = 3 * torch.randn(options.examples, options.classes, generator=generator)
    y = torch.multinomial((z / 1.8).softmax(1), 1, generator=generator)[:, 0]
    z, y = z.to(options.device), y.to(options.device)
    for name in ("torchmetrics", "netcal", "calibration"):
        if find_spec(name) is None:
            print(f"{name} is not installed, so it is not among the contenders")
    print(f"{options.examples} examples, {options.classes} classes\n")
    print("| question | contender | ms | value | times assay's |\n| --- | --- | --- | --- | --- |")
    for question, contenders in questions(z, y).items():
        found, values = milliseconds(contenders, options.repeats, z.is_cuda)
        for name, ms in found.items():
            print(f"| {question} | {name} | {ms:.3f} | {values[name]:.6g} | {ms / found['assay']:.2f} |", flush=True)


if __name__ == "__main__":
    main()
