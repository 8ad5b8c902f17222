"""Are our contrastive losses ahead of their peers, and how much memory do they take?

    python benchmarks/contrastive_losses.py [--device cuda] [--repeats 15] [--batches 64 4096] [--dim 128]

Forward and backward of two views in float32, one thread, the contenders taking turns in random order; median of the
repeats. On a CPU it is the process's own time, so that a busy machine does not show. A contender's ratio is its time
over that of our loss which computes the same. `plain` is the definition in a few lines of autograd, what one would
write by hand. pytorch-metric-learning (InfoNCE) and lightly (it needs torchvision) take part where they are installed;
the former up to a batch of 64, as it compares every positive pair with every pair. Memory is the most bytes of tensors
alive at once, in matrices of similarities (2 B)^2.
"""

import argparse
import random
import statistics
import time
from collections.abc import Callable
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor

from assay.losses.decoupled_contrastive import DecoupledContrastiveLoss, WeightedDecoupledContrastiveLoss
from assay.losses.hard_contrastive import HardContrastiveLoss, HardSimpleContrastiveLoss, SimpleContrastiveLoss
from assay.losses.info_nce import InfoNCELoss
from assay.trials.memory import TensorMemory

TAU = 0.1
LARGEST_OF_PAIRS = 64
Loss = Callable[[Tensor, Tensor], Tensor]


def plain(z1: Tensor, z2: Tensor, *, decoupled: bool) -> Tensor:
    z = F.normalize(torch.cat([z1, z2]))
    rows = torch.arange(len(z), device=z.device)
    positive = rows.roll(len(z1))
    logits = (z @ z.T / TAU).masked_fill(torch.eye(len(z), dtype=torch.bool, device=z.device), float("-inf"))
    if not decoupled:
        return F.cross_entropy(logits, positive)
    return (logits.scatter(1, positive[:, None], float("-inf")).logsumexp(1) - logits[rows, positive]).mean()


def contenders(batch: int) -> dict[str, tuple[Loss, str]]:
    """Each contender, and which of ours computes the same."""
    found: dict[str, tuple[Loss, str]] = {
        "InfoNCE": (InfoNCELoss(TAU), ""),
        "DCL": (DecoupledContrastiveLoss(TAU), ""),
        "DCLW": (WeightedDecoupledContrastiveLoss(TAU), ""),
        "hard": (HardContrastiveLoss(TAU), ""),
        "simple": (SimpleContrastiveLoss(), ""),
        "hard simple": (HardSimpleContrastiveLoss(), ""),
        "InfoNCE, chunks of 256": (InfoNCELoss(TAU, chunk_size=256), ""),
        "plain InfoNCE": (lambda a, b: plain(a, b, decoupled=False), "InfoNCE"),
        "plain DCL": (lambda a, b: plain(a, b, decoupled=True), "DCL"),
    }
    if find_spec("pytorch_metric_learning") and batch <= LARGEST_OF_PAIRS:
        from pytorch_metric_learning.losses import NTXentLoss, SelfSupervisedLoss

        found["pytorch-metric-learning NTXent"] = (SelfSupervisedLoss(NTXentLoss(TAU)), "InfoNCE")
    if find_spec("lightly") and find_spec("torchvision"):
        from lightly.loss import DCLLoss, DCLWLoss
        from lightly.loss import NTXentLoss as LightlyNTXent

        found["lightly NTXent"] = (LightlyNTXent(TAU), "InfoNCE")
        found["lightly DCL"] = (DCLLoss(TAU), "DCL")
        found["lightly DCLW"] = (DCLWLoss(TAU), "DCLW")
    return found


def step(loss: Loss, z: tuple[Tensor, Tensor]) -> Tensor:
    value = loss(*z)
    torch.autograd.grad(value, z)
    return value.detach()


def measure(batch: int, dim: int, device: str, repeats: int) -> None:
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(batch, dim, generator=generator)
    second = first + torch.randn(batch, dim, generator=generator)
    z = first.to(device).requires_grad_(), second.to(device).requires_grad_()
    losses = contenders(batch)
    values, peaks = {}, {}
    for name, (loss, _) in losses.items():
        memory = TensorMemory()
        with memory:
            values[name] = step(loss, z).item()
        peaks[name] = memory.peak / (4 * (2 * batch) ** 2)
    clock = time.perf_counter if device == "cuda" else time.process_time
    wait: Callable[[], None] = torch.cuda.synchronize if device == "cuda" else lambda: None
    times: dict[str, list[float]] = {name: [] for name in losses}
    for repeat in range(repeats):
        shuffled = random.Random(repeat).sample(
            list(losses.items()), len(losses)
        )  # or one always follows the same other
        for name, (loss, _) in shuffled:
            wait()
            start = clock()
            step(loss, z)
            wait()
            times[name].append(1e3 * (clock() - start))
    middle = {name: statistics.median(found) for name, found in times.items()}
    print(
        f"\nbatch {batch}, dim {dim}\n\n| loss | value | ms | times ours | matrices |\n| --- | --- | --- | --- | --- |"
    )
    for name, (_, ours) in losses.items():
        ratio = f"{middle[name] / middle[ours]:.2f}" if ours else ""
        print(f"| {name} | {values[name]:.4f} | {middle[name]:.2f} | {ratio} | {peaks[name]:.2f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--batches", type=int, nargs="+", default=[32, 64, 512, 4096])
    parser.add_argument("--dim", type=int, default=128)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in ("pytorch_metric_learning", "lightly", "torchvision"):
        if find_spec(name) is None:
            print(f"{name} is not installed")
    for batch in options.batches:
        measure(batch, options.dim, options.device, options.repeats)


if __name__ == "__main__":
    main()
