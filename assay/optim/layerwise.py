"""What layer-wise optimizers share. A layer is one parameter tensor; its step is a ratio of norms times a direction.

The norm of the whole direction is needed before any weight may move, so every tensor is walked twice. On a CPU both
walks go in blocks that stay in cache from one operation to the next: small tensors together, large ones cut; and the
second walk follows the first after a span of them. Nothing here waits for the device.
"""

import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

BLOCK = 1 << 20  # elements a thread: smaller lie closer to the core, but Python has more of them to start
SPAN = 1 << 22  # elements between the two walks: more no longer stay in a usual third-level cache

Layer = TypeVar("Layer", bound=Sequence[Tensor])


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type that norms and moments of a parameter have: at least float32."""
    return dtype if dtype in (torch.float32, torch.float64) else torch.float32


def trust_ratio(weight_norm: Tensor, direction_norm: Tensor) -> Tensor:
    """`weight_norm / direction_norm`, elementwise, and 1 where either is zero or not a number.

    Args:
        weight_norm: phi(|x|) of one or more layers.
        direction_norm: |u| of the same layers.
    """
    return torch.where((weight_norm > 0) & (direction_norm > 0), weight_norm / direction_norm, 1.0)


def gradient(parameter: Tensor) -> Tensor:
    """The gradient of `parameter`, which must have one.

    Raises:
        TypeError: the gradient is sparse.
    """
    grad = parameter.grad
    assert grad is not None
    if grad.layout != torch.strided:
        raise TypeError(
            f"gradients must be dense (torch.strided), got {grad.layout}; use sparse=False in the embedding"
        )
    return grad


def refuse_complex(parameters: Iterable[Tensor]) -> None:
    """Raise a `TypeError` if one of the parameters is complex."""
    for parameter in parameters:
        if parameter.is_complex():
            raise TypeError(f"parameters must be real, got {parameter.dtype}; torch.view_as_real gives their real view")


def one_minus_power(beta: float, step: Tensor) -> Tensor:
    """`1 - beta^step`, without the cancellation that costs float32 four digits at the first steps."""
    return -torch.expm1(step * (math.log(beta) if beta else -math.inf))


def check_lr(lr: float | Tensor) -> None:
    """Raise a `ValueError` unless `lr` is a number not below zero or a tensor without dimensions."""
    if isinstance(lr, Tensor):
        if lr.ndim:
            raise ValueError(f"lr must be a number or a tensor without dimensions, got shape {tuple(lr.shape)}")
    elif not lr >= 0:
        raise ValueError(f"lr must not be negative, got {lr}")


def check_not_negative(settings: Mapping[str, Any], *names: str) -> None:
    """Raise a `ValueError` naming the first of the settings that is below zero."""
    for name in names:
        if not settings[name] >= 0:
            raise ValueError(f"{name} must not be negative, got {settings[name]}")


class LayerwiseOptimizer(Optimizer):
    """What LAMB and LARS have in common as optimizers. A subclass gives `_layer`, `_step_alone` and `_step_together`;
    the latter two have the options of the layers' group as their second argument."""

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; its settings take the place of the defaults."""
        settings = self.defaults | param_group
        check_lr(settings["lr"])
        check_not_negative(settings, "eps", "weight_decay")
        self._check(settings)
        super().add_param_group(param_group)
        refuse_complex(self.param_groups[-1]["params"])

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from what `state_dict` gave, in the types and strides that the optimizer works with.

        Torch casts what it loads to the parameter's type, which would round the moments of half-precision parameters,
        and leaves counters where they were saved.
        """
        super().load_state_dict(state_dict)
        parameters = [p for group in self.param_groups for p in group["params"]]
        keys = [key for group in state_dict["param_groups"] for key in group["params"]]
        for parameter, key in zip(parameters, keys, strict=True):
            for name, saved in state_dict["state"].get(key, {}).items():
                self.state[parameter][name] = self._loaded(parameter, name, saved)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Move the parameters that have a gradient by one step.

        Args:
            closure: recomputes the loss and the gradients.

        Returns:
            what the closure returned, if there is one.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            self._step_group(group)
        return loss

    def _loaded(self, parameter: Tensor, name: str, saved: Any) -> Any:
        """A value of the parameter's state as it is to be held after it was saved elsewhere."""
        if name == "step":
            return saved.to(device=parameter.device, dtype=torch.float32, copy=True)
        return torch.empty_like(parameter, dtype=working_dtype(parameter.dtype)).copy_(saved)

    def _step_group(self, group: dict[str, Any]) -> None:
        layers = [self._layer(p) for p in group["params"] if p.grad is not None and p.numel()]
        alone, together = split(layers, group["foreach"])
        for layer in alone:
            self._step_alone(layer, group)
        for same in together:
            self._step_together(same, group)

    def _check(self, settings: Mapping[str, Any]) -> None:
        """Refuse settings of the subclass's own by a `ValueError`."""

    def _layer(self, parameter: Tensor) -> Sequence[Tensor]:
        """The weight, its gradient and its state, made where there is none yet."""
        raise NotImplementedError

    def _step_alone(self, layer: Any, group: dict[str, Any]) -> None:
        """The equations as they stand, for one tensor of any kind."""
        raise NotImplementedError

    def _step_together(self, layers: Any, group: dict[str, Any]) -> None:
        """The same for tensors of one type and device, by torch's fused kernels."""
        raise NotImplementedError


def split(layers: list[Layer], foreach: bool) -> tuple[list[Layer], list[list[Layer]]]:
    """The layers to be taken one by one, and those to be taken together: one list a device and type.

    Args:
        layers: each a weight, its gradient and its state; tensors with dimensions have the weight's shape.
        foreach: whether any shall be taken together; under `torch.compile` none are, nor by a torch whose fused
            kernels, which are no public interface, have gone.
    """
    fused = all(hasattr(torch, f"_fused_{rule}_") for rule in ("adam", "adamw", "sgd"))
    if not foreach or not fused or torch.compiler.is_compiling():
        return layers, []
    alone: list[Layer] = []
    together: dict[tuple[torch.device, torch.dtype], list[Layer]] = {}
    for layer in layers:
        weight = layer[0]
        (together.setdefault((weight.device, weight.dtype), []) if _can_join(layer) else alone).append(layer)
    return alone, list(together.values())


def _can_join(layer: Sequence[Tensor]) -> bool:
    """Whether the tensors of a layer are plain, without gaps, and in the same order in memory.

    Tensor subclasses (a `DTensor` holds only a part of its layer) and devices other than CPU and CUDA say no.
    """
    weight = layer[0]
    if weight.device.type not in ("cpu", "cuda") or not all(type(t) in (Tensor, nn.Parameter) for t in layer):
        return False
    if all(t.is_contiguous() for t in layer):
        return True
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    return weight.ndim in formats and all(t.is_contiguous(memory_format=formats[weight.ndim]) for t in layer if t.ndim)


def walk(
    layers: Sequence[Sequence[Tensor]],
    look: Callable[..., list[Tensor]],
    rate: Callable[[Tensor, Tensor], Tensor],
    move: Callable[..., None],
) -> None:
    """Step all layers of one device and type, given together by `split`.

    Args:
        layers: each a weight, its gradient and its state.
        look: first walk: takes lists of weights, of gradients and of every state, updates the states and returns the
            directions. Tensors may be pieces of layers; weights and gradients are in the working type.
        rate: takes |x| and the norm of the direction, a value a layer; returns their learning rates.
        move: second walk: takes the same lists, the directions and a scalar rate for each, and moves the weights.
    """
    dtype = working_dtype(layers[0][0].dtype)
    half = layers[0][0].dtype != dtype
    for span in _spans(layers):
        full = [(x.to(dtype), g.to(dtype), *state) for x, g, *state in span] if half else span
        walked: list[tuple[list[int], list[list[Tensor]], list[Tensor]]] = []
        pieces: list[int] = []
        weight_norms: list[Tensor] = []
        direction_norms: list[Tensor] = []
        for owners, block in list(blocks(full)):  # cut first, measure then: Python is slow once it has left the cache
            weight_norms += torch._foreach_norm(block[0])
            directions = look(*block)
            direction_norms += torch._foreach_norm(directions)
            walked.append((owners, block, directions))
            pieces += owners
        norms = torch.stack(weight_norms + direction_norms).view(2, -1)
        if len(pieces) > len(span):
            squares = norms.new_zeros(2, len(span)).index_add_(1, torch.tensor(pieces), norms.square())
            norms = squares.sqrt()
        rates = rate(*norms).unbind()
        for owners, block, directions in walked:
            move(*block, directions, [rates[i] for i in owners])
        if half:
            torch._foreach_copy_([layer[0] for layer in span], [layer[0] for layer in full])


def _spans(layers: Sequence[Sequence[Tensor]]) -> Iterator[Sequence[Sequence[Tensor]]]:
    """Neighbours to be walked twice together: `SPAN` elements at most, or one larger layer; on CUDA all of them."""
    start, total = 0, 0
    limit = SPAN if layers[0][0].device.type == "cpu" else sys.maxsize
    for i, layer in enumerate(layers):
        size = layer[0].numel()
        if i > start and total + size > limit:
            yield layers[start:i]
            start, total = i, 0
        total += size
    yield layers[start:]


def blocks(
    layers: Sequence[Sequence[Tensor]], block_size: int | None = None
) -> Iterator[tuple[list[int], list[list[Tensor]]]]:
    """Pieces of the layers, as many at a time as the cache holds; on CUDA all layers, whole.

    Args:
        layers: tensors of one device and type, each with companions of its own layout.
        block_size: elements a thread, by default `BLOCK`.

    Yields:
        for every piece the index of its layer; and the pieces, one list for the weights and one for each companion.
    """
    on_cpu = layers[0][0].device.type == "cpu"
    limit = (block_size or BLOCK) * torch.get_num_threads() if on_cpu else sys.maxsize
    block: list[tuple[int, Sequence[Tensor]]] = []
    room = limit
    for i, layer in enumerate(layers):
        for piece in [layer] if layer[0].numel() <= limit else _cut(layer, limit):
            size = piece[0].numel()
            if block and size > room:
                yield _columns(block)
                block, room = [], limit
            block.append((i, piece))
            room -= size
    yield _columns(block)


def _cut(layer: Sequence[Tensor], limit: int) -> Iterator[tuple[Tensor, ...]]:
    """A layer in pieces, in the order of memory; scalars (a count of steps) go with every piece."""
    count = -(-layer[0].numel() // limit)
    in_order = (torch.split(t.as_strided((t.numel(),), (1,)), limit) if t.ndim else [t] * count for t in layer)
    return zip(*in_order, strict=True)


def _columns(block: list[tuple[int, Sequence[Tensor]]]) -> tuple[list[int], list[list[Tensor]]]:
    return [i for i, _ in block], [list(column) for column in zip(*(piece for _, piece in block), strict=True)]
