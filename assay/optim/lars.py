"""LARS: momentum whose step is rescaled in every layer to the norm of the layer's weights.

    "2017"    l = tc |x| / (|g| + lambda |x| + eps)      buf <- mu buf + lr l (g + lambda x)     x <- x - buf
    "joint"   l = tc |x| / (|g + lambda x| + eps)        likewise
    "2020"    m <- mu m + (1 - mu) (g + lambda x)        x <- x - lr |x| / |m| m

A layer is one parameter tensor, |.| its 2-norm. l, or the ratio, is 1 where one of its two norms is zero.

Source: You, Gitman and Ginsburg, "Large Batch Training of Convolutional Networks" (2017); You et al., "Large Batch
Optimization for Deep Learning: Training BERT in 76 minutes" (2020), Algorithm 1.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from assay.optim import layerwise

VARIANTS = ("2017", "joint", "2020")


class LARS(layerwise.LayerwiseOptimizer):
    """LARS, in the three forms in use: momentum SGD for very large batches.

    `"2017"` is the form of ImageNet recipes (the rate is inside the momentum buffer). `"joint"` is the same with the
    norm of the decayed gradient in the denominator, as in optax. `"2020"` is the form analysed beside LAMB: the
    momentum vector itself is normalised and there is no trust coefficient, so its learning rates are those of LAMB,
    hundreds of times smaller.

    Biases and the affine parameters of normalisation layers are best neither decayed nor adapted;
    `assay.optim.roles.decay_groups` makes such groups. The state is one buffer a parameter, in float32 at least;
    half-precision weights are updated in float32 and rounded once. A gradient that is not finite makes its tensor so:
    nothing is skipped. A parameter without a gradient keeps its state.

    Args:
        params: parameters, named parameters or groups; a group may set every option below.
        lr: learning rate, a number or a tensor without dimensions.
        momentum: mu, in [0, 1).
        weight_decay: lambda, not negative; inside the direction that is rescaled.
        trust_coefficient: tc, positive; `"2020"` has none.
        eps: added to the denominator of l, not negative; `"2020"` has none.
        nesterov: step by `mu buf` beyond the buffer; not in `"2020"`.
        variant: `"2017"`, `"joint"` or `"2020"`.
        layer_adaptation: `False` sets l, or the ratio, to 1: plain momentum.
        foreach: many tensors at once, by torch's fused kernels; `False` goes tensor by tensor, as is always done for
            sharded or strided tensors and under `torch.compile`.

    Raises:
        ValueError: a setting lies outside its range.
        TypeError: a parameter is complex; in `step`, a gradient is sparse.

    Source:
        You, Gitman and Ginsburg (2017), eq. 6; You et al. (2020), Algorithm 1.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        *,
        trust_coefficient: float = 0.001,
        eps: float = 0.0,
        nesterov: bool = False,
        variant: str = "2017",
        layer_adaptation: bool = True,
        foreach: bool = True,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "trust_coefficient": trust_coefficient,
            "eps": eps,
            "nesterov": nesterov,
            "variant": variant,
            "layer_adaptation": layer_adaptation,
            "foreach": foreach,
        }
        super().__init__(params, defaults)

    def _check(self, settings: Mapping[str, Any]) -> None:
        if not 0 <= settings["momentum"] < 1:
            raise ValueError(f"momentum must lie in [0, 1), got {settings['momentum']}")
        if not settings["trust_coefficient"] > 0:
            raise ValueError(f"trust_coefficient must be positive, got {settings['trust_coefficient']}")
        if settings["variant"] not in VARIANTS:
            raise ValueError(f"variant must be one of {', '.join(VARIANTS)}, got {settings['variant']!r}")
        if settings["nesterov"] and settings["variant"] == "2020":
            raise ValueError("nesterov must be False with variant '2020', got True")

    def _layer(self, parameter: Tensor) -> "_Layer":
        g = layerwise.gradient(parameter)
        state = self.state[parameter]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(parameter, dtype=layerwise.working_dtype(parameter.dtype))
        return _Layer(parameter, g, state["momentum_buffer"])

    def _step_alone(self, layer: "_Layer", group: dict[str, Any]) -> None:
        buf, momentum = layer.buf, group["momentum"]
        x, g = layer.x.to(buf.dtype), layer.g.to(buf.dtype)
        norm = torch.linalg.vector_norm
        d = g + group["weight_decay"] * x
        if group["variant"] == "2020":
            buf.lerp_(d, 1 - momentum)
            move = _rate(group, norm(x), norm(buf)) * buf
        else:
            d = _rate(group, norm(x), norm(g if group["variant"] == "2017" else d)) * d
            buf.mul_(momentum).add_(d)
            move = d + momentum * buf if group["nesterov"] else buf
        layer.x.copy_(x - move)

    def _step_together(self, layers: "list[_Layer]", group: dict[str, Any]) -> None:
        momentum, weight_decay, variant = group["momentum"], group["weight_decay"], group["variant"]
        sgd = partial(
            torch._fused_sgd_,
            lr=1.0,
            momentum=momentum,
            nesterov=group["nesterov"],
            maximize=False,
            is_first_step=False,
        )
        # On a CPU the rates are at hand as numbers, and the kernel does it all: its factor 1 - dampening stands for the
        # rate, to a float64's rounding of numbers near 1. Nesterov's step has that factor in one of two places only.
        on_cpu = layers[0].x.device.type == "cpu"
        exact_above = torch.finfo(torch.float64).eps / torch.finfo(layers[0].buf.dtype).eps

        def look(x: list[Tensor], g: list[Tensor], buf: list[Tensor]) -> list[Tensor]:
            if variant == "2017":
                return g
            d = list(torch._foreach_add(g, x, alpha=weight_decay))
            if variant == "joint":
                return d
            torch._foreach_lerp_(buf, d, 1 - momentum)
            return buf

        def move(x: list[Tensor], g: list[Tensor], buf: list[Tensor], d: list[Tensor], rates: list[Tensor]) -> None:
            if variant == "2020":
                torch._foreach_addcmul_(x, buf, rates, value=-1)
                return
            numbers = torch.stack(rates).tolist() if on_cpu and momentum and not group["nesterov"] else []
            if numbers and all(rate > exact_above for rate in numbers):
                for x_i, g_i, buf_i, rate in zip(x, g, buf, numbers, strict=True):
                    sgd([x_i], [g_i], [buf_i], weight_decay=weight_decay, dampening=1.0 - rate)
                return
            if variant == "2017":
                d = list(torch._foreach_add(g, x, alpha=weight_decay))
            torch._foreach_mul_(d, rates)
            sgd(x, d, buf if momentum else [], weight_decay=0.0, dampening=0.0)

        layerwise.walk(layers, look, partial(_rate, group), move)


class _Layer(NamedTuple):
    x: Tensor
    g: Tensor
    buf: Tensor


def _rate(group: dict[str, Any], weight_norm: Tensor, direction_norm: Tensor) -> Tensor:
    """The learning rate of one or more layers: `lr l`, or `lr |x| / |m|`.

    Args:
        group: the settings.
        weight_norm: |x|.
        direction_norm: |g|, |g + lambda x| or |m|, as the variant has it.
    """
    lr: float | Tensor = group["lr"]
    if not group["layer_adaptation"]:
        return torch.ones_like(weight_norm) * lr
    if group["variant"] == "2020":
        return layerwise.trust_ratio(weight_norm, direction_norm) * lr
    decay = group["weight_decay"] * weight_norm if group["variant"] == "2017" else 0.0
    local = group["trust_coefficient"] * weight_norm / (direction_norm + decay + group["eps"])
    return torch.where((weight_norm > 0) & (direction_norm > 0), local, 1.0) * lr
