"""Time and memory of a LAMB, LARS, FRUGAL, GaLore or BAdam step beside torch's AdamW and the same of other packages.

    python benchmarks/optimizer_step.py --shapes resnet50 bert --threads 1 2 --repeats 11

All optimizers live in one process and take turns, so that what else the machine does falls on all alike; printed are
the median and the least wall time of a step, the median processor time of all threads (which a busy machine disturbs
less), the wall time of the first step (which chooses the subspace of those that have one), the megabytes of state, and
how the medians compare with those of the fastest peer of the same method. GaLore and BAdam of assay are FRUGAL without
its stateless part; Fira and APOLLO-mini are no such peers, but other full-rank steps from low-rank state. A quarter of
every weight has state, embeddings, vectors and classifier have all. How to get the peers: `benchmarks/peers.txt`. The
shapes of BERT take about 1.7 GB an optimizer: `--only` picks some.
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
from torch.optim import AdamW, Optimizer

from assay.optim import FRUGAL, LAMB, LARS, state_bytes

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


WITH_ALL_STATE = ((30522, 768), (512, 768), (2, 768), (1000, 2048))  # embeddings and classifier
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


def split(parameters: list[nn.Parameter]) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The parameters that keep all their state, and the weights that are projected."""
    dense = [p for p in parameters if p.ndim < 2 or p.shape in WITH_ALL_STATE]
    return dense, [p for p in parameters if p.ndim > 1 and p.shape not in WITH_ALL_STATE]


def frugal(projection: str, parameters: list[nn.Parameter], **settings: Any) -> FRUGAL:
    dense, projected = split(parameters)
    groups = [{"params": dense, "projection": None}, {"params": projected}]
    return FRUGAL(groups, **{"projection": projection, "weight_decay": 0.01, **settings})


def low_rank(kind: type[Any], settings: dict[str, Any], parameters: list[nn.Parameter]) -> Optimizer:
    """A peer that projects matrices alone, so that convolutions become such, by ranks that are the same in a group."""
    dense, projected = split(parameters)
    ranks: dict[int, list[nn.Parameter]] = {}
    for p in projected:
        matrix = nn.Parameter(p.detach().flatten(1))
        matrix.grad = p.grad.flatten(1)
        ranks.setdefault(round(min(matrix.shape) / 4), []).append(matrix)
    groups = [{"params": dense}, *({"params": members, "rank": r, **settings} for r, members in ranks.items())]
    return kind(groups, lr=1e-3, weight_decay=0.01)


def badam(kind: type[Any], parameters: list[nn.Parameter]) -> Optimizer:
    """Its blocks are quarters of the projected tensors, of which it steps one and the dense tensors."""
    dense, projected = split(parameters)
    named = [(f"dense.{i}.", p) for i, p in enumerate(dense)] + [(f"{i}.", p) for i, p in enumerate(projected)]
    quarters = [[f"{i}." for i in range(k, len(projected), 4)] for k in range(4)]
    base = AdamW([{"params": [p for _, p in named]}], weight_decay=0.0, fused=True)
    return kind(base, named, quarters, switch_block_every=200, active_modules=["dense."], verbose=0)


def contenders() -> dict[str, Callable[[list[nn.Parameter]], Optimizer]]:
    """Every optimizer at the same settings: decay 0.01, momentum 0.9; none in BAdam, whose peer spares most weights."""
    found: dict[str, Callable[[list[nn.Parameter]], Optimizer]] = {
        "AdamW fused, torch": lambda p: AdamW(p, fused=True),
        "AdamW foreach, torch": lambda p: AdamW(p, foreach=True),
        "LAMB, assay": LAMB,
        "LARS, assay": lambda p: LARS(p, 0.1, weight_decay=0.01),
        **{f"FRUGAL {name}, assay": partial(frugal, name) for name in ("block", "columns", "rows", "randk", "svd")},
        "GaLore, assay": partial(frugal, "svd", state_free="none", reset_statistics=False, lr_scale=0.25),
        "BAdam, assay": partial(frugal, "block", state_free="none", weight_decay=0.0),
    }
    peers: list[tuple[str, str, str, dict[str, Any]]] = [
        ("LAMB, pytorch_optimizer", "pytorch_optimizer", "Lamb", {}),
        ("LAMB, timm", "timm.optim.lamb", "Lamb", {"max_grad_norm": None}),
        ("LAMB, timm foreach", "timm.optim.lamb", "Lamb", {"max_grad_norm": None, "foreach": True}),
        ("LARS, pytorch_optimizer", "pytorch_optimizer", "LARS", {"momentum": 0.9}),
        ("LARS, timm", "timm.optim.lars", "Lars", {"momentum": 0.9}),
        ("LARS, timm foreach", "timm.optim.lars", "Lars", {"momentum": 0.9, "foreach": True}),
    ]
    galore = {"update_proj_gap": 200, "scale": 0.25}
    projecting: list[tuple[str, str, str, dict[str, Any]]] = [
        ("GaLore, pytorch_optimizer", "pytorch_optimizer", "GaLore", {**galore, "projection_type": "std"}),
        ("GaLore, galore_torch", "galore_torch.adamw", "AdamW", {**galore, "proj_type": "std"}),
        ("Fira, pytorch_optimizer", "pytorch_optimizer", "Fira", {**galore, "projection_type": "std"}),
        ("APOLLO, pytorch_optimizer", "pytorch_optimizer", "APOLLO", {**galore, "projection_type": "random"}),
        ("BAdam, badam", "badam.block_optim", "BlockOptimizer", {}),
    ]
    for package in ("pytorch_optimizer", "timm", "galore_torch", "badam"):
        if importlib.machinery.PathFinder.find_spec(package) is None:
            print(f"{package} is not installed (benchmarks/peers.txt tells how): left out")
            peers, projecting = (
                [row for row in rows if not row[1].startswith(package)] for rows in (peers, projecting)
            )
    for label, module, name, settings in peers:
        found[label] = partial(peer(module, name), lr=1e-3, weight_decay=0.01, **settings)
    for label, module, name, settings in projecting:
        kind = peer(module, name)
        found[label] = partial(badam, kind) if name == "BlockOptimizer" else partial(low_rank, kind, settings)
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
    """Wall and processor milliseconds of a first step, of one that finds its state cold, and of each of `repeats`
    further steps, the optimizers taking turns."""
    times: dict[str, list[tuple[float, float]]] = {label: [] for label in optimizers}
    gradients = {p: p.grad for o in optimizers.values() for group in o.param_groups for p in group["params"]}
    for _ in range(repeats + 2):
        for label, optimizer in optimizers.items():
            for p, gradient in gradients.items():
                p.grad = gradient if p.requires_grad else None  # some peers take them away
            wall, processor = time.perf_counter(), time.process_time()
            optimizer.step()
            times[label].append((1e3 * (time.perf_counter() - wall), 1e3 * (time.process_time() - processor)))
    return times


def report(times: dict[str, list[tuple[float, float]]], optimizers: dict[str, Optimizer]) -> None:
    """Print a line an optimizer."""
    walls = {label: statistics.median(wall for wall, _ in values[2:]) for label, values in times.items()}
    processors = {label: statistics.median(processor for _, processor in values[2:]) for label, values in times.items()}
    for label, values in times.items():
        method, _, owner = label.partition(", ")
        rivals = [x for x in times if x.startswith(f"{method}, ") and x != label]
        line = f"  {label:26s}{walls[label]:9.1f}{min(wall for wall, _ in values[2:]):9.1f}{processors[label]:11.1f}"
        line += f"{values[0][0]:9.1f}{held(optimizers[label]) / 1e6:10.1f}"
        if owner == "assay" and rivals:
            line += f"   {walls[label] / min(walls[x] for x in rivals):.2f} of the fastest peer's wall time"
            line += f", {processors[label] / min(processors[x] for x in rivals):.2f} of its processor time"
        print(line)


def held(optimizer: Optimizer) -> int:
    """Bytes of state; peers keep some in objects of their own, and BAdam in the optimizer that it wraps."""
    inner = getattr(optimizer, "base_optimizer", optimizer)
    projectors = [vars(state["projector"]) for state in inner.state.values() if "projector" in state]
    tensors = [value for kept in projectors for value in kept.values() if isinstance(value, torch.Tensor)]
    return state_bytes(inner) + sum(tensor.nbytes for tensor in tensors)


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
        for threads in options.threads:
            torch.set_num_threads(threads)
            optimizers = {label: make(parameters(shapes)) for label, make in chosen.items()}
            elements = sum(math.prod(shape) for shape in shapes)
            print(f"\n{name}: {len(shapes)} tensors, {elements / 1e6:.1f} M; {threads} thread(s); ms")
            print(f"  {'':26s}{'median':>9s}{'least':>9s}{'processor':>11s}{'first':>9s}{'state MB':>10s}")
            report(measure(optimizers, options.repeats), optimizers)


if __name__ == "__main__":
    main()
