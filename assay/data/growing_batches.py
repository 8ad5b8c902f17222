"""Batches whose size may change from step to step, delivered in parts that fit into memory.

The samples come in the same order whatever the sizes: every pass over the data is drawn anew by (seed, pass), and a
batch reaches over the end of a pass into the next, so that none is left out.
"""

from collections.abc import Iterator, Mapping

import torch
from jaxtyping import Int64
from torch import Tensor
from torch.utils.data import Sampler


def pass_order(samples: int, seed: int, number: int) -> Int64[Tensor, " samples"]:
    """The order of pass `number` over the data, a function of the arguments alone."""
    shuffler = torch.Generator().manual_seed((seed + 0x9E3779B97F4A7C15 * number) % 2**63)
    return torch.randperm(samples, generator=shuffler)


class GrowingBatchSampler(Sampler[list[int]]):
    """The batch sampler of a `DataLoader` of which one iteration is one step: a batch, in parts.

        sampler = GrowingBatchSampler(len(data), batch_size=8, part_size=256)
        loader = DataLoader(data, batch_sampler=sampler)
        while sampler.drawn < budget:
            for x, y in loader:
                (loss(model(x), y) * len(x) / sampler.batch_size).backward()
            optimizer.step()
            optimizer.zero_grad()
            sampler.batch_size = rule.update(moments)

    Each iteration takes one batch further. Worker processes load the parts of a step side by side; give the loader
    `persistent_workers=True`, or it starts them anew at every step. Between steps `state_dict` is all that an exact
    resume needs.

    Args:
        samples: in the data set.
        batch_size: of the first steps.
        part_size: most samples at a time; a batch above it comes in as few and as equal parts as can be.
        seed: of the order.

    Attributes:
        drawn: samples given so far.

    Raises:
        ValueError: one of them is not positive, or the batch is larger than the data set.
    """

    def __init__(self, samples: int, batch_size: int, part_size: int | None = None, *, seed: int = 0) -> None:
        if samples < 1:
            raise ValueError(f"samples must be positive, got {samples}")
        if part_size is not None and part_size < 1:
            raise ValueError(f"part_size must be positive, got {part_size}")
        self.samples, self.part_size, self.seed = samples, part_size or samples, seed
        self.batch_size = batch_size
        self.drawn = 0
        self._order: tuple[int, Tensor] | None = None  # of which pass

    @property
    def batch_size(self) -> int:
        """Samples of the next step; it may be set between steps.

        Raises:
            ValueError: it is set below 1 or above the size of the data set.
        """
        return self._batch_size

    @batch_size.setter
    def batch_size(self, value: int) -> None:
        if not 1 <= value <= self.samples:
            raise ValueError(f"batch_size must lie in 1..{self.samples}, the samples there are, got {value}")
        self._batch_size = value

    def draw(self) -> Int64[Tensor, " batch"]:
        """The samples of one step."""
        number, start = divmod(self.drawn, self.samples)
        ids = self._pass(number)[start : start + self.batch_size]
        if (missing := self.batch_size - len(ids)) > 0:
            ids = torch.cat([ids, self._pass(number + 1)[:missing]])
        self.drawn += self.batch_size
        return ids

    def __iter__(self) -> Iterator[list[int]]:
        # a generator, so that an iterator which is made and never used, as a loader with workers does, takes nothing
        yield from [part.tolist() for part in self.draw().tensor_split(len(self))]

    def __len__(self) -> int:
        """Parts of the next step."""
        return -(-self.batch_size // self.part_size)

    def state_dict(self) -> dict[str, int]:
        """Where it stands between steps."""
        return {"drawn": self.drawn, "batch_size": self.batch_size}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on from what `state_dict` gave; the data set and the seed are those of then."""
        self.drawn, self.batch_size = state["drawn"], state["batch_size"]

    def _pass(self, number: int) -> Tensor:
        if self._order is None or self._order[0] != number:
            self._order = number, pass_order(self.samples, self.seed, number)
        return self._order[1]
