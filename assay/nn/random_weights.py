"""As many trained weights as batch norm has parameters, at random places: the control of training BatchNorm alone.

    w = w_0 but for k entries of each output channel, which are trained

The trained entries are parameters of their own, put into the frozen tensor at every forward pass. So an optimizer never
holds the rest, and neither momentum nor weight decay can move it.

Source: Frankle, Schwab, Morcos, "Training BatchNorm and Only BatchNorm" (ICLR 2021), section 4: k = 2, as gamma and
beta. The control is not in the authors' public code.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize


class RandomWeights(nn.Module):
    """`start` with `values` at the places `index`; a parametrization of one weight.

    Args:
        weight: as it starts, [outputs, ...].
        per_channel: trained entries of each output channel.
        generator: of the places, on the CPU; torch's default one without it.

    Attributes:
        values: the trained entries, [outputs, per_channel].
        index: their places in the flattened channel, ascending, int64 [outputs, per_channel].
    """

    index: Tensor

    def __init__(self, weight: Tensor, per_channel: int, generator: torch.Generator | None = None) -> None:
        super().__init__()
        flat = weight.detach().flatten(1)
        places = torch.rand(flat.shape, generator=generator).argsort(dim=1)[:, :per_channel].sort(dim=1).values
        self.register_buffer("index", places.to(weight.device))
        self.values = nn.Parameter(flat.gather(1, self.index))

    def forward(self, start: Float[Tensor, "outputs *rest"]) -> Float[Tensor, "outputs *rest"]:
        return start.flatten(1).scatter(1, self.index, self.values).view(start.shape)


def add_random_weights(model: nn.Module, per_channel: int = 2, *, generator: torch.Generator | None = None) -> None:
    """Make random entries of every convolution's weight parameters of their own.

    What is trained is then for `trainable_only(model, "random")` to say. The state dict gets `parametrizations` keys;
    `merge_random_weights` gives the plain layers back.

    Args:
        model: changed in place; all convolutions in it are treated.
        per_channel: entries of each output channel; 2 gives as many as the batch norm after it has parameters.
        generator: of the places, on the CPU; torch's default one without it.

    Raises:
        ValueError: there is no convolution, one is treated already or has too few weights a channel, or `per_channel`
            is not positive.
    """
    if per_channel < 1:
        raise ValueError(f"per_channel must be positive, got {per_channel}")
    layers = {n: m for n, m in model.named_modules() if isinstance(m, nn.Conv1d | nn.Conv2d | nn.Conv3d)}
    if not layers:
        raise ValueError("model must hold a convolution, got none")
    for name, layer in layers.items():
        if layer.weight[0].numel() < per_channel:
            has = layer.weight[0].numel()
            raise ValueError(f"per_channel must be at most {has}, the weights a channel of {name!r}, got {per_channel}")
        if _is_treated(layer):
            raise ValueError(f"layer {name!r} has random weights already: merge them first")
    for layer in layers.values():
        parametrize.register_parametrization(layer, "weight", RandomWeights(layer.weight, per_channel, generator))


def merge_random_weights(model: nn.Module) -> None:
    """Put the trained entries into the weights and make the layers plain again; without any, nothing happens.

    Raises:
        ValueError: a treated weight has other parametrizations besides.
    """
    treated = {name: layer for name, layer in model.named_modules() if _is_treated(layer)}
    for name, layer in treated.items():
        if len(layer.parametrizations.weight) > 1:
            raise ValueError(f"layer {name!r} has other parametrizations of its weight: remove them first")
    for layer in treated.values():
        parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)


def _is_treated(layer: nn.Module) -> bool:
    if not parametrize.is_parametrized(layer, "weight"):
        return False
    return any(isinstance(p, RandomWeights) for p in layer.parametrizations.weight)  # type: ignore[union-attr]
