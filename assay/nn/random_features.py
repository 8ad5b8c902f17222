"""Starts of networks whose convolutions and linear layers stay as they are drawn.

    kaiming: std = sqrt(2 / fan_in), normal or uniform;    binary: +-sqrt(2 / fan_in);    orthogonal, times sqrt(2)

Source: He et al., "Delving deep into rectifiers" (2015), eq. 10; the choices are those of Frankle, Schwab, Morcos,
"Training BatchNorm and Only BatchNorm" (ICLR 2021).
"""

from typing import Literal

import torch
from torch import Tensor, nn

WeightInit = Literal["kaiming_normal", "kaiming_uniform", "orthogonal", "binary"]
INITS = ("kaiming_normal", "kaiming_uniform", "orthogonal", "binary")


@torch.no_grad()
def init_weights_(
    model: nn.Module, scheme: WeightInit = "kaiming_normal", *, generator: torch.Generator | None = None
) -> None:
    """Draw the weights of all convolutions and linear layers anew; biases are left as torch drew them.

    Args:
        model: changed in place.
        scheme: `kaiming_normal`, `kaiming_uniform`, `orthogonal` or `binary`, for layers before a ReLU.
        generator: of the draws, on the CPU; torch's default one without it.

    Raises:
        ValueError: the scheme is unknown, or the model has no such layer.
    """
    if scheme not in INITS:
        raise ValueError(f"scheme must be one of {', '.join(INITS)}, got {scheme!r}")
    layers = [m for m in model.modules() if isinstance(m, nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear)]
    if not layers:
        raise ValueError("model must hold a convolution or a linear layer, got none")
    for layer in layers:
        # drawn on the CPU, so that equal seeds start alike on every device
        layer.weight.copy_(_draw(torch.empty(layer.weight.shape), scheme, generator))


def _draw(weight: Tensor, scheme: WeightInit, generator: torch.Generator | None) -> Tensor:
    if scheme == "orthogonal":
        return nn.init.orthogonal_(weight, gain=2**0.5, generator=generator)
    if scheme == "kaiming_uniform":
        return nn.init.kaiming_uniform_(weight, generator=generator)
    nn.init.kaiming_normal_(weight, generator=generator)
    # the deviation it is drawn from, so that all weights of a layer have one size whatever was drawn
    return weight if scheme == "kaiming_normal" else weight.sign() * (2 / weight[0].numel()) ** 0.5
