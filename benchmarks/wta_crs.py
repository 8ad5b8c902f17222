"""What does it cost, and save, to keep a sample of what a linear layer was given?

    python benchmarks/wta_crs.py [--batch 4] [--sequence 512] [--repeats 31] [--device cuda] [--precision bf16]

Forward and backward, milliseconds, one thread, the contenders taking turns; medians of the repeats, and the median over
the repeats of each contender's time against the plain one's of the same turn. On a CPU it is the process's own time, so
that a busy machine does not show. Memory is what autograd keeps of a forward pass beside parameters, in MiB, and how
often it goes into what the plain one keeps. `cached` looks up and writes down the norms of gradients, as in training.

The last table is of a block of T5-base, 128 tokens, dropout 0.1. `like CUDA` is the plain block with masks of a byte
and RMS norms that keep their input alone, as on a GPU; memory is set against it, and on a CPU the treated blocks are
made from it. `+ products` samples the two products of attention as well, `+ bits` has ReLU and dropouts keep a bit a
number.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from assay.analysis.saved_activations import SavedActivations, like_cuda
from assay.models.t5 import T5Block
from assay.nn.gradient_norm_cache import GradientNormCache
from assay.nn.packed_masks import to_packed_masks
from assay.nn.wta_crs import to_wta_crs

SHAPES = [(128, 128), (256, 1024), (768, 768), (768, 3072), (3072, 768)]
PRODUCTS = ["attention.scores", "attention.context"]


class Contender:
    """A network, and the cache of its layers if it has one."""

    def __init__(self, model: nn.Module, cache: GradientNormCache | None = None) -> None:
        self.model, self.cache = model, cache

    def __call__(self, x: Tensor) -> Tensor:
        if self.cache is None:
            return self.model(x)
        with self.cache.batch(torch.arange(len(x))):
            return self.model(x)


def sampled(model: nn.Module, ratio: float, cache: GradientNormCache | None = None, **settings: object) -> Contender:
    return Contender(to_wta_crs(model, ratio, cache=cache, **settings), cache)


def layers(features: int, out: int) -> dict[str, Contender]:
    return {
        "plain": Contender(nn.Linear(features, out)),
        "plain again": Contender(nn.Linear(features, out)),
        "0.3": sampled(nn.Linear(features, out), 0.3),
        "0.3 cached": sampled(nn.Linear(features, out), 0.3, GradientNormCache()),
        "0.1": sampled(nn.Linear(features, out), 0.1),
        "0.1 cached": sampled(nn.Linear(features, out), 0.1, GradientNormCache()),
    }


def blocks(device: str) -> dict[str, Contender]:
    made = {"plain": Contender(T5Block())}
    lean: Callable[[nn.Module], nn.Module] = like_cuda if device == "cpu" else lambda model: model
    made["like CUDA"] = Contender(lean(T5Block()))
    for ratio in (0.3, 0.1):
        made[f"{ratio} linear"] = sampled(lean(T5Block()), ratio, GradientNormCache(), exclude=PRODUCTS)
        made[f"{ratio} + products"] = sampled(lean(T5Block()), ratio, GradientNormCache())
        made[f"{ratio} + bits"] = sampled(lean(to_packed_masks(T5Block())), ratio, GradientNormCache())
    return made


def measure(
    made: dict[str, Contender], x: Tensor, repeats: int, arithmetic: Callable[[], torch.autocast]
) -> tuple[dict[str, list[float]], dict[str, int]]:
    clock = time.perf_counter if x.is_cuda else time.process_time
    wait: Callable[[], None] = torch.cuda.synchronize if x.is_cuda else lambda: None
    times: dict[str, list[float]] = {name: [] for name in made}
    kept: dict[str, int] = {}
    for name, contender in made.items():
        contender.model.to(x.device)
        with arithmetic(), SavedActivations(contender.model) as saved:
            y = contender(x)
        kept[name] = saved.bytes
    grad = torch.randn_like(y)
    for repeat in range(repeats + 3):
        for name, contender in made.items():
            wait()
            start = clock()
            with arithmetic():
                y = contender(x)
            torch.autograd.grad(y, (x, *contender.model.parameters()), grad)
            wait()
            if repeat >= 3:
                times[name].append(1e3 * (clock() - start))
    return times, kept


def table(times: dict[str, list[float]], kept: dict[str, int], against: str) -> None:
    print("| | ms | of the plain one | MiB kept | times less |\n| --- " + "| --- " * 4 + "|")
    for name, values in times.items():
        ratio = statistics.median(a / b for a, b in zip(values, times["plain"], strict=True))
        less = kept[against] / kept[name]
        print(f"| {name} | {statistics.median(values):.2f} | {ratio:.3f} | {kept[name] / 2**20:.2f} | {less:.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--sequence", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=31)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    kind = torch.device(options.device).type

    @contextmanager
    def arithmetic() -> Iterator[None]:
        with torch.autocast(kind, torch.bfloat16, enabled=options.precision == "bf16"):
            yield

    for features, out in SHAPES:
        x = torch.randn(options.batch, options.sequence, features, device=options.device, requires_grad=True)
        print(f"\nLinear {features} to {out}, {options.batch} x {options.sequence} tokens, {options.precision}, {kind}")
        table(*measure(layers(features, out), x, options.repeats, arithmetic), against="plain")
    x = torch.randn(options.batch, 128, 768, device=options.device, requires_grad=True)
    print(f"\nBlock of T5-base, {options.batch} x 128 tokens, {options.precision}, {kind}")
    table(*measure(blocks(kind), x, options.repeats, arithmetic), against="like CUDA")


if __name__ == "__main__":
    main()
