"""Is ghost batch normalisation ever slower than a loop over chunks, and what does it cost over plain BatchNorm?

    python benchmarks/ghost_batch_norm.py [--device cuda] [--repeats 31] [--full]

Forward and backward of one layer in float32, milliseconds, one thread, the contenders taking turns; median of the
repeats. On a CPU it is the process's own time, so that a busy machine does not show. `loop` is the plain form:
`x.chunk(K)` through torch's BatchNorm, one piece after another. `--full` forces each of our two paths in turn, which is
how the bounds in `_folding_pays` were found.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from importlib.util import find_spec

import torch
from torch import Tensor, nn

import assay.nn.ghost_batch_norm as ghost
from assay.nn.ghost_batch_norm import GhostBatchNorm

SHAPES = [
    (512, 64, 16, 16), (512, 32, 16, 16), (512, 64, 8, 8), (512, 32, 8, 8), (512, 16, 8, 8),
    (512, 64, 4, 4), (512, 16, 4, 4), (512, 128, 2, 2), (512, 512), (512, 128),
]  # fmt: skip


class Loop(nn.Module):
    def __init__(self, plain: nn.Module, pieces: int) -> None:
        super().__init__()
        self.plain, self.pieces = plain, pieces

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.plain(chunk) for chunk in x.chunk(self.pieces)])


class Forced(nn.Module):
    """Our layer, on one of its paths whatever the rule says."""

    def __init__(self, layer: GhostBatchNorm, fold: bool) -> None:
        super().__init__()
        self.layer, self.fold = layer, fold

    def forward(self, x: Tensor) -> Tensor:
        rule, ghost._folding_pays = ghost._folding_pays, lambda x, pieces: self.fold
        try:
            return self.layer(x)
        finally:
            ghost._folding_pays = rule


def contenders(shape: tuple[int, ...], pieces: int, full: bool) -> dict[str, nn.Module]:
    dims = max(len(shape) - 2, 1)
    channels, size = shape[1], shape[0] // pieces
    plain = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d}[dims]
    layers: dict[str, nn.Module] = {
        "plain BN": plain(channels),
        "loop": Loop(plain(channels), pieces),
        "assay": GhostBatchNorm(channels, size, dims),
        "assay interleaved": GhostBatchNorm(channels, size, dims, interleaved=True),
    }
    if full:
        layers["folded"] = Forced(GhostBatchNorm(channels, size, dims), True)
        layers["piecewise"] = Forced(GhostBatchNorm(channels, size, dims), False)
    if find_spec("composer") is not None:
        from composer.functional import apply_ghost_batchnorm

        layers["composer"] = apply_ghost_batchnorm(nn.Sequential(plain(channels)), ghost_batch_size=size)
    return layers


def milliseconds(layers: dict[str, nn.Module], x: Tensor, repeats: int) -> dict[str, float]:
    grad = torch.randn_like(x)
    clock = time.perf_counter if x.is_cuda else time.process_time
    wait: Callable[[], None] = torch.cuda.synchronize if x.is_cuda else lambda: None
    times: dict[str, list[float]] = {name: [] for name in layers}
    for repeat in range(repeats + 3):
        for name, layer in layers.items():
            wait()
            start = clock()
            torch.autograd.grad(layer(x), (x, *layer.parameters()), grad)
            wait()
            if repeat >= 3:
                times[name].append(1e3 * (clock() - start))
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=31)
    parser.add_argument("--full", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if find_spec("composer") is None:
        print("composer is not installed, so its layer is not among the contenders")
    names: list[str] = []
    for shape in SHAPES:
        for pieces in (4, 32):
            layers = {n: m.to(options.device) for n, m in contenders(shape, pieces, options.full).items()}
            x = torch.randn(shape, device=options.device, requires_grad=True)
            found = milliseconds(layers, x, options.repeats)
            if not names:
                names = list(found)
                print(
                    "| shape | pieces | "
                    + " | ".join(names)
                    + " | loop / assay |\n"
                    + "| --- " * (len(names) + 3)
                    + "|"
                )
            cells = " | ".join(f"{found[name]:.2f}" for name in names)
            ratio = found["loop"] / found["assay"]
            print(f"| {'x'.join(map(str, shape))} | {pieces} | {cells} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
