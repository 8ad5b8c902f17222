"""One tiny problem, trained by the engine, a bare loop, Lightning's Trainer and Hugging Face's, on the same batches.

No host is given the engine's code for a step but the bare loop: Lightning and Hugging Face go forward, backward and on
by their own, which is what makes equal weights mean something.
"""

import logging
import tempfile
import warnings
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from assay.engine import Batch, Method, Metric, Recipe, Run, Splits, Task, TensorExamples, chance
from assay.integrations import Session

STEPS, PER_EPOCH, SIZE, SEED = 20, 5, 8, 3
TRAITS = frozenset({"classification", "images"})
HOSTS = ("loop", "lightning", "transformers")


class Network(nn.Module):
    """What the methods want to find: convolution, batch norm, dropout in the tail; `labels` are no argument of it."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten())
        self.head = nn.Sequential(nn.Dropout(0.3), nn.Linear(16, 3))

    def forward(self, x):
        return self.head(self.features(x))


class Tiny(Task):
    name = "tiny"
    metrics = (Metric("loss", "min", 2.0),)
    traits = TRAITS

    def splits(self, seed):
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(PER_EPOCH * SIZE, 1, 4, 4, generator=generator)
        data = TensorExamples(x, torch.randint(3, (len(x),), generator=generator))
        return Splits(data, data, None)

    def model(self):
        return Network()

    def loss(self, outputs, targets, reduction="mean"):
        return F.cross_entropy(outputs, targets, reduction=reduction)

    def outcomes(self, model, batch):
        return {"loss": F.cross_entropy(model(batch.x), batch.y, reduction="none")}


@dataclass
class Noise(Method):
    """Dropout's noise starts in every host as it does in the engine: loaders draw from the same generator before it."""

    name = "noise"

    def batch(self, run, batch):
        if run.steps == 0:
            chance.seed_all(run.seed_for("noise"))
        return batch


class Data(torch.utils.data.Dataset):
    """The samples of `steps` steps in the order in which the run with this recipe saw them."""

    def __init__(self, recipe: Recipe, named: bool = False) -> None:
        run = Run(Tiny(), recipe.with_methods([]), SEED, f"{STEPS}steps")
        run.build()
        batches = [run.stream.next() for _ in range(STEPS)]
        x, y, ids = (torch.cat(parts) for parts in zip(*batches, strict=True))
        self.rows = [{"x": a, "labels": b, "ids": i} if named else (a, b, i) for a, b, i in zip(x, y, ids, strict=True)]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int):
        return self.rows[i]


class Epochs:
    """A loader whose epochs are those of the run: each goes on in `Data` where the one before has ended."""

    def __init__(self, data: Data) -> None:
        self.batches, self.taken = list(DataLoader(data, SIZE)), 0
        self.dataset, self.batch_size = data, SIZE

    def __len__(self) -> int:
        return PER_EPOCH

    def __iter__(self):
        for _ in range(PER_EPOCH):  # a host may make more iterators than it takes batches from
            self.taken += 1
            yield self.batches[self.taken - 1]


def start() -> Network:
    """The weights that a run of this seed begins with."""
    with chance.kept(chance.seed_of("init", SEED)):
        return Network()


def by_engine(methods, recipe: Recipe) -> Run:
    run = Run(Tiny(), recipe.with_methods([Noise(), *methods]), SEED, f"{STEPS}steps", evaluations=0, test=False)
    run.train()
    return run


def by_loop(methods, recipe: Recipe) -> nn.Module:
    session = Session(start(), [Noise(), *methods], F.cross_entropy, recipe, traits=TRAITS, seed=SEED, ids=True)
    session.begin(total_steps=STEPS, steps_per_epoch=PER_EPOCH)
    loader = Epochs(Data(recipe))
    for _ in range(STEPS // PER_EPOCH):
        for batch in loader:
            session.step(batch)
    session.finish()
    return session


def lightning_module():
    from lightning.pytorch import LightningModule

    class Module(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = start()
            self.validated = []

        def loss(self, outputs, targets, reduction="mean"):
            return F.cross_entropy(outputs, targets, reduction=reduction)

        def training_step(self, batch, batch_idx):
            x, y, *_ = batch
            return self.loss(self.model(x), y)

        def validation_step(self, batch, batch_idx):
            x, y, *_ = batch
            outputs = self.model(x)
            self.validated.append((outputs, self.loss(outputs, y)))

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)

    return Module()


def lightning_trainer(methods, **settings):
    from lightning.pytorch import Trainer

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    quiet |= {"enable_model_summary": False, "accelerator": "cpu", "devices": 1, "max_epochs": STEPS // PER_EPOCH}
    return Trainer(callbacks=[methods], **(quiet | settings))


def by_lightning(methods, recipe: Recipe) -> Session:
    from assay.integrations.lightning import Methods

    module = lightning_module()
    carried = Methods(module, [Noise(), *methods], recipe, loss="loss", traits=TRAITS, seed=SEED, ids=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        lightning_trainer(carried, precision=recipe.precision).fit(module, Epochs(Data(recipe)))
    assert module.model is carried.session.model
    return carried.session


def transformers_trainer(methods, recipe: Recipe | None, folder: str, model=None, loader=None, **settings):
    from transformers import PrinterCallback, Trainer, TrainingArguments
    from transformers.trainer_callback import ProgressCallback

    from assay.integrations.transformers import MethodsMixin

    class Treated(MethodsMixin, Trainer):
        def get_train_dataloader(self):
            return loader or Epochs(Data(recipe or Recipe(batch_size=SIZE), named=True))

    quiet = {"use_cpu": True, "report_to": [], "disable_tqdm": True, "logging_strategy": "no", "save_strategy": "no"}
    quiet |= {"max_steps": STEPS, "per_device_train_batch_size": SIZE, "max_grad_norm": 0.0, "seed": SEED}
    if recipe is not None:
        quiet |= {"max_grad_norm": recipe.clip_norm, "bf16": recipe.precision == "bf16-mixed"}
    own = {name: settings.pop(name) for name in ("loss", "eval_dataset", "optimizers") if name in settings}
    arguments = TrainingArguments(folder, **(quiet | settings))
    own = {"loss": F.cross_entropy} | own
    trainer = Treated(
        model or start(), arguments, methods=[Noise(), *methods], recipe=recipe, traits=TRAITS, ids=True, **own
    )
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    return trainer


def by_transformers(methods, recipe: Recipe) -> Session:
    with tempfile.TemporaryDirectory() as folder:
        trainer = transformers_trainer(methods, recipe, folder)
        trainer.train()
    assert trainer.model is trainer.session.model
    return trainer.session


TRAIN = {"loop": by_loop, "lightning": by_lightning, "transformers": by_transformers}


class Recorder(Method):
    """Writes down each hook that is called, and the step at which."""

    name = "recorder"

    def __init__(self) -> None:
        self.log: list[tuple[str, int]] = []

    def __deepcopy__(self, memo):
        return self

    def setup(self, run):
        self.log.append(("setup", 0))

    def batch(self, run, batch: Batch):
        self.log.append(("batch", run.steps))
        return batch

    def objective(self, run, batch, proceed):
        self.log.append(("objective", run.steps))
        return proceed(batch)

    def gradients(self, run):
        assert all(p.grad is not None for p in run.model.parameters())
        self.log.append(("gradients", run.steps))

    def updated(self, run):
        assert all(p.grad is None for p in run.model.parameters())
        self.log.append(("updated", run.steps))

    def epoch(self, run):
        self.log.append((f"epoch {run.epochs:g} lr {run.optimizer.param_groups[0]['lr']:.6f}", run.steps))

    def finish(self, run):
        self.log.append(("finish", run.steps))
