"""ReLU and dropout that keep one bit a number for backward, without any loss.

    y = s m x,    dy/dx = s m            ReLU: m = [x > 0], s = 1;   dropout: P(m = 1) = 1 - p, s = 1 / (1 - p)

Torch's ReLU keeps its output, and its dropout a byte a number, on the CPU a number. Beside layers that keep all of
their inputs that is little; where these are sampled (`assay.nn.wta_crs`) it is most of what is left.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from assay.nn.surgery import Selection, replace


def pack(mask: Bool[Tensor, "*shape"]) -> UInt8[Tensor, " bytes"]:
    """Eight to a byte; bit i of byte j is number i * bytes + j of the flattened mask, which vectorises."""
    flat = mask.flatten()
    eighths = F.pad(flat, (0, -len(flat) % 8)).view(8, -1).to(torch.uint8)
    packed = eighths[0].clone()
    for bit in range(1, 8):
        packed |= eighths[bit] << bit
    return packed


def unpack(packed: UInt8[Tensor, " bytes"], shape: torch.Size) -> Bool[Tensor, "*shape"]:
    """The mask that `pack` was given."""
    bits = torch.arange(8, dtype=torch.uint8, device=packed.device)
    return ((packed >> bits[:, None]) & 1).flatten()[: shape.numel()].view(shape).bool()


class _Masked(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, mask: Tensor, scale: float) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.save_for_backward(pack(mask))
        ctx.scale = scale
        return torch.where(mask, x * scale, 0.0)

    @staticmethod
    @once_differentiable
    def backward(ctx, g: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[no-untyped-def]
        (packed,) = ctx.saved_tensors
        return torch.where(unpack(packed, g.shape), g * ctx.scale, 0.0), None, None


class PackedReLU(nn.Module):
    """`nn.ReLU` that keeps one bit a number; its gradient cannot be differentiated."""

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        if not (torch.is_grad_enabled() and x.requires_grad):
            return x.relu()
        above = ~(x <= 0)  # NaN stays NaN
        y: Tensor = _Masked.apply(x, above, 1.0)  # type: ignore[no-untyped-call]
        return y


class PackedDropout(nn.Module):
    """`nn.Dropout` that keeps one bit a number; its gradient cannot be differentiated.

    Args:
        p: share of the numbers that become 0, in [0, 1).

    Raises:
        ValueError: p is out of its range.
    """

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"p must lie in [0, 1), got {p:g}")
        self.p = p

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        if not self.training or self.p == 0 or not (torch.is_grad_enabled() and x.requires_grad):
            return F.dropout(x, self.p, self.training)
        mask = torch.empty_like(x, dtype=torch.bool).bernoulli_(1 - self.p)
        y: Tensor = _Masked.apply(x, mask, 1 / (1 - self.p))  # type: ignore[no-untyped-call]
        return y

    def extra_repr(self) -> str:
        return f"p={self.p}"


def to_packed_masks(
    model: nn.Module, *, include: Selection | None = None, exclude: Selection | None = None
) -> nn.Module:
    """Put `PackedReLU` and `PackedDropout` in the place of every `nn.ReLU` and `nn.Dropout` of a model, in place.

    What such a layer computed in place is computed in a tensor of its own from then on.

    Args:
        model: the network; where it is itself such a layer, use what is returned.
        include: which layers, as in `assay.nn.surgery.replace`; all by default.
        exclude: which not.

    Returns:
        the model.
    """

    def rule(name: str, layer: nn.Module) -> nn.Module | None:
        if type(layer) is nn.ReLU:
            return PackedReLU()
        return PackedDropout(layer.p) if type(layer) is nn.Dropout and layer.p < 1 else None

    return replace(model, rule, include=include, exclude=exclude).model
