"""What does weight standardisation add to a training step, and how is it done fastest?

    python benchmarks/weight_standardization.py [--batches 1 16 64 128] [--repeats 31] [--device cuda] [--depth 20]

A whole step (forward, backward, SGD) of a CIFAR ResNet in float32 with batch norm, one thread, the contenders taking
turns; medians of the repeats, and the median over the repeats of each contender's time against the plain step's of the
same turn. On a CPU it is the process's own time, so that a busy machine does not show.

`plain again` is the plain net a second time: what its ratio differs from 1 by is noise. `naive` is the definition, an
operation at a time, in each layer; `timm` its StdConv2d (batch norm of the flattened weight); `at once` standardises
all layers' weights together before the forward pass, filters of equal length in one kernel; `assay` is ours, a kernel a
layer, and `assay unbiased` its other variance. `bcn` and `bcn estimate` exchange the normalisation and not the weights.
How to get timm: `benchmarks/peers.txt`.
"""

import argparse
import importlib.machinery
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from optimizer_step import peer
from torch import Tensor, nn

from assay.models.resnet import ResNet
from assay.nn.batch_channel_norm import to_batch_channel_norm
from assay.nn.surgery import replace
from assay.nn.weight_standardization import to_weight_standardized


class Naive(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        centred = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        deviation = (centred.square().mean((1, 2, 3), keepdim=True) + 1e-5).sqrt()
        return self._conv_forward(input, centred / deviation, self.bias)


class Given(nn.Conv2d):
    """Computes with the weight that it was given last."""

    def forward(self, input: Tensor) -> Tensor:
        return self._conv_forward(input, self.given, self.bias)


def at_once(model: nn.Module) -> nn.Module:
    """All weights standardised in a hook before the forward pass, the filters of equal length as one matrix."""
    with_class(model, Given)
    groups: dict[int, list[Given]] = {}
    for layer in model.modules():
        if isinstance(layer, Given):
            groups.setdefault(layer.weight[0].numel(), []).append(layer)

    def standardize(module: nn.Module, arguments: Any) -> None:
        for n, layers in groups.items():
            rows = F.layer_norm(torch.cat([layer.weight.view(-1, n) for layer in layers]), (n,))
            for layer, own in zip(layers, rows.split([len(layer.weight) for layer in layers]), strict=True):
                layer.given = own.view_as(layer.weight)

    model.register_forward_pre_hook(standardize)
    return model


def with_class(model: nn.Module, kind: Callable[..., nn.Module]) -> nn.Module:
    """Every convolution made one of `kind`, with the same weight."""

    def rule(name: str, layer: nn.Module) -> nn.Module | None:
        if type(layer) is not nn.Conv2d:
            return None
        new = kind(layer.in_channels, layer.out_channels, 3, stride=layer.stride, padding=1, bias=False)
        new.weight = layer.weight
        return new

    return replace(model, rule).model


def contenders() -> dict[str, Callable[[nn.Module], nn.Module]]:
    found: dict[str, Callable[[nn.Module], nn.Module]] = {
        "plain": lambda model: model,
        "plain again": lambda model: model,
        "naive": lambda model: with_class(model, Naive),
        "at once": at_once,
        "assay": to_weight_standardized,
        "assay unbiased": lambda model: to_weight_standardized(model, unbiased=True),
        "bcn": lambda model: to_batch_channel_norm(model, 8),
        "bcn estimate": lambda model: to_batch_channel_norm(model, 8, estimate=True),
    }
    if importlib.machinery.PathFinder.find_spec("timm") is None:
        print("timm is not installed (benchmarks/peers.txt tells how): left out")
        return found
    timm = peer("timm.layers.std_conv", "StdConv2d")
    return {"timm": lambda model: with_class(model, timm)} | found


def milliseconds(models: dict[str, nn.Module], x: Tensor, repeats: int) -> dict[str, list[float]]:
    y = torch.arange(len(x), device=x.device) % 10
    steps = {name: torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9) for name, model in models.items()}
    clock = time.perf_counter if x.is_cuda else time.process_time
    wait: Callable[[], None] = torch.cuda.synchronize if x.is_cuda else lambda: None
    times: dict[str, list[float]] = {name: [] for name in models}
    for repeat in range(repeats + 2):
        for name, model in models.items():
            wait()
            start = clock()
            F.cross_entropy(model(x), y).backward()
            steps[name].step()
            steps[name].zero_grad()
            wait()
            if repeat >= 2:
                times[name].append(1e3 * (clock() - start))
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 16, 64, 128])
    parser.add_argument("--repeats", type=int, default=31)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--depth", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(1)
    made = contenders()
    for batch in options.batches:
        models = {}
        for name, change in made.items():
            torch.manual_seed(0)
            models[name] = change(ResNet(options.depth)).to(options.device)
        x = torch.randn(batch, 3, 32, 32, device=options.device)
        times = milliseconds(models, x, options.repeats)
        print(f"\nResNet-{options.depth}, batch {batch}, {options.device}")
        print("| | ms | of the plain step |\n| --- | --- | --- |")
        for name, values in times.items():
            ratio = statistics.median(a / b for a, b in zip(values, times["plain"], strict=True))
            print(f"| {name} | {statistics.median(values):.1f} | {ratio:.3f} |", flush=True)


if __name__ == "__main__":
    main()
