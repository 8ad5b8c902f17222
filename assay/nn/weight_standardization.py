"""Weight standardisation: every filter has mean 0 and variance 1 over its inputs, anew in each forward pass.

    W^_o = (W_o - mu_o) / sqrt(var_o + eps),        mu_o, var_o over the n = (I / groups) kh kw weights of filter o

Gradients reach W through both statistics, so the gradient of a filter sums to 0 and is orthogonal to it, up to eps.
What the layer computes does not depend on the scale of W: it is meant for layers that a normalisation follows.

Source: Qiao, Wang, Liu, Shen, Yuille, "Micro-Batch Training with Batch-Channel Normalization and Weight
Standardization" (2019), section 3. The paper's variance is biased; both of the authors' programs take the unbiased one,
with eps inside the root in one of them and added to the deviation in the other.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from assay.nn.surgery import Selection, replace


def weight_standardize(
    weight: Float[Tensor, "filters *inputs"],
    *,
    eps: float = 1e-5,
    eps_inside_sqrt: bool = True,
    unbiased: bool = False,
) -> Float[Tensor, "filters *inputs"]:
    """Standardise each filter; differentiable, twice too.

    A constant filter becomes 0, with a finite gradient.

    Args:
        weight: of a linear layer or a convolution (not a transposed one); any floating type, statistics are taken in
            float32 at least.
        eps: positive.
        eps_inside_sqrt: divide by sqrt(var + eps); otherwise by sqrt(var) + eps.
        unbiased: divide the sum of squares by n - 1 instead of n.

    Raises:
        ValueError: a filter has fewer than two weights, which standardised would always be 0, or eps is not positive.

    Source: Qiao et al. 2019, section 3.
    """
    n = weight.numel() // max(len(weight), 1)
    _check(n, eps)
    if eps_inside_sqrt:
        # layer normalisation of the filters: one kernel forward and one backward, where separate steps take a dozen
        if not unbiased:
            return F.layer_norm(weight, weight.shape[1:], eps=eps)
        share = (n - 1) / n  # V / sqrt(var / share + eps) = sqrt(share) V / sqrt(var + share eps)
        scale = weight.new_full(weight.shape[1:], math.sqrt(share))
        return F.layer_norm(weight, weight.shape[1:], scale, eps=share * eps)
    wide = weight.to(torch.promote_types(weight.dtype, torch.float32))
    deviation, mean = torch.std_mean(wide, tuple(range(1, weight.ndim)), correction=int(unbiased), keepdim=True)
    return ((wide - mean) / (deviation + eps)).to(weight.dtype)


def _check(n: int, eps: float) -> None:
    if n < 2:
        raise ValueError(f"a filter must have at least two weights to be standardised, got {n}")
    if not eps > 0:
        raise ValueError(f"eps must be positive, got {eps}")


class _Standardized(nn.Module):
    """What the layers share; in front of torch's layer among the bases."""

    weight: Tensor

    def __init__(
        self, *args: Any, eps: float = 1e-5, eps_inside_sqrt: bool = True, unbiased: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)  # torch's layer, which refuses what it does not know
        self.eps, self.eps_inside_sqrt, self.unbiased = eps, eps_inside_sqrt, unbiased
        _check(self.weight[0].numel(), eps)

    @property
    def settings(self) -> dict[str, Any]:
        """The options of `weight_standardize` in force."""
        return {"eps": self.eps, "eps_inside_sqrt": self.eps_inside_sqrt, "unbiased": self.unbiased}

    def standardized_weight(self) -> Tensor:
        """W^, what the layer computes with."""
        return weight_standardize(self.weight, **self.settings)

    def extra_repr(self) -> str:
        said = ", ".join(f"{name}={value}" for name, value in self.settings.items())
        return f"{super().extra_repr()}, {said}"


class WeightStandardizedConv1d(_Standardized, nn.Conv1d):
    """`nn.Conv1d` with standardised filters; see `WeightStandardizedConv2d`."""

    def forward(self, input: Tensor) -> Tensor:
        y: Tensor = self._conv_forward(input, self.standardized_weight(), self.bias)
        return y


class WeightStandardizedConv2d(_Standardized, nn.Conv2d):
    """`nn.Conv2d` with standardised filters, in training and evaluation alike.

    Parameters, their initialisation and the state dict are those of torch's layer, so checkpoints go both ways; the
    bias is left as it is. There is no gain: the normalisation that follows has one.

    Args:
        args, kwargs: as `nn.Conv2d` takes them.
        eps, eps_inside_sqrt, unbiased: see `weight_standardize`. The authors' programs: `unbiased=True`, in one of them
            with `eps_inside_sqrt=False`.

    Raises:
        ValueError: a filter has a single weight, or eps is not positive.

    Source: Qiao et al. 2019, section 3.
    """

    def forward(self, input: Tensor) -> Tensor:
        y: Tensor = self._conv_forward(input, self.standardized_weight(), self.bias)
        return y


class WeightStandardizedConv3d(_Standardized, nn.Conv3d):
    """`nn.Conv3d` with standardised filters; see `WeightStandardizedConv2d`."""

    def forward(self, input: Tensor) -> Tensor:
        y: Tensor = self._conv_forward(input, self.standardized_weight(), self.bias)
        return y


class WeightStandardizedLinear(_Standardized, nn.Linear):
    """`nn.Linear` whose rows are standardised; see `WeightStandardizedConv2d`."""

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.standardized_weight(), self.bias)


_STANDARDIZED: dict[type[nn.Module], type[_Standardized]] = {
    nn.Conv1d: WeightStandardizedConv1d,
    nn.Conv2d: WeightStandardizedConv2d,
    nn.Conv3d: WeightStandardizedConv3d,
    nn.Linear: WeightStandardizedLinear,
}
_PLAIN: dict[type[nn.Module], type[nn.Module]] = {ours: plain for plain, ours in _STANDARDIZED.items()}
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def to_weight_standardized(
    model: nn.Module,
    *,
    eps: float = 1e-5,
    eps_inside_sqrt: bool = True,
    unbiased: bool = False,
    include: Selection | None = None,
    exclude: Selection | None = None,
) -> nn.Module:
    """Standardise the weights of a model's convolutions, in place.

    Parameters, state dict, hooks and mode stay, so an optimizer made before remains valid, and checkpoints of the plain
    model load and the other way round. Doing it again changes the settings, and nothing where they are the same.

    Args:
        model: the network; where it is itself a layer to treat, use what is returned.
        eps: see `weight_standardize`; so are `eps_inside_sqrt` and `unbiased`.
        include: which layers, as in `assay.nn.surgery.replace`: every convolution and every linear layer in it,
            whatever follows. By default every convolution after which, in the order of registration, a normalisation
            layer comes, so that a convolution that gives the outputs stays plain; no linear layer.
        exclude: which not.

    Returns:
        the model.

    Raises:
        ValueError: there is nothing to treat, or a layer cannot be: its filters have a single weight, or its class is
            one of its own.
    """
    settings = {"eps": eps, "eps_inside_sqrt": eps_inside_sqrt, "unbiased": unbiased}
    chosen = set(model.modules()) if include is not None else _convolutions_before_a_norm(model)
    found = 0

    def rule(name: str, layer: nn.Module) -> nn.Module | None:
        nonlocal found
        if layer not in chosen or not isinstance(layer, (*_CONVOLUTIONS, nn.Linear)):
            return None
        found += 1
        kind = _STANDARDIZED.get(_PLAIN.get(type(layer), type(layer)))
        if kind is None:
            wants = ", ".join(plain.__name__ for plain in _STANDARDIZED)
            raise ValueError(f"layer {name!r} is a {type(layer).__name__}, want one of {wants}; exclude it")
        if isinstance(layer, _Standardized) and layer.settings == settings:
            return None
        try:
            return _hand_over(layer, kind, **settings)
        except ValueError as error:
            raise ValueError(f"layer {name!r}: {error}; exclude it") from None

    surgery = replace(model, rule, include=include, exclude=exclude)
    if not found:
        raise ValueError(
            f"model must hold a convolution before a normalisation layer, got {type(model).__name__} without one; "
            "name layers in include"
        )
    return surgery.model


def fold_weight_standardization(model: nn.Module) -> nn.Module:
    """Make every standardised layer of a model torch's own again, with W^ as its weight, in place: for inference.

    The outputs stay what they are, and standardising costs nothing any more. The weights are new parameters: there is
    no way back to the raw ones, and optimizers do not know them.

    Args:
        model: the network; where it is itself a standardised layer, use what is returned.

    Returns:
        the model.

    Raises:
        ValueError: a weight is shared between layers, which cannot be folded one by one.
    """

    def rule(name: str, layer: nn.Module) -> nn.Module | None:
        if not isinstance(layer, _Standardized) or type(layer) not in _PLAIN:
            return None
        plain = _hand_over(layer, _PLAIN[type(layer)])
        plain.weight = nn.Parameter(layer.standardized_weight().detach(), layer.weight.requires_grad)
        return plain

    return replace(model, rule).model


def _convolutions_before_a_norm(model: nn.Module) -> set[nn.Module]:
    """Each convolution after which, in the order of registration, a layer comes that has `Norm` in its class's name."""
    layers = list(model.modules())
    norms = [i for i, layer in enumerate(layers) if any("Norm" in kind.__name__ for kind in type(layer).__mro__)]
    return {layer for layer in layers[: max(norms, default=0)] if isinstance(layer, _CONVOLUTIONS)}


def _hand_over(source: nn.Module, kind: type[nn.Module], **settings: Any) -> nn.Module:
    """A layer of `kind` with the shape and the own parameters of `source`."""
    convolution = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups")
    names = (*convolution, "padding_mode") if isinstance(source, _CONVOLUTIONS) else ("in_features", "out_features")
    shape = {name: getattr(source, name) for name in names}
    target = kind(**shape, bias=source.bias is not None, device="meta", **settings)
    for name, parameter in source._parameters.items():
        target.register_parameter(name, parameter)
    return target
