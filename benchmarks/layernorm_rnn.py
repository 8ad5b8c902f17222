"""What do recurrent layers with layer normalisation cost beside torch's own, and beside a plain loop over their cell?

    python benchmarks/layernorm_rnn.py [--device cuda] [--repeats 15]

Forward and backward of one layer over a sequence in float32, milliseconds, one thread, the contenders taking turns;
median of the repeats. On a CPU it is the process's own time, so that a busy machine does not show. `torch` is the layer
without normalisation, in one call of oneDNN or cuDNN where there is one: the limit. `cell loop` calls our cell on one
input after another, as one would without a layer; `plain` is the layer with `fused=False`.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from assay.nn.layer_norm_rnn import LayerNormGRU, LayerNormLSTM

SHAPES = [(64, 64, 1, 64), (64, 16, 64, 64), (50, 32, 128, 128), (100, 64, 256, 256)]


class CellLoop(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        (self.cell,) = layer.cells

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        state, outputs = None, []
        for x_t in x:
            state = self.cell(x_t, state)
            outputs.append(state[0] if isinstance(state, tuple) else state)
        return torch.stack(outputs), None


def contenders(kind: str, inputs: int, width: int) -> dict[str, nn.Module]:
    plain, normalised = {"lstm": (nn.LSTM, LayerNormLSTM), "gru": (nn.GRU, LayerNormGRU)}[kind]
    return {
        "torch": plain(inputs, width),
        "assay": normalised(inputs, width),
        "plain": normalised(inputs, width, fused=False),
        "cell loop": CellLoop(normalised(inputs, width)),
    }


def milliseconds(layers: dict[str, nn.Module], x: Tensor, repeats: int) -> dict[str, float]:
    clock = time.perf_counter if x.is_cuda else time.process_time
    wait: Callable[[], None] = torch.cuda.synchronize if x.is_cuda else lambda: None
    times: dict[str, list[float]] = {name: [] for name in layers}
    for repeat in range(repeats + 2):
        for name, layer in layers.items():
            wait()
            start = clock()
            y = layer(x)[0]
            torch.autograd.grad(y, (x, *layer.parameters()), torch.ones_like(y))
            wait()
            if repeat >= 2:
                times[name].append(1e3 * (clock() - start))
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    names = list(contenders("lstm", 2, 2))
    print(f"| layer | steps, batch, inputs, d | {' | '.join(names)} | assay / torch | assay / cell loop |")
    print("| --- " * (len(names) + 4) + "|")
    for kind in ("lstm", "gru"):
        for steps, batch, inputs, width in SHAPES:
            layers = {n: m.to(options.device) for n, m in contenders(kind, inputs, width).items()}
            x = torch.randn(steps, batch, inputs, device=options.device, requires_grad=True)
            found = milliseconds(layers, x, options.repeats)
            cells = " | ".join(f"{found[name]:.1f}" for name in names)
            ratios = f"{found['assay'] / found['torch']:.2f} | {found['assay'] / found['cell loop']:.2f}"
            print(f"| {kind} | {steps}, {batch}, {inputs}, {width} | {cells} | {ratios} |", flush=True)


if __name__ == "__main__":
    main()
