"""What does alpha-BN cost over plain evaluation, and what over the plain ways to write it? And Core's loss?

    python benchmarks/alpha_batch_norm.py [--device cuda] [--repeats 31]

Milliseconds in float32, one thread, the contenders taking turns; median of the repeats. On a CPU it is the process's
own time, so that a busy machine does not show. No peer of alpha-BN is to be had from PyPI, so the contenders are the
two forms in which it is usually written: `formula`, the definition in elementwise operations, and `two norms`, a second
BatchNorm of momentum 1 run for its statistics alone before the layer's own.
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from assay.losses.class_correlation import class_correlation_loss
from assay.nn.alpha_batch_norm import AlphaBatchNorm

SHAPES = [(200, 64, 16, 16), (200, 64, 8, 8), (64, 64, 56, 56), (8, 64, 7, 7), (1, 64, 64, 64), (200, 512)]


class Formula(nn.Module):
    def __init__(self, layer: nn.Module, alpha: float) -> None:
        super().__init__()
        self.layer, self.alpha = layer, alpha

    def forward(self, x: Tensor) -> Tensor:
        own, a = self.layer, self.alpha
        axes, shape = [0, *range(2, x.ndim)], [1, -1] + [1] * (x.ndim - 2)
        mean = a * own.running_mean + (1 - a) * x.mean(axes)
        var = a * own.running_var + (1 - a) * x.var(axes, correction=0)
        y = (x - mean.view(shape)) / (var.view(shape) + own.eps).sqrt()
        return y * own.weight.view(shape) + own.bias.view(shape)


class TwoNorms(nn.Module):
    def __init__(self, layer: nn.Module, alpha: float) -> None:
        super().__init__()
        self.layer, self.alpha = layer, alpha
        self.batch = type(layer)(layer.num_features, momentum=1.0, affine=False).train()

    def forward(self, x: Tensor) -> Tensor:
        self.batch(x)
        own, a = self.layer, self.alpha
        mean = a * own.running_mean + (1 - a) * self.batch.running_mean
        var = a * own.running_var + (1 - a) * self.batch.running_var
        return nn.functional.batch_norm(x, mean, var, own.weight, own.bias, False, 0.0, own.eps)


def by_matrix(logits: Tensor) -> Tensor:
    p = logits.softmax(1)
    c = p.T @ p
    return ((c.sum(1) - c.diagonal()) / c.sum(1)).mean()


def milliseconds(actions: Mapping[str, Callable[[], object]], repeats: int, device: str) -> dict[str, float]:
    clock = time.perf_counter if device != "cpu" else time.process_time
    wait: Callable[[], None] = torch.cuda.synchronize if device != "cpu" else lambda: None
    times: dict[str, list[float]] = {name: [] for name in actions}
    for repeat in range(repeats + 3):
        for name, act in actions.items():
            wait()
            start = clock()
            act()
            wait()
            if repeat >= 3:
                times[name].append(1e3 * (clock() - start))
    return {name: statistics.median(values) for name, values in times.items()}


def row(what: str, found: dict[str, float], first: list[str]) -> None:
    if not first:
        first += found
        print(f"| {what.split(':')[0]} | {' | '.join(found)} |\n|{' --- |' * (len(found) + 1)}")
    print(f"| {what.split(': ')[1]} | {' | '.join(f'{value:.3f}' for value in found.values())} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=31)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)

    for grad in (False, True):
        head: list[str] = []
        for shape in SHAPES:
            plain = (nn.BatchNorm1d if len(shape) == 2 else nn.BatchNorm2d)(shape[1]).to(options.device).eval()
            layers = {
                "plain evaluation": plain,
                "assay": AlphaBatchNorm(copy.deepcopy(plain), 0.5),
                "formula": Formula(copy.deepcopy(plain), 0.5),
            }
            if not grad:  # its gradient lacks what flows through the statistics
                layers["two norms"] = TwoNorms(copy.deepcopy(plain), 0.5).to(options.device)
            x = torch.randn(shape, device=options.device, requires_grad=grad)
            weights = torch.randn_like(x)

            def forward(layer: nn.Module, x: Tensor = x) -> None:
                with torch.no_grad():
                    layer(x)

            def both(layer: nn.Module, x: Tensor = x, weights: Tensor = weights) -> None:
                torch.autograd.grad(layer(x), (x, *layer.parameters()), weights)

            act = both if grad else forward
            actions = {name: (lambda act=act, layer=layer: act(layer)) for name, layer in layers.items()}
            found = milliseconds(actions, options.repeats, options.device)
            found["formula / assay"] = found["formula"] / found["assay"]
            if not grad:
                found["two norms / assay"] = found["two norms"] / found["assay"]
            row(f"{'forward and backward' if grad else 'forward'}: {'x'.join(map(str, shape))}", found, head)
        print()

    head = []
    for shape in ((200, 10), (200, 100), (64, 1000)):
        logits = torch.randn(shape, device=options.device, requires_grad=True)
        losses = {"assay": class_correlation_loss, "K x K matrix": by_matrix}
        actions = {
            name: (lambda f=f, logits=logits: torch.autograd.grad(f(logits), logits)) for name, f in losses.items()
        }
        found = milliseconds(actions, options.repeats, options.device)
        found["matrix / assay"] = found["K x K matrix"] / found["assay"]
        row(f"Core's loss, forward and backward: {'x'.join(map(str, shape))}", found, head)


if __name__ == "__main__":
    main()
