"""Time of one LAMB, LARS or AdaGrad-Norm step beside torch's AdamW and Adagrad and the peers' LAMB and LARS.

    python benchmarks/optimizer_step.py --shapes resnet50 bert --threads 1 2 --repeats 11

All optimizers live in one process and take turns, so that what else the machine does falls on all alike; printed are
the median and the least wall time of a step, the median processor time of all threads (which a busy machine disturbs
less), and how the medians compare with those of the fastest peer of the same method. How to get the peers:
`benchmarks/peers.txt`. The shapes of BERT take about 1.7 GB an optimizer: `--only` picks some.
"""

import argparse
import importlib
import importlib.machinery
import math
import statistics
import sys
import time
import types
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.optim import Adagrad, AdamW, Optimizer

from assay.optim import LAMB, LARS, AdaGradNorm

Shape = tuple[int, ...]


def resnet50() -> Iterator[Shape]:
    """Convolutions, each with the two vectors of its batch norm, and the classifier: 161 tensors, 25.6 M."""

    def unit(out: int, into: int, kernel: int) -> list[Shape]:
        return [(out, into, kernel, kernel), (out,), (out,)]

    yield from unit(64, 3, 7)
    into = 64
    for width, count in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(count):
            yield from (*unit(width, into, 1), *unit(width, width, 3), *unit(4 * width, width, 1))
            if block == 0:
                yield from unit(4 * width, into, 1)
            into = 4 * width
    yield from ((1000, 2048), (1000,))


def bert() -> Iterator[Shape]:
    """BERT-base: embeddings, twelve layers of attention and perceptron, pooler: 199 tensors, 109.5 M."""
    d = 768
    yield from ((30522, d), (512, d), (2, d), (d,), (d,))
    for _ in range(12):
        yield from [(d, d), (d,)] * 4
        yield from ((d,), (d,), (4 * d, d), (4 * d,), (d, 4 * d), (d,), (d,), (d,))
    yield from ((d, d), (d,))


SHAPES: dict[str, Callable[[], Iterator[Shape]]] = {"resnet50": resnet50, "bert": bert}


def peer(module: str, name: str) -> type[Any]:
    """A class of an installed package, of which only the module asked for is executed.

    timm's packages import torchvision, which its optimizers and layers do not need; empty ones take their place.
    """
    package, *inner = module.split(".")
    if inner:
        places = list(importlib.machinery.PathFinder.find_spec(package).submodule_search_locations)
        for depth in range(len(inner)):
            shell = types.ModuleType(".".join([package, *inner[:depth]]))
            shell.__path__ = ["/".join([place, *inner[:depth]]) for place in places]
            sys.modules[shell.__name__] = shell
    found: type[Any] = getattr(importlib.import_module(module), name)
    return found


def contenders() -> dict[str, Callable[[list[nn.Parameter]], Optimizer]]:
    """Every optimizer at the same settings: decay 0.01, momentum 0.9; AdaGrad has neither, and ours is AdaGrad-Norm."""
    found: dict[str, Callable[[list[nn.Parameter]], Optimizer]] = {
        "AdamW fused, torch": lambda p: AdamW(p, fused=True),
        "AdamW foreach, torch": lambda p: AdamW(p, foreach=True),
        "LAMB, assay": LAMB,
        "LARS, assay": lambda p: LARS(p, 0.1, weight_decay=0.01),
        "AdaGrad, torch fused": lambda p: Adagrad(p, fused=True),
        "AdaGrad, torch foreach": lambda p: Adagrad(p, foreach=True),
        "AdaGrad, assay": AdaGradNorm,
        "AdaGrad, assay by rows": lambda p: AdaGradNorm(p, granularity="row"),
    }
    peers: list[tuple[str, str, str, dict[str, Any]]] = [
        ("LAMB, pytorch_optimizer", "pytorch_optimizer", "Lamb", {}),
        ("LAMB, timm", "timm.optim.lamb", "Lamb", {"max_grad_norm": None}),
        ("LAMB, timm foreach", "timm.optim.lamb", "Lamb", {"max_grad_norm": None, "foreach": True}),
        ("LARS, pytorch_optimizer", "pytorch_optimizer", "LARS", {"momentum": 0.9}),
        ("LARS, timm", "timm.optim.lars", "Lars", {"momentum": 0.9}),
        ("LARS, timm foreach", "timm.optim.lars", "Lars", {"momentum": 0.9, "foreach": True}),
    ]
    for package in ("pytorch_optimizer", "timm"):
        if importlib.machinery.PathFinder.find_spec(package) is None:
            print(f"{package} is not installed (benchmarks/peers.txt tells how): left out")
            peers = [row for row in peers if not row[1].startswith(package)]
    for label, module, name, settings in peers:
        found[label] = partial(peer(module, name), lr=1e-3, weight_decay=0.01, **settings)
    return found


def parameters(shapes: list[Shape]) -> list[nn.Parameter]:
    """Weights and gradients of a network's usual size."""
    draw = torch.Generator().manual_seed(0)
    made = []
    for shape in shapes:
        parameter = nn.Parameter(0.05 * torch.randn(shape, generator=draw))
        parameter.grad = 0.01 * torch.randn(shape, generator=draw)
        made.append(parameter)
    return made


def measure(optimizers: dict[str, Optimizer], repeats: int) -> dict[str, list[tuple[float, float]]]:
    """Wall and processor milliseconds of each of `repeats` steps, the optimizers taking turns."""
    times: dict[str, list[tuple[float, float]]] = {label: [] for label in optimizers}
    for turn in range(repeats + 2):
        for label, optimizer in optimizers.items():
            wall, processor = time.perf_counter(), time.process_time()
            optimizer.step()
            if turn >= 2:  # the first makes the state, the second finds it cold
                times[label].append((1e3 * (time.perf_counter() - wall), 1e3 * (time.process_time() - processor)))
    return times


def report(times: dict[str, list[tuple[float, float]]]) -> None:
    """Print a line an optimizer."""
    walls = {label: statistics.median(wall for wall, _ in values) for label, values in times.items()}
    processors = {label: statistics.median(processor for _, processor in values) for label, values in times.items()}
    for label, values in times.items():
        method, _, owner = label.partition(", ")
        rivals = [x for x in times if x.startswith(f"{method}, ") and not x.startswith(f"{method}, assay")]
        line = f"  {label:26s}{walls[label]:9.1f}{min(wall for wall, _ in values):9.1f}{processors[label]:11.1f}"
        if owner.startswith("assay") and rivals:
            line += f"   {walls[label] / min(walls[x] for x in rivals):.2f} of the fastest peer's wall time"
            line += f", {processors[label] / min(processors[x] for x in rivals):.2f} of its processor time"
        print(line)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument("--only", nargs="+", default=[""], help="labels that start with one of these, such as LAMB")
    options = parser.parse_args()
    chosen = {label: make for label, make in contenders().items() if label.startswith(tuple(options.only))}
    for name in options.shapes:
        shapes = list(SHAPES[name]())
        optimizers = {label: make(parameters(shapes)) for label, make in chosen.items()}
        for threads in options.threads:
            torch.set_num_threads(threads)
            elements = sum(math.prod(shape) for shape in shapes)
            print(f"\n{name}: {len(shapes)} tensors, {elements / 1e6:.1f} M; {threads} thread(s); ms")
            print(f"  {'':26s}{'median':>9s}{'least':>9s}{'processor':>11s}")
            report(measure(optimizers, options.repeats))


if __name__ == "__main__":
    main()
