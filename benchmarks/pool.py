"""How much sooner is a trial done by a pool of workers than by one process?

Two arms from four seeds, a small convolutional network on images; every measurement is a process of its own, from its
start to its end, so that imports and the start of the workers count. The measurements take turns; medians are compared.
`halves` is what the machine allows: two serial processes side by side, each with half of the seeds, knowing nothing of
each other. Where they are less than twice as fast as one, the cores share something, and no pool can do better.

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


def trial(what: str, steps: int, workers: int | None) -> None:
    task = Stripes()
    arms = [Arm("baseline", task.recipe), Arm("faster", task.recipe.with_settings({"lr": 0.05}))]
    executor = "pool" if what == "pool" else "serial"
    seeds = 2 if what == "half" else 4
    found = compare(task, arms, seeds=seeds, budget=f"{steps}steps", executor=executor, workers=workers, evaluations=4)
    print(found.training_seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--once", choices=["pool", "serial", "half"])
    options = parser.parse_args()
    if options.once:
        trial(options.once, options.steps, options.workers)
        return
    kinds = {"serial": ["serial"], "pool": ["pool"], "halves": ["half", "half"]}
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(options.rounds):
        for kind, parts in kinds.items():
            command = [sys.executable, __file__, "--steps", str(options.steps)]
            command += ["--workers", str(options.workers)] if options.workers else []
            began = time.perf_counter()
            processes = [subprocess.Popen([*command, "--once", part], stdout=subprocess.PIPE) for part in parts]
            training = sum(float(process.communicate()[0]) for process in processes)
            seconds[kind].append(time.perf_counter() - began)
            print(f"{kind:6} {seconds[kind][-1]:6.1f} s, of which training, summed over its runs, {training:6.1f} s")
    serial, *others = (statistics.median(taken) for taken in seconds.values())
    for kind, median in zip(["pool", "halves"], others, strict=True):
        print(f"medians: serial {serial:.1f} s, {kind} {median:.1f} s: {serial / median:.2f} times as fast")


if __name__ == "__main__":
    main()
