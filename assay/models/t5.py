"""A block of T5's encoder: attention without scaling, a ReLU network, RMS norm before each, no biases.

    x <- x + drop(O context);    context = drop(softmax(Q K^T + bias)) V;    x <- x + drop(W_o drop(relu(W_i norm(x))))

Its products are layers, so that surgery reaches them; the projections to queries, keys and values are one layer.

Source: Raffel et al., "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer" (JMLR 2020),
section 2.1, in the form of its published checkpoints.
"""

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from assay.nn.product import Product


class T5Attention(nn.Module):
    """Attention of `heads` heads of `head_width` each, that adds a bias given by position."""

    def __init__(self, width: int, heads: int, head_width: int, dropout: float) -> None:
        super().__init__()
        inner, self.heads = heads * head_width, heads
        self.qkv = nn.Linear(width, 3 * inner, bias=False)
        self.o = nn.Linear(inner, width, bias=False)
        self.scores, self.context, self.dropout = Product(), Product(), nn.Dropout(dropout)

    def forward(
        self, x: Float[Tensor, "batch time width"], bias: Float[Tensor, "#batch #heads time time"] | None = None
    ) -> Float[Tensor, "batch time width"]:
        q, k, v = rearrange(self.qkv(x), "b t (three h d) -> three b h t d", three=3, h=self.heads)
        scores = self.scores(q, k.mT)
        weights = (scores if bias is None else scores + bias).softmax(-1)
        mixed: Tensor = self.o(rearrange(self.context(self.dropout(weights), v), "b h t d -> b t (h d)"))
        return mixed


class T5Block(nn.Module):
    """One layer of the encoder, by default of T5-base.

    Args:
        width: of the residual stream.
        heads: of the attention, each `head_width` wide.
        hidden: units of the feed-forward network.
        dropout: at all four places.
    """

    def __init__(
        self, width: int = 768, heads: int = 12, head_width: int = 64, hidden: int = 3072, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.RMSNorm(width, eps=1e-6), nn.RMSNorm(width, eps=1e-6)
        self.attention = T5Attention(width, heads, head_width, dropout)
        self.wi, self.wo = nn.Linear(width, hidden, bias=False), nn.Linear(hidden, width, bias=False)
        self.relu, self.dropout1, self.dropout2 = nn.ReLU(), nn.Dropout(dropout), nn.Dropout(dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Float[Tensor, "batch time width"], bias: Float[Tensor, "#batch #heads time time"] | None = None
    ) -> Float[Tensor, "batch time width"]:
        x = x + self.dropout(self.attention(self.norm1(x), bias))
        hidden = self.dropout1(self.relu(self.wi(self.norm2(x))))
        out: Tensor = x + self.dropout2(self.wo(hidden))
        return out
