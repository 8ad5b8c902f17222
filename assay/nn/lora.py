"""Low-rank adaptation: a frozen weight and a trained correction of low rank.

    W x + b  ->  W x + b + (alpha / r) B A x        A [r, in], B [out, r], B = 0 at the start

Source: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models" (2022), section 4.1.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import linear

from assay.nn.surgery import Selection, Surgery, replace


class LoRALinear(nn.Module):
    """A linear layer whose weight is frozen and whose correction of rank `r` is trained; a bias is trained as before.

    Args:
        layer: whose weight and bias it takes over; it changes nothing at the start.
        rank: r, at least 1.
        alpha: the correction is scaled by `alpha / rank`; `rank` by default.

    Raises:
        ValueError: `rank` or `alpha` is not positive.
    """

    def __init__(self, layer: nn.Linear, rank: int, alpha: float | None = None) -> None:
        super().__init__()
        if rank < 1:
            raise ValueError(f"rank must be at least 1, got {rank}")
        if alpha is not None and not alpha > 0:
            raise ValueError(f"alpha must be positive, got {alpha}")
        self.weight, self.bias = layer.weight.requires_grad_(False), layer.bias
        self.down = nn.Parameter(torch.empty(rank, layer.in_features))
        self.up = nn.Parameter(torch.zeros(layer.out_features, rank))
        self.scale = 1.0 if alpha is None else alpha / rank
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, x: Float[Tensor, "*batch in"]) -> Float[Tensor, "*batch out"]:
        return linear(x, self.weight, self.bias) + self.scale * linear(linear(x, self.down), self.up)


def to_lora(
    model: nn.Module,
    rank: int = 8,
    alpha: float | None = None,
    *,
    include: Selection | None = None,
    exclude: Selection | None = None,
) -> Surgery:
    """Give the linear layers of a model a correction of low rank in place of their own training.

    Args:
        model: changed in place; before the optimizer is made. Weights of linear layers are frozen, and stay so after an
            undo; whatever else is trained is trained as before.
        rank: of every correction.
        alpha: its scale times the rank; `rank` by default.
        include: which layers, as in `assay.nn.surgery.replace`; all linear ones by default.
        exclude: which not.

    Returns:
        the surgery done.

    Raises:
        ValueError: as `LoRALinear`, or as `assay.nn.surgery.replace`.
    """

    def rule(name: str, layer: nn.Module) -> nn.Module | None:
        return LoRALinear(layer, rank, alpha) if type(layer) is nn.Linear else None

    return replace(model, rule, include=include, exclude=exclude)
