"""Where a run's batches come from, with an exactly resumable position."""

from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from assay.data.growing_batches import GrowingBatchSampler, pass_order
from assay.engine import chance
from assay.engine.devices import part
from assay.engine.task import Batch, Examples


class Stream(Protocol):
    """An endless source of batches. What it computes with the model (acting in an environment) it adds to `run.flops`.

    Attributes:
        epoch: passes over the data so far, counting the part of the present one; never falls.
        steps_per_epoch: steps in a pass, or `None` where there is no such thing as an epoch.
    """

    @property
    def epoch(self) -> float: ...

    @property
    def steps_per_epoch(self) -> int | None: ...

    def next(self) -> Batch: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@runtime_checkable
class SharedStream(Protocol):
    """What a stream is besides, of whose batches each of several devices reads a part.

    Attributes:
        batch_size: samples of a batch, all parts together.
    """

    batch_size: int

    def share(self, rank: int, size: int) -> None:
        """From here on give part `rank` of `size` of every batch (`assay.engine.devices.part`), and draw anew what is
        drawn for samples, apart from what other ranks draw."""
        ...


class ShuffledStream:
    """Every sample once an epoch, in an order drawn anew for each; what does not fill a batch is left out that epoch.

    The order of epoch e depends on (seed, e) alone, so that arms that read batches in different ways still see the
    same order. Augmentation draws from its own generator.

    Args:
        examples: the training set.
        batch_size: samples a batch; the whole set where it is larger than that.
        seed: of the order.
        augment_seed: of the augmentation.
    """

    def __init__(self, examples: Examples, batch_size: int, seed: int, *, augment_seed: int = 0) -> None:
        if len(examples) < 1:
            raise ValueError("examples must hold at least one sample, got none")
        self.examples, self.seed = examples, seed
        self.batch_size = min(batch_size, len(examples))
        self.steps_per_epoch = len(examples) // self.batch_size
        self.passes, self.position = 0, 0
        self.generator = torch.Generator().manual_seed(augment_seed)
        self._order: Tensor | None = None
        self._augment_seed, self._part = augment_seed, slice(None)

    def share(self, rank: int, size: int) -> None:
        self._part = part(self.batch_size, rank, size)
        where = f"rank {rank} of {size} from {self.passes}:{self.position}"
        self.generator.manual_seed(chance.seed_of(where, self._augment_seed))

    @property
    def epoch(self) -> float:
        return self.passes + self.position / self.steps_per_epoch

    def next(self) -> Batch:
        if self._order is None:
            self._order = pass_order(len(self.examples), self.seed, self.passes)
        start = self.position * self.batch_size
        ids = self._order[start : start + self.batch_size][self._part]
        self.position += 1
        if self.position == self.steps_per_epoch:
            self.passes, self.position, self._order = self.passes + 1, 0, None
        x, y = self.examples.batch(ids, self.generator)
        return Batch(x, y, ids)

    def state_dict(self) -> dict[str, Any]:
        return {"passes": self.passes, "position": self.position, "generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["passes"] != self.passes:  # else who looks ahead at every step would have it drawn anew each time
            self._order = None
        self.passes, self.position = state["passes"], state["position"]
        self.generator.set_state(state["generator"])


class GrowingStream:
    """The same order in batches of which each may have its own size, so that a batch reaches over the end of an epoch
    into the next: for a method to put in place of a task's stream, by `run.make_stream`.

    Args:
        examples: the training set.
        batch_size: samples of the first batch; the whole set where it is larger than that.
        seed: of the order.
        augment_seed: of the augmentation.
    """

    def __init__(self, examples: Examples, batch_size: int, seed: int, *, augment_seed: int = 0) -> None:
        self.examples = examples
        self.sampler = GrowingBatchSampler(len(examples), min(batch_size, len(examples)), seed=seed)
        self.generator = torch.Generator().manual_seed(augment_seed)

    @property
    def batch_size(self) -> int:
        """Samples of the next batch; to be set, up to the whole set."""
        return self.sampler.batch_size

    @batch_size.setter
    def batch_size(self, value: int) -> None:
        self.sampler.batch_size = value

    @property
    def epoch(self) -> float:
        return self.sampler.drawn / len(self.examples)

    @property
    def steps_per_epoch(self) -> int:
        """At the present size. (Schedules follow the progress of a run, so they need no better.)"""
        return -(-len(self.examples) // self.batch_size)

    def next(self) -> Batch:
        ids = self.sampler.draw()
        x, y = self.examples.batch(ids, self.generator)
        return Batch(x, y, ids)

    def state_dict(self) -> dict[str, Any]:
        return {"sampler": self.sampler.state_dict(), "generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.sampler.load_state_dict(state["sampler"])
        self.generator.set_state(state["generator"])
