"""A task: data, model, objective and metrics. It knows no method."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from assay.engine.recipe import Recipe

if TYPE_CHECKING:
    from assay.engine.run import Run
    from assay.engine.stream import Stream


class Batch(NamedTuple):
    """One batch: inputs, targets and the ids of its samples in the training set.

    Attributes:
        x: inputs, a tensor or any nesting of tensors; the first axis of each is the batch.
        y: targets, likewise.
        ids: int64 [batch], the samples' positions in the data set; equal id means equal sample.
    """

    x: Any
    y: Any
    ids: Tensor


@dataclass(frozen=True)
class Metric:
    """A figure that a run is judged by.

    Attributes:
        name: the key under which `Task.outcomes` or `Task.evaluate` reports it.
        goal: whether more or less of it is better.
        worst: the value that a diverged run counts as (accuracy 0, or a uniform guesser's loss).
        unit: how a person reads it: `"%"` shows a fraction as per cent, anything else follows the number.
    """

    name: str
    goal: Literal["max", "min"]
    worst: float
    unit: str = ""


@runtime_checkable
class Examples(Protocol):
    """A data set read a batch at a time."""

    def __len__(self) -> int: ...

    def batch(self, ids: Tensor, generator: torch.Generator | None = None) -> tuple[Any, Any]:
        """Inputs and targets of the samples `ids` (int64 [batch]); training gives a `generator`, for augmentation."""
        ...


class TensorExamples:
    """Examples held in memory as two tensors.

    Args:
        x: inputs [samples, ...].
        y: targets [samples, ...].
        augment: `(x, generator) -> x` on a batch of inputs, applied in training only.
    """

    def __init__(
        self, x: Tensor, y: Tensor, augment: Callable[[Tensor, torch.Generator], Tensor] | None = None
    ) -> None:
        if len(x) != len(y):
            raise ValueError(f"x and y must have equal lengths, got {len(x)} and {len(y)}")
        self.x, self.y, self.augment = x, y, augment

    def __len__(self) -> int:
        return len(self.x)

    def batch(self, ids: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        x = self.x[ids]
        if self.augment is not None and generator is not None:
            x = self.augment(x, generator)
        return x, self.y[ids]


@dataclass(frozen=True)
class Splits:
    """The three parts of a task's data; `None` where a task makes its own data as it goes."""

    train: Examples | None = None
    valid: Examples | None = None
    test: Examples | None = None


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found.

    Attributes:
        metrics: one figure a metric.
        outcomes: float32 [examples] a metric, where the figure is a mean over examples. They let arms be compared on
            the same examples; a metric that is no such mean is left out.
    """

    metrics: Mapping[str, float]
    outcomes: Mapping[str, np.ndarray]


class Task:
    """Base of every task. Override `splits`, `model` and, for anything but a classifier-like task, the rest.

    Attributes:
        name: what the command line calls it.
        metrics: what it is judged by; the first is the one a trial uses unless told otherwise.
        recipe: the settings that are ordinary for it; a trial changes them by name.
        budget: the default budget, such as `"10epochs"`.
        traits: what methods may rely on: `"classification"` (class indices or probabilities as targets and `run.loss`
            is a cross-entropy on logits), `"images"`, `"text"`, ...
        varies: which of `init`, `order` and `split` a seed can redraw here.
        divisible: an `objective` of the task's own is a mean over the samples of its batch, as the ordinary one is, so
            that several devices can share a batch.
        fixed_test: the test split is the same whatever the seed, as with a public test set.
        pixels: mean and standard deviation of each channel, where inputs are pictures (pixel - mean) / std of pixels in
            [0, 1]; `None` where they are not.
        drawn_anew: the data are made by the seed, so that splits of different seeds have no example in common.
        source: digest of the file that defines it, where that is not part of assay; part of what identifies a run.
        rebuild: a callable and its arguments that make it anew in another process, where pickling cannot.
    """

    name: ClassVar[str] = ""
    metrics: tuple[Metric, ...] = ()
    recipe: Recipe = Recipe()
    budget: str = "10epochs"
    traits: frozenset[str] = frozenset()
    varies: frozenset[str] = frozenset({"init", "order"})
    divisible: bool = False
    fixed_test: bool = False
    pixels: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    drawn_anew: bool = False
    source: str = ""
    rebuild: tuple[Callable[..., "Task"], tuple[Any, ...]] | None = None

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.rebuild or super().__reduce_ex__(protocol)

    # What it is made of -------------------------------------------------------------------------------------------

    def settings(self) -> dict[str, Any]:
        """The task's own options, JSON-able: part of what identifies a run."""
        return {}

    def splits(self, seed: int) -> Splits:
        """The data. `seed` draws the split where the task owns it (trait `split` in `varies`)."""
        return Splits()

    def model(self) -> nn.Module:
        """A fresh network, its weights drawn from torch's default generator (the run seeds it). Several networks: one
        `nn.ModuleDict`, of which `run.forward_module[name]` computes."""
        raise NotImplementedError

    def parameters(self, model: nn.Module) -> dict[str, Any]:
        """What each optimizer of the task trains: name -> parameters or parameter groups."""
        return {"main": [p for p in model.parameters() if p.requires_grad]}

    # How it trains ------------------------------------------------------------------------------------------------

    def loss(self, outputs: Any, targets: Any, reduction: str = "mean") -> Tensor:
        """The training loss; `reduction="none"` gives one value a sample. `run.loss` starts out as this."""
        raise NotImplementedError

    def objective(self, run: "Run", batch: Batch) -> Tensor:
        """The scalar that a step minimises."""
        return run.loss(run.forward(batch.x), batch.y)

    def step(self, run: "Run", batch: Batch) -> Tensor:
        """One training step; a task with several optimizers calls `run.backward(loss, name)` and `run.update(name)`
        itself.

        Returns:
            the loss, a scalar, for the learning curve.
        """
        loss = run.objective(batch)
        run.backward(loss)
        run.update()
        return loss

    def stream(self, run: "Run") -> "Stream":
        """Where batches come from; override it where they depend on the model (an environment)."""
        from assay.engine.stream import ShuffledStream

        if run.splits.train is None:
            raise NotImplementedError(f"task {self.name!r} has no training split, so it must override stream()")
        return ShuffledStream(
            run.splits.train, run.recipe.batch_size, run.seed_for("order"), augment_seed=run.seed_for("augment")
        )

    # How it is judged ---------------------------------------------------------------------------------------------

    def outcomes(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """One value an example [batch] for each metric that is a mean over examples."""
        raise NotImplementedError

    def evaluate(self, run: "Run", examples: Examples | None, batch_size: int = 500) -> Evaluation:
        """Judge `run.model` on `examples`, `batch_size` at a time. The run has put it in eval mode, without gradients.
        A task that judges several sets one after another calls `run.begin_evaluation()` between them."""
        if examples is None:
            return Evaluation({}, {})

        def judged(start: int) -> dict[str, Tensor]:
            found = self.outcomes(run.forward_module, _read(examples, start, batch_size, run.device))
            return {name: values.detach().float().cpu() for name, values in found.items()}

        parts = run.divided(judged, range(0, len(examples), batch_size))
        outcomes = {name: torch.cat([part[name] for part in parts]).numpy() for name in (parts[0] if parts else ())}
        return Evaluation({name: float(values.mean(dtype=np.float64)) for name, values in outcomes.items()}, outcomes)


def batches(examples: Examples, batch_size: int, device: torch.device) -> Iterator[Batch]:
    """All of `examples` once, in order, as batches on `device`."""
    for start in range(0, len(examples), batch_size):
        yield _read(examples, start, batch_size, device)


def _read(examples: Examples, start: int, batch_size: int, device: torch.device) -> Batch:
    ids = torch.arange(start, min(start + batch_size, len(examples)))
    x, y = examples.batch(ids)
    return to_device(Batch(x, y, ids), device)


def to_device(batch: Batch, device: torch.device) -> Batch:
    """`batch` on `device`; itself where it is there already."""
    if device.type == "cpu":
        return batch
    from torch.utils._pytree import tree_map_only

    moved: Batch = tree_map_only(Tensor, lambda t: t.to(device, non_blocking=True), batch)
    return moved
