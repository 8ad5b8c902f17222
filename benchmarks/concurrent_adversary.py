"""Do the attack of the next batch and the gradient of this one overlap?

    python benchmarks/concurrent_adversary.py [--device cuda] [--steps 15]

Wall time of a training step, medians in milliseconds, the forms taking turns: `plain` trains on the clean batch; `two`
on clean and adversarial batch, the latter given, which is what a perfect overlap would take on a machine with room;
`sequential` attacks, then trains on both; `concurrent` does so at the same time, with the same weights afterwards, as
is checked. `hidden` is the share of the attack's time that overlap takes away: (sequential - concurrent) /
(sequential - two). On a CPU every form has one thread a computation, so a second core is all that overlap can use;
it must be idle, and a busy machine shows.
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from assay.data.concurrent_adversary import ConcurrentAdversary, Moved, concurrent_loss
from assay.models.cnn import SmallCNN
from assay.models.mlp import MLP
from assay.models.resnet import ResNet
from assay.nn.split_batch_norm import to_split_batch_norm

EPSILON = 9 / 255


class Form:
    """A way of training, with a network of its own."""

    def __init__(self, model: nn.Module, x: Tensor, y: Tensor) -> None:
        self.model, self.x, self.y = copy.deepcopy(model), x, y
        self.optimizer = torch.optim.SGD(self.model.parameters(), 0.01, momentum=0.9)
        self.seconds: list[float] = []

    def step(self, moved: Moved | None, before_update: Callable[[], None] = lambda: None) -> None:
        concurrent_loss(self.model, self.x, self.y, moved).backward()
        before_update()
        self.optimizer.step()
        self.optimizer.zero_grad()


class Attacked(Form):
    def __init__(self, model: nn.Module, x: Tensor, y: Tensor, concurrent: bool) -> None:
        super().__init__(model, x, y)
        self.adversary = ConcurrentAdversary(self.model, EPSILON, concurrent=concurrent)

    def __call__(self) -> None:
        self.step(self.adversary.start(self.x, self.y), self.adversary.wait)


def measure(model: nn.Module, x: Tensor, y: Tensor, steps: int) -> dict[str, float]:
    """Milliseconds of a step of each form."""
    wait: Callable[[], None] = torch.cuda.synchronize if x.is_cuda else lambda: None
    plain, two = Form(model, x, y), Form(model, x, y)
    sequential, concurrent = Attacked(model, x, y, False), Attacked(model, x, y, True)
    given = Moved(x, y)
    calls: dict[str, tuple[Form, Callable[[], None]]] = {
        "plain": (plain, lambda: plain.step(None)),
        "two": (two, lambda: two.step(given)),
        "sequential": (sequential, sequential),
        "concurrent": (concurrent, concurrent),
    }
    for turn in range(steps + 2):
        for form, call in calls.values():
            wait()
            start = time.perf_counter()
            call()
            wait()
            if turn >= 2:
                form.seconds.append(time.perf_counter() - start)
    for a, b in zip(sequential.model.parameters(), concurrent.model.parameters(), strict=True):
        assert torch.equal(a, b), "the forms differ"
    return {name: 1e3 * statistics.median(form.seconds) for name, (form, _) in calls.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--steps", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if options.device == "cuda":
        torch.backends.cudnn.deterministic = True
    cases = {
        "MLP 64-128-128-10, batch 300": (MLP([64, 128, 128, 10], batch_norm=True), (300, 64)),
        "CNN of 3 layers, 28x28, batch 250": (SmallCNN(depth=3), (250, 1, 28, 28)),
        "ResNet-8, 32x32, batch 128": (ResNet(8), (128, 3, 32, 32)),
    }
    print("| network | plain | two | sequential | concurrent | sequential / concurrent | hidden |")
    print("| --- " * 7 + "|")
    for name, (network, shape) in cases.items():
        model = to_split_batch_norm(network.to(options.device))
        x, y = torch.rand(shape, device=options.device), torch.randint(10, shape[:1], device=options.device)
        found = measure(model, x, y, options.steps)
        two, sequential, concurrent = found["two"], found["sequential"], found["concurrent"]
        cells = " | ".join(f"{t:.2f}" for t in found.values())
        hidden = (sequential - concurrent) / (sequential - two)
        print(f"| {name} | {cells} | {sequential / concurrent:.2f} | {hidden:.0%} |", flush=True)


if __name__ == "__main__":
    main()
