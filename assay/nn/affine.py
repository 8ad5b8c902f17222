"""The affine parameters of normalisation layers, where a network has them, and how they start.

    y = gamma * (x - mean) / sqrt(var + eps) + beta

Source: Frankle, Schwab, Morcos, "Training BatchNorm and Only BatchNorm" (ICLR 2021), section 3 and appendix on
initialisation.
"""

from typing import Literal

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from assay.optim.roles import Role, parameter_roles

Norms = Literal["batchnorm", "norm"]
BatchNormInit = Literal["uniform", "fixed", "oneone", "positivenegative"]

_STARTS = {"uniform": (0, 1, 0), "fixed": (1, 1, 0), "oneone": (1, 1, 1), "positivenegative": (-1, 1, 0)}


def affine_parameters(model: nn.Module, norms: Norms = "batchnorm") -> dict[str, nn.Parameter]:
    """Scales (`weight`) and shifts (`bias`) of the normalisation layers, by name, in the order of the model's layers.

    A batch norm is any class with `BatchNorm` in its name or that of a base: of one to three dimensions, synchronised,
    over ghost batches. Layers with `affine=False` have nothing to train and are left out.

    Args:
        model: the network.
        norms: `batchnorm` for these alone, `norm` for layer, group and all other normalisation too.

    Raises:
        ValueError: a batch norm has its scale as a buffer (a frozen one), or has not seen a batch yet (a lazy one).
    """
    for name, layer in model.named_modules():
        if _is_batch_norm(layer) and layer._buffers.get("weight") is not None:
            kind = type(layer).__name__
            raise ValueError(f"layer {name!r} is a {kind}, whose scale is a buffer: replace it by one with parameters")
        if any(is_lazy(p) for p in layer.parameters(recurse=False)):
            raise ValueError(f"layer {name!r} is a {type(layer).__name__} without a shape yet: run a batch through it")
    roles = parameter_roles(model)
    found: dict[str, nn.Parameter] = {}
    for path, layer in model.named_modules():
        start = f"{path}." if path else ""
        if roles.get(f"{start}weight") is Role.NORM and (norms == "norm" or _is_batch_norm(layer)):
            found |= {f"{start}{name}": p for name, p in layer.named_parameters(recurse=False)}
    return found


def scales(model: nn.Module, norms: Norms = "batchnorm") -> dict[str, nn.Parameter]:
    """The gammas by the name of their layer; arguments and errors of `affine_parameters`."""
    found = affine_parameters(model, norms).items()
    return {name.removesuffix("weight").rstrip("."): p for name, p in found if name.split(".")[-1] == "weight"}


def _is_batch_norm(layer: nn.Module) -> bool:
    return any("BatchNorm" in kind.__name__ for kind in type(layer).__mro__)


@torch.no_grad()
def init_batchnorm_(
    model: nn.Module, scheme: BatchNormInit = "uniform", *, generator: torch.Generator | None = None
) -> None:
    """Start every batch norm anew; running statistics are left as they are.

    Args:
        model: changed in place.
        scheme: `uniform`, gamma ~ U[0, 1] and beta = 0; `fixed`, gamma = 1 and beta = 0; `oneone`, both 1;
            `positivenegative`, gamma ~ U[-1, 1] and beta = 0.
        generator: of the draws, on the CPU; torch's default one without it.

    Raises:
        ValueError: the scheme is unknown, or the model has no batch norm with affine parameters.
    """
    if scheme not in _STARTS:
        raise ValueError(f"scheme must be one of {', '.join(_STARTS)}, got {scheme!r}")
    low, high, shift = _STARTS[scheme]
    parameters = affine_parameters(model)
    if not parameters:
        raise ValueError("model must hold a BatchNorm layer with affine parameters, got none")
    for name, parameter in parameters.items():
        if name.split(".")[-1] == "weight":
            # drawn on the CPU, so that equal seeds start alike on every device
            parameter.copy_(low + (high - low) * torch.rand(parameter.shape, generator=generator))
        else:
            parameter.fill_(shift)
