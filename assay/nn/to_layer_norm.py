"""Layer normalisation put into a network that has none: surgery, by the paper's rule for each kind of network."""

from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from assay.nn.layer_norm import LayerNorm
from assay.nn.layer_norm_rnn import (
    LayerNormGRU,
    LayerNormGRUCell,
    LayerNormLSTM,
    LayerNormLSTMCell,
    LayerNormRNN,
    LayerNormRNNCell,
    Reference,
)
from assay.nn.surgery import Selection, replace

_PLAIN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_LAYERS: dict[type, Any] = {nn.RNN: LayerNormRNN, nn.LSTM: LayerNormLSTM, nn.GRU: LayerNormGRU}
_CELLS: dict[type, Any] = {
    nn.RNNCell: LayerNormRNNCell, nn.LSTMCell: LayerNormLSTMCell, nn.GRUCell: LayerNormGRUCell,
}  # fmt: skip


def to_layer_norm_rnn(
    model: nn.Module,
    *,
    reference: Reference = "paper",
    include: Selection | None = None,
    exclude: Selection | None = None,
) -> nn.Module:
    """Put layer-normalised ones in the place of every `nn.RNN`, `nn.LSTM`, `nn.GRU` and their cells, in place.

    The matrices are handed over, gates being in the same order. Of torch's two biases only the sum counts: it becomes
    the bias that the new layer adds at that place, so that an LSTM's forget gates start as open as they were. Gains
    are new, and an optimizer made before does not know them.

    Args:
        model: the network; where it is itself such a layer, use what is returned.
        reference: as in `LayerNormLSTMCell`; of a GRU `"paper"` or `"theano"`.
        include: which layers, as in `assay.nn.surgery.replace`.
        exclude: which not.

    Returns:
        the model.

    Raises:
        ValueError: there is no such layer, one has projections or is of a class of its own, or its kind has no such
            reference.

    Source: Ba et al. 2016, section 3.1.
    """
    found = 0

    def rule(name: str, layer: nn.Module) -> nn.Module | None:
        nonlocal found
        if not isinstance(layer, nn.RNNBase | nn.RNNCellBase):
            return None
        found += 1
        if type(layer) not in _LAYERS and type(layer) not in _CELLS:
            raise ValueError(f"layer {name!r} is a {type(layer).__name__}, want torch's RNN, LSTM or GRU; exclude it")
        if isinstance(layer, nn.RNNBase) and layer.proj_size:
            raise ValueError(f"layer {name!r} must have no projections, got proj_size={layer.proj_size}; exclude it")
        return _normalised(layer, reference)

    surgery = replace(model, rule, include=include, exclude=exclude)
    if not found:
        raise ValueError(f"model must hold a recurrent layer, got {type(model).__name__} without one")
    return surgery.model


def _normalised(layer: Any, reference: Reference) -> nn.Module:
    settings: dict[str, Any] = {"bias": layer.bias}
    if isinstance(layer, nn.RNN | nn.RNNCell):
        if reference != "paper":
            raise ValueError(f"reference must be paper for an RNN, got {reference!r}")
        settings["nonlinearity"] = layer.nonlinearity
    elif reference == "lua" and isinstance(layer, nn.GRU | nn.GRUCell):
        raise ValueError(f"reference must be paper or theano for a GRU, got {reference!r}")
    else:
        settings["reference"] = reference
    if isinstance(layer, nn.RNNCellBase):
        cell: nn.Module = _CELLS[type(layer)](layer.input_size, layer.hidden_size, **settings)
        _carry(layer, "", cell)
        return cell
    for name in ("num_layers", "batch_first", "dropout", "bidirectional"):
        settings[name] = getattr(layer, name)
    new: nn.Module = _LAYERS[type(layer)](layer.input_size, layer.hidden_size, **settings)
    for index, cell in enumerate(new.cells):  # type: ignore[arg-type]
        number, backward = divmod(index, 2) if layer.bidirectional else (index, 0)
        _carry(layer, f"_l{number}" + "_reverse" * backward, cell)
    return new


@torch.no_grad()
def _carry(layer: Any, suffix: str, cell: Any) -> None:
    cell.weight_ih, cell.weight_hh = getattr(layer, f"weight_ih{suffix}"), getattr(layer, f"weight_hh{suffix}")
    if not layer.bias:
        return
    first, second = getattr(layer, f"bias_ih{suffix}"), getattr(layer, f"bias_hh{suffix}")
    both, d, kind = first + second, cell.hidden_size, type(cell)
    if kind is LayerNormLSTMCell:
        cell.bias.copy_(both)
    elif kind is LayerNormRNNCell:
        cell.norm.bias.copy_(both)
    else:
        cell.norm_ih.bias.copy_(both[: 2 * d])
        cell.norm_in.bias.copy_(first[2 * d :])
        cell.norm_hn.bias.copy_(second[2 * d :])


def batch_norm_to_layer_norm(
    model: nn.Module, *, include: Selection | None = None, exclude: Selection | None = None
) -> nn.Module:
    """Put a layer norm in the place of every `BatchNorm1d`, `2d` and `3d` of a model, which keeps its gain and bias.

    What comes is `nn.GroupNorm` of one group: over features, [N, C], it is layer norm to the bit of its definition;
    over maps, [N, C, H, W], the statistics are of all neurons of the layer and the gain is one a channel, as the
    convolution's weights are. Running statistics are dropped.

    Args:
        model: the network; where it is itself a BatchNorm, use what is returned.
        include: which layers, as in `assay.nn.surgery.replace`.
        exclude: which not.

    Returns:
        the model.

    Raises:
        ValueError: there is no BatchNorm to replace, or one of another class.

    Source: Ba et al. 2016, section 6.7 for convolutions, where they found it no match for batch norm.
    """
    found = 0

    def rule(name: str, layer: nn.Module) -> nn.Module | None:
        nonlocal found
        if not isinstance(layer, _BatchNorm):
            return None
        found += 1
        if type(layer) not in _PLAIN:
            raise ValueError(f"layer {name!r} is a {type(layer).__name__}, want BatchNorm1d, 2d or 3d; exclude it")
        new = nn.GroupNorm(1, layer.num_features, layer.eps, layer.affine, device="meta")
        new.weight, new.bias = layer.weight, layer.bias
        return new

    surgery = replace(model, rule, include=include, exclude=exclude)
    if not found:
        raise ValueError(f"model must hold a BatchNorm layer to replace, got {type(model).__name__} without one")
    return surgery.model


def add_layer_norm(
    model: nn.Module, *, include: Selection | None = None, exclude: Selection | None = None
) -> nn.Module:
    """Normalise the summed inputs of every hidden linear layer of a model before its non-linearity, in place.

    A hidden layer is an `nn.Linear` that an activation follows in an `nn.Sequential`; the output layer, which none
    follows, is left as it is. The layer's bias becomes the norm's: it is added after the normalisation.

    Args:
        model: the network.
        include: which layers, as in `assay.nn.surgery.replace`.
        exclude: which not.

    Returns:
        the model.

    Raises:
        ValueError: there is no such layer.

    Source: Ba et al. 2016, section 3 and 6.6.
    """
    hidden = {
        one
        for parent in model.modules()
        if isinstance(parent, nn.Sequential)
        for one, next_one in zip(parent, list(parent)[1:], strict=False)
        if type(one) is nn.Linear and type(next_one).__module__ == "torch.nn.modules.activation"
    }

    def rule(name: str, layer: nn.Module) -> nn.Module | None:
        if layer not in hidden or not isinstance(layer, nn.Linear):
            return None
        linear = nn.Linear(layer.in_features, layer.out_features, bias=False, device="meta")
        linear.weight = layer.weight
        norm = LayerNorm(layer.out_features)
        if layer.bias is not None:
            norm.bias = layer.bias
        return nn.Sequential(linear, norm)

    surgery = replace(model, rule, include=include, exclude=exclude)
    if not surgery.replaced:
        raise ValueError(
            f"model must hold a linear layer that an activation follows in an nn.Sequential, "
            f"got {type(model).__name__} without one"
        )
    return surgery.model
