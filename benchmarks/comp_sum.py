"""Is a comp-sum loss ever slower than the losses it takes the place of, and our attack than others'?

    python benchmarks/comp_sum.py [--device cuda] [--repeats 101] [--attack]

Forward and backward in float32, microseconds, one thread, the contenders taking turns; median of the repeats. On a CPU
it is the process's own time, so that a busy machine does not show. At tau = 1 the peer is torch's cross-entropy; at 1.7
it is generalised cross-entropy of q = 0.7 in the two forms in which it is usually written: `gce` with one-hot labels
and clamped probabilities, `gce lean` with nothing but softmax, gather and power, which checks nothing and ignores
nothing; at 2 the mean absolute error of the probabilities. `--attack` times 10 steps of l-inf ascent on a small
network against torchattacks (`pip install torchattacks`) and a plain loop.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from assay.data.adversarial import PGD
from assay.losses.comp_sum import CompSumLoss
from assay.metrics.robust_accuracy import cross_entropy

SHAPES = [(64, 10), (256, 10), (1024, 10), (4096, 10), (64, 100), (1024, 100), (256, 1000), (1024, 1000), (512, 32000)]
Loss = Callable[[Tensor, Tensor], Tensor]


def gce(h: Tensor, y: Tensor, q: float = 0.7) -> Tensor:
    p = F.softmax(h, 1).clamp(1e-7, 1.0)
    label = F.one_hot(y, h.shape[1]).float()
    return ((1 - (label * p).sum(1).pow(q)) / q).mean()


def gce_lean(h: Tensor, y: Tensor, q: float = 0.7) -> Tensor:
    p = F.softmax(h, 1).gather(1, y[:, None])
    return ((1 - p**q) / q).mean()


def mae(h: Tensor, y: Tensor) -> Tensor:
    p = F.softmax(h, 1).clamp(1e-7, 1.0)
    return 1 - (F.one_hot(y, h.shape[1]).float() * p).sum(1).mean()


LOSSES: dict[str, Loss] = {
    "torch CE": F.cross_entropy, "assay 1": CompSumLoss(1.0),
    "gce": gce, "gce lean": gce_lean, "assay 1.7": CompSumLoss(1.7),
    "mae": mae, "assay 2": CompSumLoss(2.0), "assay 0.5": CompSumLoss(0.5),
}  # fmt: skip
RATIOS = [("torch CE", "assay 1"), ("gce", "assay 1.7"), ("gce lean", "assay 1.7"), ("mae", "assay 2")]


def microseconds(calls: dict[str, Callable[[], object]], repeats: int, device: str) -> dict[str, float]:
    clock = time.perf_counter if device == "cuda" else time.process_time
    wait: Callable[[], None] = torch.cuda.synchronize if device == "cuda" else lambda: None
    times: dict[str, list[float]] = {name: [] for name in calls}
    for repeat in range(repeats + 3):
        for name, call in calls.items():
            wait()
            start = clock()
            call()
            wait()
            if repeat >= 3:
                times[name].append(1e6 * (clock() - start))
    return {name: statistics.median(values) for name, values in times.items()}


def gradient(loss: Loss, h: Tensor, y: Tensor) -> Tensor:
    return torch.autograd.grad(loss(h, y), h)[0]


def losses(device: str, repeats: int) -> None:
    print("| shape | " + " | ".join([*LOSSES, *(f"{a} / {b}" for a, b in RATIOS)]) + " |")
    print("| --- " * (len(LOSSES) + len(RATIOS) + 1) + "|")
    for shape in SHAPES:
        h = torch.randn(shape, device=device, requires_grad=True)
        y = torch.randint(shape[1], shape[:1], device=device)
        calls = {name: partial(gradient, loss, h, y) for name, loss in LOSSES.items()}
        found = microseconds(calls, max(repeats if h.numel() < 10**6 else repeats // 8, 5), device)
        cells = [*(f"{t:.0f}" for t in found.values()), *(f"{found[a] / found[b]:.2f}" for a, b in RATIOS)]
        print(f"| {'x'.join(map(str, shape))} | " + " | ".join(cells) + " |", flush=True)


def attacks(device: str, repeats: int) -> None:
    model = nn.Sequential(nn.Conv2d(3, 16, 3, 2), nn.ReLU(), nn.Conv2d(16, 32, 3, 2), nn.ReLU(), nn.Flatten(),
                          nn.LazyLinear(10)).to(device)  # fmt: skip
    x, y = torch.rand(64, 3, 32, 32, device=device), torch.randint(10, (64,), device=device)
    model(x)
    epsilon, steps, size = 8 / 255, 10, 2 / 255

    def loop() -> Tensor:
        at = (x + torch.empty_like(x).uniform_(-epsilon, epsilon)).clamp(0, 1)
        for _ in range(steps):
            at = at.detach().requires_grad_()
            (g,) = torch.autograd.grad(F.cross_entropy(model(at), y), at)
            at = at.detach() + size * g.sign()
            at = (x + (at - x).clamp(-epsilon, epsilon)).clamp(0, 1)
        return at

    ours = PGD(epsilon, steps, size)
    calls: dict[str, Callable[[], object]] = {
        "assay": lambda: ours(model, x, lambda h: cross_entropy(h, y)),
        "plain loop": loop,
    }
    if find_spec("torchattacks") is None:
        print("torchattacks is not installed, so its attack is not among the contenders")
    else:
        from torchattacks import PGD as Theirs

        theirs = Theirs(model.eval(), eps=epsilon, alpha=size, steps=steps)
        calls["torchattacks"] = lambda: theirs(x, y)
    found = microseconds(calls, max(repeats // 4, 5), device)
    for name, t in found.items():
        print(f"{name}: {t / 1e3:.2f} ms, {t / found['assay']:.2f} of ours")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--repeats", type=int, default=101)
    parser.add_argument("--attack", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    (attacks if options.attack else losses)(options.device, options.repeats)


if __name__ == "__main__":
    main()
