"""A decoder-only transformer on bytes or other small vocabularies, layer norm before each sublayer.

    x_0 = E[tokens] + P;   x <- x + attention(norm(x));   x <- x + mlp(norm(x));   logits = R norm(x_depth)

Source: Radford et al., "Language models are unsupervised multitask learners" (GPT-2, 2019), section 2.3.
"""

import math

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention


class Attention(nn.Module):
    """Causal self-attention: each place sees itself and those before it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "batch time width"]) -> Float[Tensor, "batch time width"]:
        q, k, v = rearrange(self.qkv(x), "b t (three h d) -> three b h t d", three=3, h=self.heads)
        y = scaled_dot_product_attention(q, k, v, is_causal=True)
        mixed: Tensor = self.out(rearrange(y, "b h t d -> b t (h d)"))
        return mixed


class Block(nn.Module):
    """Attention and a GELU network of four times the width, each added to what comes in."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), Attention(width, heads)
        self.norm2, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Float[Tensor, "batch time width"]) -> Float[Tensor, "batch time width"]:
        x = x + self.attention(self.norm1(x))
        out: Tensor = x + self.down(gelu(self.up(self.norm2(x)), approximate="tanh"))
        return out


class Transformer(nn.Module):
    """A small GPT.

    Args:
        vocabulary: tokens; 256 for bytes.
        context: longest input.
        width: of the residual stream, a multiple of `heads`.
        depth: blocks.
        heads: of each attention.
        tied: the readout is the transposed embedding.

    Raises:
        ValueError: `width` is no multiple of `heads`.
    """

    def __init__(
        self, *, vocabulary: int = 256, context: int = 128, width: int = 128, depth: int = 2, heads: int = 4,
        tied: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        if heads < 1 or width % heads:
            raise ValueError(f"width must be a multiple of heads, got width {width} and {heads} heads")
        self.embedding = nn.Embedding(vocabulary, width)
        self.positions = nn.Parameter(torch.empty(context, width))
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.readout = nn.Linear(width, vocabulary, bias=False)
        if tied:
            self.readout.weight = self.embedding.weight
        nn.init.normal_(self.positions, std=0.02)
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                # What is added to the residual stream starts smaller: there are 2 depth such terms.
                added = name.endswith((".out", ".down"))
                nn.init.normal_(module.weight, std=0.02 / math.sqrt(2 * depth) if added else 0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, tokens: Int[Tensor, "batch time"]) -> Float[Tensor, "batch time vocabulary"]:
        """Logits of the token after each place.

        Raises:
            ValueError: the input is longer than the context.
        """
        time, context = tokens.shape[1], self.positions.shape[0]
        if time > context:
            raise ValueError(f"tokens must be at most {context} long, the context, got {time}")
        x = self.blocks(self.embedding(tokens) + self.positions[:time])
        logits: Tensor = self.readout(self.norm(x))
        return logits
