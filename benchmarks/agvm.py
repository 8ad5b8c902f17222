"""What AGVM adds to a step of SGD or AdamW, on the tensors of a ResNet-50 in four modules.

    python benchmarks/agvm.py --threads 1 2 --repeats 9

An optimizer with AGVM and the same one without, with the same groups, take turns in one process, ten steps at a time,
of which AGVM measures the variances once, as is its default. Printed are the median wall time of a step of each, their
ratio, the median ratio of the turns, and the time of one measurement: to keep a copy of the first half's gradients and
to compare. The two backward passes of half a batch each are not counted. No other implementation is packaged.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from optimizer_step import parameters, resnet50
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from assay.optim import AGVM

INTERVAL = 10
MAKERS: dict[str, Callable[[Any], Optimizer]] = {
    "SGD, momentum": lambda groups: SGD(groups, lr=1e-3, momentum=0.9, weight_decay=0.01),
    "AdamW": lambda groups: AdamW(groups, lr=1e-3, weight_decay=0.01),
    "AdamW, fused": lambda groups: AdamW(groups, lr=1e-3, weight_decay=0.01, fused=True),
}


def groups_of(made: list[nn.Parameter]) -> list[dict[str, Any]]:
    """Four modules with a fourth of the tensors each."""
    size = -(-len(made) // 4)
    return [{"params": made[i : i + size], "module": str(i)} for i in range(0, len(made), size)]


class Contender:
    """An optimizer on tensors of its own, with or without AGVM."""

    def __init__(self, make: Callable[[Any], Optimizer], modulated: bool) -> None:
        self.parameters = parameters(list(resnet50()))
        self.whole = [p.grad for p in self.parameters]
        draw = torch.Generator().manual_seed(1)
        self.half = [0.5 * g + 0.005 * torch.randn(g.shape, generator=draw) for g in self.whole if g is not None]
        self.optimizer = make(groups_of(self.parameters))
        self.agvm = AGVM(self.optimizer, interval=INTERVAL) if modulated else None

    def put(self, gradients: list[Any]) -> None:
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient

    def turn(self) -> tuple[float, float]:
        """Milliseconds of a step, the mean of `INTERVAL`, and of the one measurement."""
        measuring = 0.0
        began = time.perf_counter()
        for _ in range(INTERVAL):
            if self.agvm is not None and self.agvm.due:
                start = time.perf_counter()
                self.put(self.half)
                self.agvm.split()
                self.put(self.whole)
                self.agvm.measure()
                measuring = time.perf_counter() - start
            self.optimizer.step()
        return 1e3 * (time.perf_counter() - began) / INTERVAL, 1e3 * measuring


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    for threads in options.threads:
        torch.set_num_threads(threads)
        print(f"\n{threads} thread(s); ms a step")
        print(f"  {'':16s}{'plain':>9s}{'AGVM':>9s}{'ratio':>8s}{'of turns':>10s}{'measuring':>11s}")
        for label, make in MAKERS.items():
            plain, modulated = Contender(make, False), Contender(make, True)
            turns = [(plain.turn()[0], *modulated.turn()) for _ in range(options.repeats + 1)][1:]
            base, ours, measuring = (statistics.median(values) for values in zip(*turns, strict=True))
            ratio = statistics.median(turn[1] / turn[0] for turn in turns)
            print(f"  {label:16s}{base:9.2f}{ours:9.2f}{ours / base:8.2f}{ratio:10.2f}{measuring:11.1f}")


if __name__ == "__main__":
    main()
