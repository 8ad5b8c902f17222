"""How often each ReLU is on.

    f_u = share of the examples on which unit u gives more than zero;    always off: f_u = 0

Source: Frankle, Schwab, Morcos, "Training BatchNorm and Only BatchNorm" (ICLR 2021), section 5 and its appendix.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

_RELU = (torch.ops.aten.relu.default, torch.ops.aten.relu_.default)


def relu_frequencies(model: nn.Module, batches: Iterable[Tensor]) -> list[Tensor]:
    """How often every unit of every ReLU is on, modules and functional calls alike, in evaluation mode.

    Args:
        model: called with one batch at a time, in eval mode; its modes are put back.
        batches: inputs [batch, ...], at least one; all give ReLUs of the same shapes.

    Returns:
        for each application of a ReLU, in the order of the forward pass: float64, one share in [0, 1] a unit (feature
        and place), of the shape of one example. `(f == 0).mean()` is the share of units that are always off.

    Raises:
        ValueError: there is no batch, or batches differ in their ReLUs.
    """
    modes = [(module, module.training) for module in model.modules()]
    totals: list[Tensor] | None = None
    examples = 0
    model.eval()
    try:
        for x in batches:
            with torch.no_grad(), _Watch() as watch:
                model(x)
            found, examples = watch.counts, examples + len(x)
            if totals is None:
                totals = found
                continue
            if [t.shape for t in totals] != [t.shape for t in found]:
                raise ValueError(
                    f"batches must give ReLUs of equal shapes, got {[tuple(t.shape) for t in found]} "
                    f"after {[tuple(t.shape) for t in totals]}"
                )
            totals = [total + count for total, count in zip(totals, found, strict=True)]
    finally:
        for module, training in modes:
            module.training = training
    if totals is None:
        raise ValueError("batches must hold at least one batch, got none")
    return [total.double() / examples for total in totals]


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts, below modules and functions, where the outputs of ReLUs are positive."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts: list[Tensor] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func in _RELU:
            self.counts.append((out > 0).sum(dim=0))
        return out
