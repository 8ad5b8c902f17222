"""Split batch normalisation: statistics and affine parameters of their own for every stream of inputs.

    y = gamma_s (x - mu_s) / sqrt(var_s + eps) + beta_s        for a batch of stream s

Adversarial examples have other statistics than clean ones; mixed in one layer they spoil what evaluation uses.

Source: Liu et al., "Concurrent Adversarial Learning for Large-Batch Training" (ICLR 2022), after Xie et al.,
"Adversarial Examples Improve Image Recognition" (2020), figure 3.
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from assay.nn.surgery import Selection, replace

STREAMS = ("main", "adversarial")


class SplitBatchNorm(nn.Module):
    """One batch normalisation for each stream of inputs; all batches go to the layer of the stream in force.

    Args:
        layer: of the first stream, used as it is; the others begin as copies of it.
        streams: at least two different names, such as `main` and `adversarial`. The first is in force outside of
            `use_stream`, so that it alone serves evaluation.

    Attributes:
        streams: the layers by name.
        stream: the name in force.

    Raises:
        ValueError: there are fewer than two streams, or two of one name.
    """

    def __init__(self, layer: _BatchNorm, streams: Sequence[str] = STREAMS) -> None:
        super().__init__()
        if len(set(streams)) != len(streams) or len(streams) < 2:
            raise ValueError(f"streams must be at least two different names, got {list(streams)}")
        others = {name: copy.deepcopy(layer) for name in streams[1:]}
        self.streams = nn.ModuleDict({streams[0]: layer, **others})
        self.stream = streams[0]

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.streams[self.stream](x)
        return y

    def extra_repr(self) -> str:
        return f"stream={self.stream!r}"


def to_split_batch_norm(
    model: nn.Module,
    streams: Sequence[str] = STREAMS,
    *,
    include: Selection | None = None,
    exclude: Selection | None = None,
) -> nn.Module:
    """Split every batch normalisation of a model, in place.

    What the model computes stays the same until another stream is in force. Make the optimizer afterwards, since the
    streams but the first have new parameters. Layers that are split already are left as they are.

    Args:
        model: the network; where it is itself a batch normalisation, use what is returned.
        streams: see `SplitBatchNorm`.
        include: which layers, as in `assay.nn.surgery.replace`.
        exclude: which not.

    Returns:
        the model.

    Raises:
        ValueError: there is nothing to split, or `streams` are wrong.
    """
    split = {inner for layer in model.modules() if isinstance(layer, SplitBatchNorm) for inner in layer.modules()}
    found = len(split)

    def rule(name: str, layer: nn.Module) -> nn.Module | None:
        nonlocal found
        if not isinstance(layer, _BatchNorm) or layer in split:
            return None
        found += 1
        return SplitBatchNorm(layer, streams)

    surgery = replace(model, rule, include=include, exclude=exclude)
    if not found:
        raise ValueError(f"model must hold a BatchNorm layer to split, got {type(model).__name__} without one")
    return surgery.model


def keep_stream(model: nn.Module, stream: str = STREAMS[0]) -> nn.Module:
    """Put the layer of one stream in the place of every `SplitBatchNorm`, in place: for export.

    Args:
        model: the network; where it is itself a `SplitBatchNorm`, use what is returned.
        stream: whose layers stay.

    Returns:
        the model; without a `SplitBatchNorm` just as it was.

    Raises:
        ValueError: a layer has no such stream.
    """

    def rule(name: str, layer: nn.Module) -> nn.Module | None:
        return _of_stream(layer, stream).streams[stream] if isinstance(layer, SplitBatchNorm) else None

    return replace(model, rule).model


@contextmanager
def use_stream(model: nn.Module, stream: str) -> Iterator[None]:
    """Inside, every `SplitBatchNorm` of `model` takes its inputs to be of `stream`; nests.

    Raises:
        ValueError: a layer has no such stream.
    """
    layers = [_of_stream(layer, stream) for layer in model.modules() if isinstance(layer, SplitBatchNorm)]
    before = [layer.stream for layer in layers]
    for layer in layers:
        layer.stream = stream
    try:
        yield
    finally:
        for layer, name in zip(layers, before, strict=True):
            layer.stream = name


def _of_stream(layer: SplitBatchNorm, stream: str) -> SplitBatchNorm:
    if stream not in layer.streams:
        raise ValueError(f"stream must be one of {', '.join(layer.streams)}, got {stream!r}")
    return layer
