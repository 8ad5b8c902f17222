"""What does a step of a loss on bags cost beside the ordinary loss on samples, and beside a loop over bags?

Forward and backward of a squared error and a cross-entropy on the same predictions; every round times all of them in
turn, and medians are compared.

    python benchmarks/aggregate_loss.py [--rounds 30] [--threads 1]
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, mse_loss

from assay.losses.aggregate import InterpolatedAggregateLoss


def loop(f: Tensor, y: Tensor, bags: Tensor, rho: float, kind: str) -> Tensor:
    total = f.new_zeros(())
    for a in range(len(y)):
        own = f[bags == a]
        if kind == "mse":
            bag, each = (own.mean(0) - y[a]) ** 2, ((own - y[a]) ** 2).mean(0)
        else:
            logs = own.log_softmax(1)
            bag, each = -(y[a] * logs.exp().mean(0).log()).sum(), -(y[a] * logs).sum(1).mean()
        total = total + (1 - rho) * bag + rho * each
    return total / len(y)


def seconds(loss: Callable[[], Tensor], f: Tensor) -> float:
    began = time.perf_counter()
    torch.autograd.grad(loss(), f)
    return time.perf_counter() - began


def measure(count: int, size: int, classes: int, kind: str, rounds: int) -> str:
    generator = torch.Generator().manual_seed(0)
    bags = torch.arange(count).repeat_interleave(size)
    labels = torch.randint(classes, (len(bags),), generator=generator)
    shape = (len(bags),) if kind == "mse" else (len(bags), classes)
    f = torch.randn(shape, generator=generator).requires_grad_()
    y = torch.randn(count, *shape[1:], generator=generator)
    y = y if kind == "mse" else y.softmax(1)
    ours = InterpolatedAggregateLoss(0.3, loss=kind)
    stacked, target = f.unflatten(0, (count, size)), torch.randn(len(bags), generator=generator)
    ways = {
        "samples": lambda: mse_loss(f, target) if kind == "mse" else cross_entropy(f, labels),
        "bags by number": lambda: ours(f, y, bags),
        "equal bags": lambda: ours(stacked, y),
        "loop": lambda: loop(f, y, bags, 0.3, kind),
    }
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            taken[name].append(seconds(way, f))
    medians = {name: statistics.median(times) for name, times in taken.items()}
    parts = ", ".join(f"{name} {1e3 * m:.2f} ms" for name, m in medians.items())
    return f"{parts}; {medians['loop'] / medians['bags by number']:.0f} times as fast as the loop"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for count, size, classes in ((64, 8, 10), (512, 16, 10), (512, 16, 100)):
        for kind in ("mse", "ce"):
            found = measure(count, size, classes, kind, options.rounds)
            print(f"{kind}, {count} bags of {size}, {classes} classes: {found}")


if __name__ == "__main__":
    main()
