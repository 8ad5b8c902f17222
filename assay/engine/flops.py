"""FLOPs as torch counts them; what it leaves out, recurrent layers that run as one call; and what it counts wrongly,
the gradient of a grouped convolution.

forward  2 (steps x batch) sum over the weight matrices of their entries;   backward twice that
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import prod
from typing import Any

import torch
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

Shape = Sequence[int]


def flop_counter() -> FlopCounterMode:
    """A context that counts the FLOPs of what runs in it: `get_total_flops()`."""
    return FlopCounterMode(display=False, custom_mapping=_FORMULAS)


def _products(x: Shape, weights: Sequence[Shape]) -> int:
    return 2 * prod(x[:-1]) * sum(prod(shape) for shape in weights if len(shape) == 2)


# of the four weights that oneDNN is given the first two are matrices; without biases it is given these again
def _onednn(x: Shape, *rest: Any, **kwargs: Any) -> int:
    return _products(x, rest[:2])


def _onednn_back(x: Shape, *rest: Any, **kwargs: Any) -> int:
    return 2 * _products(x, rest[:2])


def _cudnn(x: Shape, weights: Sequence[Shape], *rest: Any, **kwargs: Any) -> int:
    return _products(x, weights)


def _cudnn_back(x: Shape, weights: Sequence[Shape], *rest: Any, **kwargs: Any) -> int:
    return 2 * _products(x, weights)


# each gradient costs what the output does; torch takes that of grouped weights times the groups, of which gradients of
# single samples have one a sample
def _convolution_back(
    grad_out: Shape, x: Shape, weight: Shape, bias: Any, stride: Any, padding: Any, dilation: Any, transposed: bool,
    output_padding: Any, groups: int, wanted: Sequence[bool], **kwargs: Any,
) -> int:  # fmt: skip
    return (wanted[0] + wanted[1]) * conv_flop_count(list(x), list(weight), list(grad_out), transposed)


_FORMULAS = {
    torch.ops.aten.convolution_backward: _convolution_back,
    torch.ops.aten.mkldnn_rnn_layer: _onednn,
    torch.ops.aten.mkldnn_rnn_layer_backward: _onednn_back,
    torch.ops.aten._cudnn_rnn: _cudnn,
    torch.ops.aten._cudnn_rnn_backward: _cudnn_back,
}


@contextmanager
def uncounted() -> Iterator[None]:
    """Nothing inside is counted from outside: for what counts its own FLOPs, as a run within a run does, which would
    otherwise pay the counter's price for every operation of every step."""
    with _disable_current_modes():
        yield
