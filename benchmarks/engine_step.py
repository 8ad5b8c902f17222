"""What does a training step cost in the engine, over the loop that one would write by hand?

Every contender trains the same network on the same shuffled, in-memory batches with the same optimizer, and takes its
batches from one function that notes the time: a step lasts from one note to the next. Rounds of a few steps are
interleaved in one process. A round's time is that of its median step, the first ones left out, so that what else the
machine does matters little; a ratio is the median over rounds of one contender's time by the hand loop's in the same
round. The trainers are given a plain iterable, no logging, no checkpoints and no progress bar.

    python benchmarks/engine_step.py [--rounds 30] [--json]
"""

import argparse
import json
import logging
import random
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from assay.engine import Recipe, Run, Splits, Task

LR, MOMENTUM = 0.05, 0.9


@dataclass
class Case:
    """A network, its data, and how many steps a round has."""

    name: str
    sizes: tuple[int, ...]
    batch_size: int
    steps: int
    warm: int
    marks: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randn(4096, self.sizes[0], generator=generator)
        self.y = torch.randint(self.sizes[-1], (4096,), generator=generator)

    def __len__(self) -> int:
        return len(self.x)

    def batch(self, ids: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        self.marks.append(time.perf_counter())
        return self.x[ids], self.y[ids]

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """`steps` batches: every sample once an epoch, in a new order each."""
        done = 0
        while True:
            order = torch.randperm(len(self))
            for start in range(0, len(self) - self.batch_size + 1, self.batch_size):
                yield self.batch(order[start : start + self.batch_size])
                done += 1
                if done == self.steps:
                    return

    def network(self) -> nn.Sequential:
        torch.manual_seed(0)
        layers: list[nn.Module] = []
        for a, b in pairwise(self.sizes):
            layers += [nn.Linear(a, b), nn.ReLU()]
        return nn.Sequential(*layers[:-1])

    def step_seconds(self, train: Callable[["Case"], None]) -> float:
        """Time of the median step after the warm-up."""
        self.marks.clear()
        train(self)
        assert len(self.marks) == self.steps, f"{train.__name__} took {len(self.marks)} steps, not {self.steps}"
        return statistics.median(b - a for a, b in pairwise(self.marks[self.warm :]))


def by_hand(case: Case) -> None:
    model = case.network()
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=MOMENTUM)
    total = 0.0
    for x, y in case.batches():
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item()


class Bench(Task):
    name = "bench"

    def __init__(self, case: Case) -> None:
        self.case = case

    def splits(self, seed: int) -> Splits:
        return Splits(self.case)

    def model(self) -> nn.Module:
        return self.case.network()

    def loss(self, outputs: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
        return F.cross_entropy(outputs, targets, reduction=reduction)


def engine(case: Case) -> None:
    recipe = Recipe(lr=LR, momentum=MOMENTUM, batch_size=case.batch_size)
    Run(Bench(case), recipe, budget=f"{case.steps}steps", evaluations=0, test=False).train()


def fabric(case: Case) -> None:
    from lightning_fabric import Fabric

    bare = Fabric(accelerator="cpu", devices=1)
    inner = case.network()
    model, optimizer = bare.setup(inner, torch.optim.SGD(inner.parameters(), lr=LR, momentum=MOMENTUM))
    total = 0.0
    for x, y in case.batches():
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        bare.backward(loss)
        optimizer.step()
        total += loss.item()


def lightning(case: Case) -> None:
    from lightning import LightningModule, Trainer

    class Module(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = case.network()

        def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
            return F.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=LR, momentum=MOMENTUM)

    trainer = Trainer(accelerator="cpu", devices=1, max_epochs=1, barebones=True)
    trainer.fit(Module(), train_dataloaders=_Batches(case))


def hugging_face(case: Case) -> None:
    import tempfile

    from transformers import PrinterCallback, Trainer, TrainingArguments

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = case.network()

        def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
            return {"loss": F.cross_entropy(self.net(x), labels)}

    class Plain(Trainer):  # type: ignore[misc]
        def get_train_dataloader(self) -> "_Batches":
            return _Batches(case, named=True)

    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=MOMENTUM)
    constant = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            max_steps=case.steps,
            per_device_train_batch_size=case.batch_size,
            use_cpu=True,
            max_grad_norm=0.0,
            logging_strategy="no",
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            remove_unused_columns=False,
        )
        trainer = Plain(model, arguments, optimizers=(optimizer, constant))
        trainer.remove_callback(PrinterCallback)
        trainer.train()


class _Batches:
    """The case's batches as an iterable of known length."""

    def __init__(self, case: Case, named: bool = False) -> None:
        self.case, self.named, self.batch_size, self.dataset = case, named, case.batch_size, case

    def __len__(self) -> int:
        return self.case.steps

    def __iter__(self) -> Iterator[object]:
        for x, y in self.case.batches():
            yield {"x": x, "labels": y} if self.named else (x, y)


CONTENDERS = {
    "hand-written loop": (by_hand, ()),
    "assay engine": (engine, ()),
    "Lightning Fabric": (fabric, ("lightning_fabric",)),
    "Lightning Trainer": (lightning, ("lightning",)),
    "Hugging Face Trainer": (hugging_face, ("transformers", "accelerate")),
}


def measure(case: Case, rounds: int) -> dict[str, dict[str, float | str]]:
    """By contender: ratio to the hand loop (median over rounds, and of the fastest rounds), and a step's time."""
    found: dict[str, dict[str, float | str]] = {}
    present = {}
    for name, (train, needs) in CONTENDERS.items():
        missing = [package for package in needs if find_spec(package) is None]
        if missing:
            found[name] = {"skipped": f"{' and '.join(missing)} not installed"}
        else:
            present[name] = train
    times: dict[str, list[float]] = {name: [] for name in present}
    shuffle = random.Random(0)
    for i in range(rounds + 1):
        for name in shuffle.sample(list(present), len(present)):
            seconds = case.step_seconds(present[name])
            if i:  # the first round warms everything up
                times[name].append(seconds)
    hand = times["hand-written loop"]
    for name, own in times.items():
        found[name] = {
            "ratio": statistics.median(a / b for a, b in zip(own, hand, strict=True)),
            "ratio_of_fastest": min(own) / min(hand),
            "median_ms": 1e3 * statistics.median(own),
            "fastest_ms": 1e3 * min(own),
        }
    return {name: found[name] for name in CONTENDERS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    cases = [
        Case("MLP 64-128-10, batch 64", (64, 128, 10), 64, steps=150, warm=30),
        Case("MLP 384-768-512-10, batch 128", (384, 768, 512, 10), 128, steps=14, warm=3),
    ]
    results = {case.name: measure(case, options.rounds) for case in cases}
    about = {"torch": torch.__version__, "threads": options.threads, "rounds": options.rounds}
    if options.json:
        print(json.dumps({"environment": about, "cases": results}, indent=2))
        return
    print(", ".join(f"{name} {value}" for name, value in about.items()))
    for case_name, found in results.items():
        print(f"\n{case_name:34} ratio  of fastest  step, ms  fastest, ms")
        for name, row in found.items():
            if "skipped" in row:
                print(f"  {name:32} skipped: {row['skipped']}")
                continue
            ratio, best, median, fastest = row.values()
            print(f"  {name:32}{ratio:6.3f}{best:12.3f}{median:10.3f}{fastest:13.3f}")


if __name__ == "__main__":
    main()
