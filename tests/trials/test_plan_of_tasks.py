"""A plan's FLOPs lie within 5% of what a run counts: each built-in task, each method, training and evaluation."""

from dataclasses import replace

import pytest
import torch
from tiny import Tiny

from assay.data.images import LabelledImages
from assay.engine import Examples, Run, Splits, Task
from assay.engine.flops import flop_counter
from assay.engine.stream import ShuffledStream
from assay.errors import CannotTreat
from assay.papers import make_method, methods
from assay.tasks import load
from assay.tasks.loading import _TASKS
from assay.trials import Arm
from assay.trials.plan import Part, plan

SPECS = {
    "digits": ["digits", "digits:model=mlp,dropout=0.5"],
    "cifar10": ["cifar10:train_size=70"],
    "fashion-mnist": ["fashion-mnist:train_size=70"],
    "text": [
        "text:width=16,depth=1,context=16",
        "text:model=lstm,width=16,context=16",
        "text:model=gru,width=16,depth=2,context=16",
    ],
    "bags": ["bags:bag_size=3"],
    "contrastive": ["contrastive"],
    "network-space": ["network-space:networks=3,data=digits"],
    "retrieval": ["retrieval"],
    "separation": ["separation:data=hard,samples=16"],
    "stable-rates": ["stable-rates:octaves=1"],
    "segmentation": ["segmentation:train_size=70"],
}


class Head:
    """The first `size` of some examples."""

    def __init__(self, examples: Examples, size: int) -> None:
        self.examples, self.size = examples, size
        self.samples = size * getattr(examples, "samples", len(examples)) // len(examples)

    def __len__(self) -> int:
        return self.size

    def batch(self, ids, generator=None):
        return self.examples.batch(ids, generator)


@pytest.fixture
def made(tmp_path, monkeypatch):
    """Makes a task on little data, its own where they are at hand."""

    def pictures(*shape):
        return LabelledImages(
            torch.randint(256, shape, dtype=torch.uint8).numpy(), torch.arange(len(range(shape[0]))).numpy() % 10
        )

    for name in (
        *(f"cifar-10-batches-bin/data_batch_{i}.bin" for i in range(1, 6)),
        "cifar-10-batches-bin/test_batch.bin",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "fashion_mnist.npz").write_text("one")
    for module, shape in (("cifar10", (3, 32, 32)), ("fashion_mnist", (1, 28, 28))):
        monkeypatch.setattr(
            f"assay.tasks.{module}._read", lambda *_, shape=shape: (pictures(5100, *shape), pictures(40, *shape))
        )

    def make(spec: str) -> Task:
        task = load(spec, data_dir=tmp_path)
        whole = task.splits

        def splits(seed: int) -> Splits:
            found = whole(seed)
            # the contrastive task embeds the training split with whichever split it judges
            fewest = 300 if spec.startswith("stable-rates") else 70  # which takes no batch below 128
            sizes = (min(len(found.train), fewest), 20, 20 if spec == "contrastive" else 12)
            parts = zip((found.train, found.valid, found.test), sizes, strict=True)
            return Splits(*(part and Head(part, size) for part, size in parts))

        task.splits = splits
        return task

    return make


def held(task: Task, methods, budget: str, **recipe) -> None:
    """Hold the plan of a run to its record, and the plan of its evaluations to what is counted as they are done."""
    size = task.recipe.batch_size if task.name == "stable-rates" else 16  # it takes no smaller one
    asked = replace(task.recipe, batch_size=size, **recipe).with_methods(methods)
    counted = []

    class Counted(Run):
        def evaluate(self, examples):
            with flop_counter() as counter:
                found = super().evaluate(examples)
            counted.append(counter.get_total_flops())
            return found

    record = Counted(task, asked, 0, budget, evaluations=3).train()
    arms = [Arm("baseline", asked), Arm("twin", asked)]
    found: Part = plan(task, arms, seeds=1, budget=budget, executor="serial", evaluations=3, equal_flops=False).parts[0]
    assert record.status == "finished"
    assert found.flops == pytest.approx(record.flops, rel=0.05)
    assert found.evaluation_flops == pytest.approx(sum(counted), rel=0.05)


def test_every_built_in_task_is_among_these():
    assert set(SPECS) == set(_TASKS)


@pytest.mark.parametrize("spec", [spec for specs in SPECS.values() for spec in specs])
def test_a_task_is_priced_within_five_per_cent(spec, made):
    held(made(spec), [], "9steps" if spec.startswith("text") else "2.5epochs")


@pytest.mark.parametrize("name", methods())
def test_a_method_is_priced_within_five_per_cent(name, made):
    options = {
        "ghost-batchnorm": "ghost_batch_size=4",
        "alpha-bn": "mode=core",
        "lr-batch-rmt": "steps=2",
        "adadagrad": "max_batch=16",
    }  # what adapts as it judges costs more, and what grows too
    method = make_method(f"{name}:{options[name]}" if name in options else name)
    for spec in (
        *("digits:model=resnet8", "digits:model=mlp,dropout=0.5", "text:model=gru,width=16,context=16"),
        *("text:width=16,depth=1,context=16", "bags:bag_size=3", "contrastive", "retrieval"),
    ):
        task, recipe = made(spec), {"schedule": "constant"}
        try:
            run = Run(task, replace(task.recipe, batch_size=16, **recipe).with_methods([method]), budget="3steps")
            run.build()
            run.take_step()  # some see only here what they are given
        except CannotTreat:
            continue
        held(task, [method], "7steps", **recipe)
        return
    pytest.fail("none of these tasks can be treated: add one that can")


class Uneven(ShuffledStream):
    """What does not fill a batch is a small one."""

    def __init__(self, *given, **named):
        super().__init__(*given, **named)
        self.steps_per_epoch = -(-len(self.examples) // self.batch_size)


@pytest.mark.parametrize("size", [64, 150, 6])
@pytest.mark.parametrize("budget", ["40epochs", "1.5epochs", "7777samples", "600000flops"])
def test_epochs_that_end_in_a_small_batch_are_priced_within_five_per_cent(size, budget, monkeypatch):
    """By as few steps as where they are slow."""
    monkeypatch.setattr("assay.trials.rehearsal.ENOUGH", 0.0)

    class Last(Tiny):
        def stream(self, run):
            return Uneven(run.splits.train, size, run.seed_for("order"))

    recipe = replace(Tiny.recipe, batch_size=size)
    record = Run(Last(), recipe, 0, budget).train()
    arms = [Arm("baseline", recipe), Arm("twin", recipe)]
    found = plan(Last(), arms, seeds=1, budget=budget, executor="serial").parts[0]
    assert found.flops == pytest.approx(record.flops, rel=0.05)
    assert found.steps == pytest.approx(record.steps, rel=0.05)
