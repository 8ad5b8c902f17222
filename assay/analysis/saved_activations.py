"""What a forward pass keeps in memory for the backward pass."""

from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from assay.nn.surgery import replace


class SavedActivations:
    """Counts the bytes that autograd keeps for backward, parameters and buffers aside.

        with SavedActivations(model) as saved:
            loss = model(x).mean()
        saved.bytes

    Memory that several operations keep counts once, and a view counts as all of the memory that it keeps alive. The
    graph must live until the count is read.

    Args:
        model: whose parameters and buffers are no activations; copies of them that autocast makes are.
    """

    def __init__(self, model: nn.Module) -> None:
        self._own = {_place(t) for t in [*model.parameters(), *model.buffers()]}
        self._sizes: dict[int, int] = {}
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._keep, lambda tensor: tensor)

    @property
    def bytes(self) -> int:
        """Counted so far."""
        return sum(self._sizes.values())

    def _keep(self, tensor: Tensor) -> Tensor:
        place = _place(tensor)
        if place not in self._own:
            self._sizes[place] = tensor.untyped_storage().nbytes()
        return tensor

    def __enter__(self) -> "SavedActivations":
        self._hooks.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hooks.__exit__(kind, error, trace)


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def like_cuda(model: nn.Module) -> nn.Module:
    """Let a model on the CPU keep what it would keep on a GPU, in place, so that it can be counted there.

    On the CPU torch's dropout keeps a number where its CUDA kernel keeps a byte, and `nn.RMSNorm` what it has
    normalised beside its input, which is all that the CUDA kernel keeps. What is computed stays the same.

    Args:
        model: the network; where it is itself such a layer, use what is returned.

    Returns:
        the model.
    """

    def rule(name: str, layer: nn.Module) -> nn.Module | None:
        if type(layer) is nn.Dropout and layer.p < 1:
            return _ByteDropout(layer.p)
        if type(layer) is nn.RMSNorm and layer.elementwise_affine and len(layer.normalized_shape) == 1:
            norm = _RMSNorm(layer.normalized_shape, layer.eps, device="meta")
            norm.weight = layer.weight
            return norm
        return None

    return replace(model, rule).model


class _ByteDropout(nn.Dropout):
    def forward(self, input: Tensor) -> Tensor:
        y: Tensor = torch.native_dropout(input, self.p, self.training)[0]
        return y


class _RMSNorm(nn.RMSNorm):
    def forward(self, x: Tensor) -> Tensor:
        eps = torch.finfo(x.dtype).eps if self.eps is None else self.eps
        y: Tensor = _Normalise.apply(x, self.weight, eps)  # type: ignore[no-untyped-call]
        return y


class _Normalise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        scale = (x.square().mean(-1, keepdim=True) + eps).rsqrt()
        ctx.save_for_backward(x, scale, weight)
        return x * scale * weight

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, None]:
        x, scale, weight = ctx.saved_tensors
        normal, wide = x * scale, g * weight
        dx = scale * (wide - normal * (wide * normal).mean(-1, keepdim=True))
        return dx, (g * normal).flatten(0, -2).sum(0), None
