"""Layer normalisation: the summed inputs of a layer, normalised over its neurons, for each example alone.

    y = gain (x - mu) / sqrt(var + eps) + bias,        mu, var over the last axis, var divided by its length

Nothing depends on the batch, and training and evaluation compute the same.

Source: Ba, Kiros, Hinton, "Layer Normalization" (2016), section 3. The formulas there have no eps; 1e-5 beside the
variance is the authors' Theano code, and torch's own layer is the same function. Their Lua code adds it to the
deviation instead: `eps_on="deviation"`.
"""

import math
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

EpsOn = Literal["variance", "deviation"]


def layer_norm(
    x: Float[Tensor, "*batch features"],
    gain: Float[Tensor, " features"] | None = None,
    bias: Float[Tensor, " features"] | None = None,
    eps: float = 1e-5,
    *,
    eps_on: EpsOn = "variance",
) -> Float[Tensor, "*batch features"]:
    """Normalise over the last axis.

    A constant vector gives the bias, and so does any vector of a single feature.

    Args:
        x: summed inputs, of any floating type; statistics are taken in float32 at least.
        gain: 1 where there is none.
        bias: 0 where there is none.
        eps: keeps the denominator from zero.
        eps_on: `"variance"`, sqrt(var + eps), or `"deviation"`, sqrt(var) + eps.

    Source: Ba et al. 2016, eq. 3 and 4.
    """
    if eps_on == "variance":
        return F.layer_norm(x, x.shape[-1:], gain, bias, eps)
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    centred = wide - wide.mean(-1, keepdim=True)
    # a norm, since its gradient is 0 where the root's is infinite: at a constant vector
    deviation: Tensor = torch.linalg.vector_norm(centred, dim=-1, keepdim=True) / math.sqrt(x.shape[-1])
    y = centred / (deviation + eps)
    y = y if gain is None else y * gain
    return (y if bias is None else y + bias).to(x.dtype)


class LayerNorm(nn.LayerNorm):
    """`nn.LayerNorm` over the last axis, with the choice of where eps goes; its state dict is that of torch's layer.

    Args:
        normalized_shape: features.
        eps: keeps the denominator from zero.
        elementwise_affine: learn gain (`weight`, 1 at first) and bias (0 at first).
        bias: with a bias.
        eps_on: as in `layer_norm`.

    Raises:
        ValueError: `normalized_shape` is not positive, or `eps_on` is unknown.

    Source: Ba et al. 2016, eq. 3 and 4.
    """

    def __init__(
        self,
        normalized_shape: int,
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        *,
        eps_on: EpsOn = "variance",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if normalized_shape < 1:
            raise ValueError(f"normalized_shape must be positive, got {normalized_shape}")
        if eps_on not in get_args(EpsOn):
            raise ValueError(f"eps_on must be one of {', '.join(get_args(EpsOn))}, got {eps_on!r}")
        super().__init__(normalized_shape, eps, elementwise_affine, bias, device=device, dtype=dtype)
        self.eps_on = eps_on

    def forward(self, input: Tensor) -> Tensor:
        if input.shape[-1:] != self.normalized_shape:
            raise ValueError(f"input must have {self.normalized_shape[0]} features last, got {list(input.shape)}")
        return layer_norm(input, self.weight, self.bias, self.eps, eps_on=self.eps_on)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, eps_on={self.eps_on!r}"
