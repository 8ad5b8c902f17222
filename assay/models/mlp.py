"""Multilayer perceptron: linear layers with ReLU, and if wished dropout, between them."""

from collections.abc import Sequence
from itertools import pairwise

from jaxtyping import Float
from torch import Tensor, nn


class MLP(nn.Module):
    """Linear, (batch norm,) ReLU, (dropout,) ... linear; inputs of any shape are flattened.

    Args:
        widths: of the input, each hidden layer and the output; at least two, all positive.
        batch_norm: normalise each hidden layer before its ReLU.
        dropout: rate, in [0, 1), of a dropout after each hidden layer; 0 for none.

    Raises:
        ValueError: `widths` is too short, or holds one that is not positive; `dropout` is out of range.
    """

    def __init__(self, widths: Sequence[int], *, batch_norm: bool = False, dropout: float = 0.0) -> None:
        super().__init__()
        if len(widths) < 2 or min(widths) < 1:
            raise ValueError(f"widths must be at least two positive numbers, got {list(widths)}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), got {dropout}")
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(widths[:-1]):
            layers.append(nn.Linear(inputs, outputs, bias=not batch_norm))
            if batch_norm:
                layers.append(nn.BatchNorm1d(outputs))
            layers.append(nn.ReLU())
            if dropout:
                layers.append(nn.Dropout(dropout))
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-2], widths[-1]))

    def forward(self, x: Float[Tensor, "batch ..."]) -> Float[Tensor, "rows outputs"]:
        logits: Tensor = self.layers(x.flatten(1))  # multi-sample dropout among the layers makes more rows than came
        return logits
