"""Batches fixed once, of which every pass after the first visits only those that had the highest losses.

    pass 1      batches 0 .. b - 1
    then        the floor(delta b) batches of highest recorded loss, in ascending order of their numbers

A batch's recorded loss is that of its last visit, before the update; no forward pass is made for the ranking alone.

Source: Sahayam, Zakkam, Jayaraman, "Can we learn better with hard samples?" (2023), and what its public code decides.
"""

import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.utils.data import Sampler

if TYPE_CHECKING:
    Lists = Sampler[list[int]]
else:
    Lists = Sampler


class HardMiniBatchSampler(Lists):
    """A `DataLoader`'s `batch_sampler` that is told each batch's loss. One iteration is a pass:

        sampler = HardMiniBatchSampler(len(data), 64, delta=0.5, generator=torch.Generator().manual_seed(0))
        loader = DataLoader(data, batch_sampler=sampler)
        while (left := epochs * sampler.steps_per_epoch - sampler.steps) > 0:
            for x, y in islice(loader, left):
                loss = loss_fn(model(x), y)
                ...
                sampler.record(loss)

    Small `delta` makes shorter passes, and more of them in the same number of steps. Losses are read when a pass is
    over, so that steps on a GPU need not be waited for. An iteration that is broken off goes on, in the next, behind
    the last batch whose loss was recorded. Equal losses keep the order of the ranking before, a loss of NaN ranks
    highest. On several devices all must record the same: the mean over the whole batch.

    Args:
        samples: in the data set, at least a batch.
        batch_size: at least 1.
        delta: share of the batches that a pass keeps, in (0, 1]; 1 visits all, always in the same order.
        drop_last: leave out, for good, the samples that do not fill a batch; else they make a short one, whose mean
            loss is noisier than the others'.
        generator: draws, once, which samples go together; without one they go as they lie in the data set, as in the
            public code, which suits data that are shuffled already.

    Attributes:
        steps_per_epoch: the number b of batches: as many steps as an ordinary epoch has.
        steps: losses recorded so far.

    Raises:
        ValueError: a number is out of range, or `delta` leaves no batch.
    """

    def __init__(
        self,
        samples: int,
        batch_size: int,
        delta: int | float = 0.5,
        *,
        drop_last: bool = True,
        generator: torch.Generator | None = None,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be positive, got {batch_size}")
        count = samples // batch_size if drop_last else -(-samples // batch_size)
        if count < 1:
            raise ValueError(f"samples must fill at least one batch of {batch_size}, got {samples}")
        if not 0 < delta <= 1:
            raise ValueError(f"delta must lie in (0, 1], got {delta}")
        self.kept = int(delta * count)
        if self.kept < 1:
            raise ValueError(f"delta must be {1 / count:g} or more, to keep one of {count} batches; got {delta}")
        self.steps_per_epoch, self.batch_size, self.steps = count, batch_size, 0
        order = torch.arange(samples) if generator is None else torch.randperm(samples, generator=generator)
        self._samples = order[: count * batch_size]
        self._losses = torch.zeros(count, dtype=torch.float64)
        self._ranking = self._visits = torch.arange(count)
        self._done = 0  # of the visits of the present pass
        self._unread: list[Tensor] = []  # losses of the last of them
        self._exhausted_at = -1

    def __len__(self) -> int:
        return len(self._visits) - self._done or self.kept

    def __iter__(self) -> Iterator[list[int]]:
        if self._exhausted_at == self.steps:
            raise RuntimeError("no loss was recorded in the last pass: call record(loss) after each step")
        self._begin()
        began = self.steps
        for batch in self._visits[self._done :].tolist():
            yield self._members(batch).tolist()
        self._exhausted_at = began

    def due(self) -> Int64[Tensor, " batch"]:
        """The samples of the batch whose loss is to be recorded next, for loops without a loader."""
        self._begin()
        return self._members(int(self._visits[self._done]))

    def record(self, loss: Float[Tensor, ""] | float) -> None:
        """Take note of the mean loss of the next batch of the pass, as it was before the update.

        Raises:
            RuntimeError: all losses of the pass were recorded before.
        """
        if self._done == len(self._visits):
            raise RuntimeError(f"the pass is over: it had {self._done} batches, each of which has its loss recorded")
        self._unread.append(loss.detach() if isinstance(loss, Tensor) else torch.tensor(loss, dtype=torch.float64))
        self._done += 1
        self.steps += 1

    def state_dict(self) -> dict[str, Any]:
        """All that a pass needs to go on from its midst, the batches themselves included."""
        self._read()
        names = ("_samples", "_losses", "_ranking", "_visits")
        return {name.strip("_"): getattr(self, name).clone() for name in names} | {
            "done": self._done,
            "steps": self.steps,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken, in the next iteration.

        Raises:
            ValueError: it is of another number of samples or batches.
        """
        held, here = ((len(s["samples"]), len(s["losses"])) for s in (state, self.state_dict()))
        if held != here:
            raise ValueError(f"state must be of {here[0]} samples in {here[1]} batches, got {held[0]} in {held[1]}")
        self._samples, self._losses, self._ranking, self._visits = (
            state[name].clone() for name in ("samples", "losses", "ranking", "visits")
        )
        self._done, self.steps, self._exhausted_at = state["done"], state["steps"], -1

    def _members(self, batch: int) -> Tensor:
        return self._samples[batch * self.batch_size : (batch + 1) * self.batch_size]

    def _read(self) -> None:
        if self._unread:
            visited = self._visits[self._done - len(self._unread) : self._done]
            self._losses[visited] = torch.stack(self._unread).cpu().double()
            self._unread.clear()

    def _begin(self) -> None:
        """Rank and choose anew where the last pass is over."""
        if self._done < len(self._visits):
            return
        self._read()
        if self._losses.isnan().any():
            warnings.warn("the loss of a batch is NaN, which ranks highest", stacklevel=3)
        self._ranking = self._ranking[self._losses[self._ranking].argsort(descending=True, stable=True)]
        self._visits, self._done = self._ranking[: self.kept].sort().values, 0
