"""What does a training step cost when only a part of a ResNet is trained?

    python benchmarks/bn_only.py [--device cuda] [--depth 14 32] [--size 8 32] [--repeats 31]

One step (forward, backward, SGD with momentum) on a batch of 128 in float32, one thread, the networks taking turns;
median of the repeats in milliseconds, and its ratio to the step that trains everything. On a CPU it is the process's
own time, so that a busy machine does not show. Beside it the FLOPs of that step as torch counts them (convolutions and
matrix products only), the bytes that a forward pass keeps for the backward pass, and those of the optimizer's state.
There is no peer: users write a loop over `requires_grad`, and this is what it gives.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.optim import SGD
from torch.utils.flop_counter import FlopCounterMode

from assay.models.resnet import cifar_resnet
from assay.nn.random_weights import add_random_weights
from assay.nn.trainable import trainable_only

ARMS = ("all", "batchnorm", "random", "output")


class Step:
    """A network of which one part is trained, and a step of it."""

    def __init__(self, depth: int, part: str, device: str) -> None:
        self.model = cifar_resnet(depth).to(device)
        if part == "random":
            add_random_weights(self.model)
        trainable_only(self.model, part)
        self.optimizer = SGD([p for p in self.model.parameters() if p.requires_grad], 0.1, momentum=0.9)

    def __call__(self, x: Tensor, y: Tensor) -> None:
        self.optimizer.zero_grad()
        cross_entropy(self.model(x), y).backward()
        self.optimizer.step()

    def flops(self, x: Tensor, y: Tensor) -> float:
        with FlopCounterMode(display=False) as counter:
            self(x, y)
        return float(counter.get_total_flops())

    def kept(self, x: Tensor, y: Tensor) -> int:
        """Bytes of distinct tensors, the parameters apart, that a forward pass keeps."""
        own = {p.untyped_storage().data_ptr() for p in self.model.parameters()}
        sizes: dict[int, int] = {}

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                sizes[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = cross_entropy(self.model(x), y)
        del loss
        return sum(sizes.values())

    def state(self) -> int:
        tensors = [t for state in self.optimizer.state.values() for t in state.values() if isinstance(t, Tensor)]
        return sum(t.nbytes for t in tensors)


def milliseconds(steps: dict[str, Step], x: Tensor, y: Tensor, repeats: int) -> dict[str, float]:
    clock = time.perf_counter if x.is_cuda else time.process_time
    wait: Callable[[], None] = torch.cuda.synchronize if x.is_cuda else lambda: None
    times: dict[str, list[float]] = {name: [] for name in steps}
    for repeat in range(repeats + 3):
        for name, step in steps.items():
            wait()
            start = clock()
            step(x, y)
            wait()
            if repeat >= 3:
                times[name].append(1e3 * (clock() - start))
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--depth", type=int, nargs="+", default=[14, 32])
    parser.add_argument("--size", type=int, nargs="+", default=[8, 32])
    parser.add_argument("--repeats", type=int, default=31)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print("| depth | pixels | trained | ms | ratio | FLOPs ratio | kept, MB | optimizer state, kB |")
    print("| --- " * 8 + "|")
    for depth in options.depth:
        for size in options.size:
            x = torch.randn(128, 3, size, size, device=options.device)
            y = torch.randint(10, (128,), device=options.device)
            steps = {arm: Step(depth, arm, options.device) for arm in ARMS}
            times = milliseconds(steps, x, y, options.repeats)
            flops = {arm: step.flops(x, y) for arm, step in steps.items()}
            for arm, step in steps.items():
                time_ratio, flops_ratio = times[arm] / times["all"], flops[arm] / flops["all"]
                print(
                    f"| {depth} | {size}x{size} | {arm} | {times[arm]:.1f} | {time_ratio:.2f} | {flops_ratio:.2f} | "
                    f"{step.kept(x, y) / 1e6:.1f} | {step.state() / 1e3:.1f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
