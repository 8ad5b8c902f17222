"""A recurrent language model on bytes or other small vocabularies: embedding, torch's LSTM or GRU, readout.

h_t = cell(E[token_t], h_{t-1});   logits_t = R h_t + b
"""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


class Recurrent(nn.Module):
    """An LSTM or GRU with the initial weights that torch gives it, but for the LSTM's forget gates: their biases add up
    to 1, without which a plain LSTM learns late (Jozefowicz et al., 2015).

    Args:
        kind: `lstm` or `gru`.
        vocabulary: tokens; 256 for bytes.
        width: of embedding and state.
        depth: layers.

    Raises:
        ValueError: `kind` is unknown.
    """

    def __init__(
        self, kind: Literal["lstm", "gru"] = "lstm", *, vocabulary: int = 256, width: int = 128, depth: int = 1
    ) -> None:
        super().__init__()
        if kind not in ("lstm", "gru"):
            raise ValueError(f"kind must be lstm or gru, got {kind!r}")
        self.embedding = nn.Embedding(vocabulary, width)
        layer = {"lstm": nn.LSTM, "gru": nn.GRU}[kind]
        self.layers = layer(width, width, depth, batch_first=True)
        self.readout = nn.Linear(width, vocabulary)
        if kind == "lstm":
            with torch.no_grad():
                for name, bias in self.layers.named_parameters():
                    if name.startswith("bias"):  # gates lie in the order i, f, g, o
                        bias[width : 2 * width] = 1.0 if name.startswith("bias_ih") else 0.0

    def forward(self, tokens: Int[Tensor, "batch time"]) -> Float[Tensor, "batch time vocabulary"]:
        """Logits of the token after each place."""
        states, _ = self.layers(self.embedding(tokens))
        logits: Tensor = self.readout(states)
        return logits
