"""Training on the hardest mini-batches as a method of a run."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from assay.data.hard_minibatch import HardMiniBatchSampler
from assay.engine import Batch, Examples, Method, ShuffledStream, Task
from assay.errors import AssayError, CannotTreat

if TYPE_CHECKING:
    from assay.engine import Recipe, Run


@dataclass
class HardMiniBatch(Method):
    """The batches are those of the ordinary first epoch for the whole run; after it each pass visits the share `delta`
    of them whose last loss was highest. Steps, samples and FLOPs are those of ordinary training: an epoch is as many
    steps as there are batches, however many passes that makes.

    Args:
        delta: in (0, 1]; 1 visits all batches in the same order again and again, the paper's baseline.

    Raises:
        AssayError: `delta` is out of range.
        CannotTreat: the task does not draw batches from a training set, or `delta` leaves none of them.
    """

    name: ClassVar[str] = "hard-minibatch"
    needs: ClassVar[frozenset[str]] = frozenset({"stream"})
    strategies: ClassVar[frozenset[str]] = frozenset({"ddp", "fsdp"})

    delta: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.delta <= 1:
            raise AssayError(f"delta must lie in (0, 1], got {self.delta:g}")

    def check(self, task: Task, recipe: "Recipe") -> None:
        super().check(task, recipe)
        if type(task).stream is not Task.stream:
            raise CannotTreat(
                f"method 'hard-minibatch' cannot treat task {task.name!r}: that draws its batches in a way of its own, "
                "and the method needs a training set of which to make fixed ones"
            )

    def setup(self, run: "Run") -> None:
        run.make_stream = lambda: self._stream_of(run)

    def _stream_of(self, run: "Run") -> "HardStream":
        if run.splits.train is None:
            raise CannotTreat(f"method 'hard-minibatch' needs training data, and task {run.task.name!r} has none")
        seeds = run.seed_for("order"), run.seed_for("augment")
        try:
            self.stream = HardStream(run.splits.train, run.recipe.batch_size, *seeds, self.delta)
        except ValueError as error:
            raise CannotTreat(f"method 'hard-minibatch' cannot treat task {run.task.name!r}: {error}") from error
        return self.stream

    def step(self, run: "Run", batch: Batch, proceed: Callable[[Batch], Tensor]) -> Tensor:
        loss = proceed(batch)
        self.stream.record(run.ranks.total(loss.detach() * self.stream.weight))
        return loss


class HardStream(ShuffledStream):
    """Fixed batches of `examples`, the ones of a `ShuffledStream`'s first epoch; `next` gives the same one until its
    loss is recorded.

    Args:
        examples, batch_size, seed, augment_seed: as in `ShuffledStream`.
        delta: as in `HardMiniBatchSampler`.

    Attributes:
        weight: of this device's part of the last batch, in (0, 1].
    """

    def __init__(self, examples: Examples, batch_size: int, seed: int, augment_seed: int, delta: float) -> None:
        super().__init__(examples, batch_size, seed, augment_seed=augment_seed)
        generator = torch.Generator().manual_seed(seed)
        self.sampler = HardMiniBatchSampler(len(examples), self.batch_size, delta, generator=generator)
        self.weight = 1.0

    def next(self) -> Batch:
        ids = self.sampler.due()[self._part]
        self.weight = len(ids) / self.batch_size
        x, y = self.examples.batch(ids, self.generator)
        return Batch(x, y, ids)

    def record(self, loss: Tensor) -> None:
        """The mean loss of the whole batch that `next` gave last."""
        self.sampler.record(loss)
        self.passes, self.position = divmod(self.sampler.steps, self.steps_per_epoch)

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"sampler": self.sampler.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.sampler.load_state_dict(state["sampler"])
