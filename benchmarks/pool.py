"""How much sooner is a trial done by a pool of workers than by one process?

Two arms from four seeds, a small convolutional network on images; every measurement is a process of its own, from its
start to its end, so that imports and the start of the workers count. Serial and pool take turns; medians are compared.

    python benchmarks/pool.py [--rounds 5] [--steps 400] [--workers 2]
"""

import argparse
import statistics
import subprocess
import sys
import time

from assay.trials.worker import warm_up

if __name__ == "__main__" and "pool" in sys.argv:
    warm_up()

import torch
from torch import Tensor, nn

from assay.engine import Batch, Metric, Recipe, Splits, Task, TensorExamples
from assay.trials import Arm, compare


class Stripes(Task):
    """28 x 28 images of ten directions of stripes under noise."""

    name = "stripes"
    metrics = (Metric("accuracy", "max", 0.0, "%"),)
    recipe = Recipe(lr=0.02, batch_size=64)

    def splits(self, seed: int) -> Splits:
        generator = torch.Generator().manual_seed(0)
        y = torch.randint(10, (6000,), generator=generator)
        rows, columns = torch.meshgrid(torch.arange(28.0), torch.arange(28.0), indexing="ij")
        angle = (y * torch.pi / 10)[:, None, None]
        clean = torch.sin(rows * angle.cos() + columns * angle.sin())
        x = (clean + torch.randn(6000, 28, 28, generator=generator))[:, None]
        return Splits(*(TensorExamples(x[i:j], y[i:j]) for i, j in ((0, 4000), (4000, 5000), (5000, 6000))))

    def model(self) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(32 * 49, 10),
        )  # fmt: skip

    def loss(self, outputs: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
        return nn.functional.cross_entropy(outputs, targets, reduction=reduction)

    def outcomes(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return {"accuracy": (model(batch.x).argmax(1) == batch.y).float()}


def trial(executor: str, steps: int, workers: int | None) -> None:
    task = Stripes()
    arms = [Arm("baseline", task.recipe), Arm("faster", task.recipe.with_settings({"lr": 0.05}))]
    budget = f"{steps}steps"
    found = compare(task, arms, seeds=4, budget=budget, executor=executor, workers=workers, evaluations=4)
    print(found.training_seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--once", choices=["pool", "serial"])
    options = parser.parse_args()
    if options.once:
        trial(options.once, options.steps, options.workers)
        return
    seconds: dict[str, list[float]] = {"serial": [], "pool": []}
    for _ in range(options.rounds):
        for executor, taken in seconds.items():
            command = [sys.executable, __file__, "--once", executor, "--steps", str(options.steps)]
            command += ["--workers", str(options.workers)] if options.workers else []
            began = time.perf_counter()
            training = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            taken.append(time.perf_counter() - began)
            print(f"{executor:6} {taken[-1]:6.1f} s, of which training, summed over its runs, {training:6.1f} s")
    serial, pool = statistics.median(seconds["serial"]), statistics.median(seconds["pool"])
    print(f"medians: serial {serial:.1f} s, pool {pool:.1f} s: {serial / pool:.2f} times as fast")


if __name__ == "__main__":
    main()
