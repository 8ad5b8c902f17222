"""AdaGrad-Norm: AdaGrad with one accumulator for the whole gradient.

    b^2 <- b^2 + |g|^2
    x   <- x - lr g / b

Source: Lau, Liu and Kolar, "AdAdaGrad: Adaptive Batch Size Schemes for Adaptive Gradient Methods" (2024), section 2;
the method is Streeter and McMahan's (2010).
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from assay.optim import layerwise

Granularity = Literal["global", "tensor", "row"]


class AdaGradNorm(Optimizer):
    """AdaGrad whose rate is one number, or one a parameter or a row.

    `"global"` is the paper's: one b for all parameters of all groups. `"tensor"` has one for each parameter. `"row"` is
    the authors' code: a matrix or a convolution has one for each output, of its row's norm; a vector has one for each
    entry, to which, if a matrix of as many rows comes right before it in its group, those rows' squared norms are added
    too, as for the bias of the layer.

    The state is a number a parameter (or row), in float32 at least. A gradient that is not finite makes all that shares
    its b so: nothing is skipped. A parameter without a gradient stays, and what it has accumulated still counts in b.

    Args:
        params: parameters, named parameters or groups; a group may set `lr`, `eps`, `weight_decay` and `foreach`.
        lr: learning rate, a number or a tensor without dimensions.
        b0: the first b, positive. (The authors' code has 0.1, the root of its initial accumulator.)
        eps: added to b, not negative; 0 in the paper, 1e-10 in the authors' code.
        weight_decay: lambda, not negative; lambda x is added to the gradient.
        granularity: `global`, `tensor` or `row`, of all groups.
        foreach: many tensors at once, by torch's fused kernels; `False` goes tensor by tensor, as is always done for
            rows, for sharded or strided tensors and under `torch.compile`.

    Raises:
        ValueError: a setting lies outside its range.
        TypeError: a parameter is complex; in `step`, a gradient is sparse.

    Source:
        Lau et al. (2024), section 2.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1.0,
        b0: float = 1e-2,
        *,
        eps: float = 0.0,
        weight_decay: float = 0.0,
        granularity: str = "global",
        foreach: bool = True,
    ) -> None:
        if granularity not in get_args(Granularity):
            raise ValueError(f"granularity must be one of {', '.join(get_args(Granularity))}, got {granularity!r}")
        if not b0 > 0:
            raise ValueError(f"b0 must be positive, got {b0}")
        defaults = {
            "lr": lr,
            "b0": b0,
            "eps": eps,
            "weight_decay": weight_decay,
            "granularity": granularity,
            "foreach": foreach,
        }
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; its settings take the place of the defaults."""
        settings = self.defaults | param_group
        layerwise.check_lr(settings["lr"])
        layerwise.check_not_negative(settings, "eps", "weight_decay")
        for name in ("b0", "granularity"):
            if settings[name] != self.defaults[name]:
                raise ValueError(f"{name} must be that of all groups, {self.defaults[name]}, got {settings[name]}")
        super().add_param_group(param_group)
        layerwise.refuse_complex(self.param_groups[-1]["params"])

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from what `state_dict` gave; torch would round what half-precision parameters have accumulated."""
        super().load_state_dict(state_dict)
        parameters = [p for group in self.param_groups for p in group["params"]]
        keys = [key for group in state_dict["param_groups"] for key in group["params"]]
        for p, key in zip(parameters, keys, strict=True):
            if key in state_dict["state"]:
                saved = state_dict["state"][key]["sum"]
                self.state[p]["sum"] = saved.to(device=p.device, dtype=layerwise.working_dtype(p.dtype), copy=True)

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
        if self.param_groups[0]["granularity"] == "row":
            for group in self.param_groups:
                self._step_rows(group)
            return loss
        found = [(group, self._layers(group)) for group in self.param_groups]
        for group, layers in found:
            for part in layers:
                _accumulate(part, group)
        total = self._total() if self.param_groups[0]["granularity"] == "global" else None
        for group, layers in found:
            for part in layers:
                _move(part, group, total)
        return loss

    def _layers(self, group: dict[str, Any]) -> "list[_Layers]":
        """Those with a gradient, together as far as they can be."""
        made = []
        for p in group["params"]:
            if p.grad is not None and p.numel():
                state = self.state[p]
                if not state:
                    dtype = layerwise.working_dtype(p.dtype)
                    state["sum"] = torch.zeros((), dtype=dtype, device=p.device)
                made.append((p, layerwise.gradient(p), state["sum"]))
        alone, together = layerwise.split(made, group["foreach"])
        parts = [_Layers([x], [g], [own], False) for x, g, own in alone]
        for part in together:
            xs, gs, sums = map(list, zip(*part, strict=True))
            parts.append(_Layers(xs, gs, sums, True))
        return parts

    def _total(self) -> Tensor:
        """What all parameters have accumulated so far."""
        sums = [self.state[p]["sum"] for group in self.param_groups for p in group["params"] if p in self.state]
        return torch.stack([s.to(sums[0].device) for s in sums]).sum() if sums else torch.zeros(())

    def _step_rows(self, group: dict[str, Any]) -> None:
        before: Tensor | None = None  # squared norms of the rows of the matrix right before
        for p in group["params"]:
            if p.grad is None or not p.numel():
                before = None
                continue
            g = _decayed(p, layerwise.gradient(p), group["weight_decay"])
            if p.ndim > 1:
                squares = before = g.flatten(1).square().sum(1)
            else:
                squares = g.square()
                if before is not None and before.shape == squares.shape:
                    squares = squares + before
                before = None
            state = self.state[p]
            state["sum"] = state["sum"] + squares if state else squares
            rates = _rate(group, state["sum"])
            p.copy_(p.to(g.dtype) - rates.view(rates.shape + (1,) * (p.ndim - rates.ndim)) * g)


class _Layers(NamedTuple):
    x: list[Tensor]
    g: list[Tensor]
    sums: list[Tensor]
    together: bool


def _rate(group: dict[str, Any], total: Tensor) -> Tensor:
    rate: Tensor = group["lr"] / ((group["b0"] ** 2 + total).sqrt() + group["eps"])
    return rate


def _decayed(x: Tensor, g: Tensor, weight_decay: float) -> Tensor:
    """The gradient with its weight decay, g + lambda x, in float32 at least."""
    dtype = layerwise.working_dtype(x.dtype)
    return g.to(dtype).add(x.to(dtype), alpha=weight_decay) if weight_decay else g.to(dtype)


def _accumulate(part: _Layers, group: dict[str, Any]) -> None:
    decay = group["weight_decay"]
    if part.together and not decay and part.g[0].dtype == part.sums[0].dtype:
        norms = list(torch._foreach_norm(part.g))
    else:
        norms = [torch.linalg.vector_norm(_decayed(x, g, decay)) for x, g in zip(part.x, part.g, strict=True)]
        norms = [norm.full_tensor() if hasattr(norm, "full_tensor") else norm for norm in norms]
    torch._foreach_addcmul_(part.sums, norms, norms)


def _move(part: _Layers, group: dict[str, Any], total: Tensor | None) -> None:
    """By torch's fused SGD where tensors go together."""
    decay, dtype = group["weight_decay"], part.sums[0].dtype
    if not part.together:
        for x, g, own in zip(part.x, part.g, part.sums, strict=True):
            rate = _rate(group, own if total is None else total.to(own.device))
            x.copy_(x.to(dtype) - rate * _decayed(x, g, decay))
        return
    half = part.x[0].dtype != dtype  # in which that kernel is wrong on a CPU (torch 2.13)
    xs, gs = ([t.to(dtype) for t in ts] if half else ts for ts in (part.x, part.g))
    sgd = partial(
        torch._fused_sgd_,
        weight_decay=decay,
        momentum=0.0,
        dampening=0.0,
        nesterov=False,
        maximize=False,
        is_first_step=False,
    )
    if total is not None:
        sgd(xs, gs, [], lr=_rate(group, total.to(xs[0].device)))
    else:
        for x, g, own in zip(xs, gs, part.sums, strict=True):
            sgd([x], [g], [], lr=_rate(group, own))
    if half:
        torch._foreach_copy_(part.x, xs)
