"""What is known of a sample's gradients from the last time: one norm a row, by layer and sample id.

Source: Liu et al., "Winner-Take-All Column Row Sampling for Memory Efficient Adaptation of Language Model" (NeurIPS
2023), section 3.2.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor


class GradientNormCache:
    """Norms of gradients, kept on the CPU in bfloat16 from one visit of a sample to the next.

        cache = GradientNormCache()
        model = to_wta_crs(model, 0.3, cache=cache)
        for x, y, ids in loader:
            with cache.batch(ids):
                loss = criterion(model(x), y)
            loss.backward()

    Tables grow with the largest id and the longest sample that are met; they take 2 bytes a row of each layer. What
    backward finds becomes known when the next batch begins, so that the device is not waited for in its midst. With
    activation checkpointing, which repeats the forward pass in backward, that belongs inside the batch as well.
    """

    def __init__(self) -> None:
        self._tables: dict[str, Tensor] = {}
        self._fresh: list[tuple[str, Tensor, Tensor]] = []
        self._ids: Tensor | None = None

    @contextmanager
    def batch(self, ids: Int[Tensor, " batch"]) -> Iterator[None]:
        """Inside, forward passes are those of the samples `ids`, whole numbers from 0; backward may come after it.

        Raises:
            ValueError: an id is negative.
        """
        self._settle()
        ids = ids.detach().cpu()
        if len(ids) and int(ids.min()) < 0:
            raise ValueError(f"ids must be 0 or more, got {int(ids.min())}")
        self._ids = ids
        try:
            yield
        finally:
            self._ids = None

    def known(self, key: str, rows: int, device: torch.device) -> Float[Tensor, " rows"] | None:
        """The norms of the present batch's rows, NaN for those never seen; `None` outside a batch.

        Args:
            key: the layer.
            rows: of the batch, sample after sample, as many for each.
            device: where the norms are wanted.

        Raises:
            ValueError: rows do not divide among the samples.
        """
        if self._ids is None:
            return None
        ids, each = self._ids, self._each(key, rows)
        found = torch.full((len(ids), each), torch.nan)
        if key in self._tables:
            table = self._tables[key]
            seen, width = ids < len(table), min(each, table.shape[1])
            found[seen, :width] = table[ids[seen], :width].float()
        return found.flatten().to(device, non_blocking=True)

    def keeper(self, key: str, rows: int) -> Callable[[Tensor], None] | None:
        """What takes note of the norms [rows] that backward finds for the present batch; `None` outside a batch."""
        if self._ids is None:
            return None
        ids, each, fresh = self._ids, self._each(key, rows), self._fresh
        return lambda norms: fresh.append((key, ids, norms.detach().view(len(ids), each)))

    def _each(self, key: str, rows: int) -> int:
        samples = len(self._ids) if self._ids is not None else 0
        if not samples or rows % samples:
            raise ValueError(f"layer {key!r} must have as many rows for each of {samples} ids, got {rows} rows in all")
        return rows // samples

    def _settle(self) -> None:
        for key, ids, norms in self._fresh:
            table = self._tables[key] = _grown(self._tables.get(key), int(ids.max()) + 1, norms.shape[1])
            table[ids, : norms.shape[1]] = norms.to("cpu", table.dtype)
        self._fresh.clear()

    def state_dict(self) -> dict[str, Any]:
        """All that is known: a table [samples, rows] a layer."""
        self._settle()
        return dict(self._tables)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what `state_dict` gave."""
        self._fresh.clear()
        self._tables = {key: table.clone() for key, table in state.items()}


def _grown(table: Tensor | None, samples: int, each: int) -> Tensor:
    """`table`, or a larger one that begins with it."""
    if table is None:
        return torch.full((samples, each), torch.nan, dtype=torch.bfloat16)
    if samples <= len(table) and each <= table.shape[1]:
        return table
    length = len(table) if samples <= len(table) else max(samples, 2 * len(table))  # ids come in any order
    larger = torch.full((length, max(each, table.shape[1])), torch.nan, dtype=table.dtype)
    larger[: len(table), : table.shape[1]] = table
    return larger
