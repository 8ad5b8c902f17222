"""What does a spectrum cost, here and with PyHessian, and do they agree?

    python benchmarks/curvature.py [--repeats 5] [--steps 100] [--only perceptron] [--device cuda]

One thread. First what Lanczos adds: its time, in the time of one Hessian-vector product, which should be little more
than its steps. That is so where each weight is used often, in convolutions or with many samples: the orthogonalisation
costs what it does whatever a product costs. Then the density, of one start and for the first network of eight, the
contenders taking turns; medians of the repeats. On a CPU it is the process's own time, so that a busy machine does not
show. Beside each time are the extremes and the trace.

PyHessian 0.1 (benchmarks/peers.txt) calls `torch.eig`, which torch no longer has: it gets one made of
`torch.linalg.eig`.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from assay.analysis.curvature import Curvature
from assay.analysis.lanczos import draw_starts, lanczos
from assay.analysis.spectral_density import SpectralDensity, spectral_density
from assay.models.cnn import SmallCNN
from assay.models.mlp import MLP
from assay.models.resnet import cifar_resnet

Call = Callable[[], object]


def workloads(device: str) -> dict[str, tuple[nn.Module, Tensor, Tensor]]:
    """Networks without batch norm in training mode, which PyHessian would leave in it, and one batch each."""
    made = {
        "perceptron 64-256-256-10, 1024 samples": (MLP([64, 256, 256, 10]), torch.randn(1024, 64)),
        "perceptron 64-256-256-10, 8192 samples": (MLP([64, 256, 256, 10]), torch.randn(8192, 64)),
        "small CNN, 256 of 28x28": (SmallCNN(10, width=16, depth=3), torch.randn(256, 1, 28, 28)),
        "ResNet-8, 64 of 32x32": (cifar_resnet(8, 10), torch.randn(64, 3, 32, 32)),
    }
    return {n: (m.eval().to(device), x.to(device), torch.randint(10, x.shape[:1], device=device))
            for n, (m, x) in made.items()}  # fmt: skip


def take_turns(calls: dict[str, Call], repeats: int, device: str) -> tuple[dict[str, float], dict[str, object]]:
    """Median seconds and last answers."""
    clock = time.perf_counter if device == "cuda" else time.process_time
    wait: Callable[[], None] = torch.cuda.synchronize if device == "cuda" else lambda: None
    times: dict[str, list[float]] = {name: [] for name in calls}
    answers: dict[str, object] = {}
    for repeat in range(repeats + 1):
        for name, call in calls.items():
            wait()
            start = clock()
            answers[name] = call()
            wait()
            if repeat:
                times[name].append(clock() - start)
    return {name: statistics.median(values) for name, values in times.items()}, answers


def products(model: nn.Module, x: Tensor, y: Tensor, steps: int, repeats: int, device: str) -> str:
    curvature = Curvature(model, F.cross_entropy, [(x, y)], batch_norm="running")
    start = draw_starts(1, curvature.size, generator=torch.Generator().manual_seed(0), like=x)
    unit = start / start.norm()

    def plain() -> None:
        for _ in range(steps):
            curvature(unit)

    found, _ = take_turns({"plain": plain, "lanczos": lambda: lanczos(curvature, start, steps)}, repeats, device)
    product = found["plain"] / steps
    return f"{curvature.size} | {1e3 * product:.1f} | {found['lanczos'] / product:.1f}"


def ours(model: nn.Module, x: Tensor, y: Tensor, steps: int, starts: int) -> Callable[[], SpectralDensity]:
    draw = torch.Generator().manual_seed(1)
    made = lambda: Curvature(model, F.cross_entropy, [(x, y)], batch_norm="running")  # noqa: E731
    return lambda: spectral_density(made(), steps, starts=starts, generator=draw)


def theirs(model: nn.Module, x: Tensor, y: Tensor, steps: int, starts: int) -> Callable[[], SpectralDensity]:
    from pyhessian import hessian

    from assay.analysis.lanczos import Ritz

    def eig(t: Tensor, eigenvectors: bool) -> tuple[Tensor, Tensor]:
        values, vectors = torch.linalg.eig(t)
        return torch.view_as_real(values), vectors.real

    torch.eig = eig

    def density() -> SpectralDensity:
        model.zero_grad()
        made = hessian(model, F.cross_entropy, data=(x, y), cuda=x.is_cuda)
        values, weights = made.density(iter=steps, n_v=starts)
        model.zero_grad()
        found = [Ritz(torch.tensor(np.array(v)).double(), torch.tensor(np.array(w)).double(), torch.zeros(len(v)))
                 for v, w in zip(values, weights, strict=True)]  # fmt: skip
        return SpectralDensity(sum(p.numel() for p in made.params), found)

    return density


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--only", default="", help="networks with this in their name")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    made = {name: work for name, work in workloads(options.device).items() if options.only in name}
    print(f"| network | P | ms a product | products' time of {options.steps} steps |\n| --- | --- | --- | --- |")
    for name, (model, x, y) in made.items():
        found = products(model, x, y, options.steps, options.repeats, options.device)
        print(f"| {name} | {found} |", flush=True)
    makers = {"assay": ours}
    if find_spec("pyhessian") is None:
        print("\npyhessian is not installed, so it is not among the contenders")
    else:
        makers["PyHessian"] = theirs
    print("\n| network | starts | contender | s | times assay's | smallest | largest | trace |")
    print("| --- " * 8 + "|")
    for name, (model, x, y) in made.items():
        for starts in (1, 8) if name == next(iter(made)) else (1,):
            calls = {who: make(model, x, y, options.steps, starts) for who, make in makers.items()}
            times, answers = take_turns(dict(calls), options.repeats if starts == 1 else 1, options.device)
            for who, seconds in times.items():
                seen = answers[who]
                assert isinstance(seen, SpectralDensity)
                print(
                    f"| {name} | {starts} | {who} | {seconds:.2f} | {seconds / times['assay']:.2f} | "
                    f"{seen.smallest:.4g} | {seen.largest:.4g} | {seen.trace:.4g} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
