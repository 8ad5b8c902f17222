"""A space of multilayer perceptrons, small enough that many are trained in a minute: a stand-in for NATS-Bench's.

width {16, 32, 64, 128, 256} x depth {1, 2, 3, 4} x batch norm {no, yes} x dropout {0, 0.1, 0.3, 0.5}: 160 networks
"""

from itertools import product
from typing import NamedTuple

import torch

from assay.models.mlp import MLP


class Architecture(NamedTuple):
    """One point of the space; its name is such as `w64-d2-bn-p0.3`."""

    width: int
    depth: int
    batch_norm: bool
    dropout: float

    @property
    def name(self) -> str:
        return f"w{self.width}-d{self.depth}-{'bn' if self.batch_norm else 'plain'}-p{self.dropout:g}"

    def network(self, inputs: int, classes: int) -> MLP:
        """A fresh one, its weights from torch's default generator."""
        widths = [inputs, *[self.width] * self.depth, classes]
        return MLP(widths, batch_norm=self.batch_norm, dropout=self.dropout)


SPACE = [Architecture(*p) for p in product((16, 32, 64, 128, 256), (1, 2, 3, 4), (False, True), (0.0, 0.1, 0.3, 0.5))]


def draw(count: int) -> list[Architecture]:
    """`count` different networks, from torch's default generator.

    Raises:
        ValueError: the space has not as many.
    """
    if not 1 <= count <= len(SPACE):
        raise ValueError(f"count must lie in 1..{len(SPACE)}, got {count}")
    return [SPACE[i] for i in torch.randperm(len(SPACE))[:count].tolist()]
