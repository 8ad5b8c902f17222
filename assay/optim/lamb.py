"""LAMB: Adam's direction with weight decay, rescaled in every layer to the norm of the layer's weights.

    m <- beta1 m + (1 - beta1) g            v <- beta2 v + (1 - beta2) g^2
    r  = m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + eps)
    u  = r + lambda x
    x <- x - lr phi(|x|) / |u| u

A layer is one parameter tensor, |.| its 2-norm, phi(z) = z unless bounds are given. The ratio is 1 where phi(|x|) or
|u| is zero.

Source: You et al., "Large Batch Optimization for Deep Learning: Training BERT in 76 minutes" (2020), Algorithm 2.
"""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from assay.optim import layerwise


class LAMB(layerwise.LayerwiseOptimizer):
    """LAMB, for batches so large that one learning rate no longer suits every layer.

    As published, with the bias correction of the ICLR text. Biases and the affine parameters of normalisation layers
    are best neither decayed nor adapted; `assay.optim.roles.decay_groups` makes such groups. Variants that clip the
    gradient first (NVIDIA's, DeepSpeed's) are this after `torch.nn.utils.clip_grad_norm_(parameters, 1.0)`.

    The state is two moments a parameter, in float32 at least. A step needs room for the direction of the largest
    tensor on a CPU, of all tensors on CUDA; half-precision weights are updated in float32 and rounded once. A gradient
    that is not finite makes its tensor so: nothing is skipped. A parameter without a gradient keeps its state and
    its own count of steps.

    Args:
        params: parameters, named parameters or groups; a group may set every option below.
        lr: learning rate, a number or a tensor without dimensions; the share of its norm by which a layer moves.
        betas: decay of the first and second moment, each in [0, 1).
        eps: added to the root of the second moment, not negative.
        weight_decay: lambda, not negative; inside the direction that is rescaled, unlike AdamW's.
        bias_correction: divide the moments by `1 - beta^t`.
        layer_adaptation: `False` sets the ratio to 1: Adam with decoupled decay.
        norm_bounds: `(low, high)` between which phi clips the norm of the weights; `None` for no bounds.
        foreach: many tensors at once, by torch's fused kernels; `False` goes tensor by tensor, as is always done for
            sharded or strided tensors and under `torch.compile`.

    Raises:
        ValueError: a setting lies outside its range.
        TypeError: a parameter is complex; in `step`, a gradient is sparse.

    Source:
        You et al. (2020), Algorithm 2.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
        *,
        bias_correction: bool = True,
        layer_adaptation: bool = True,
        norm_bounds: tuple[float, float] | None = None,
        foreach: bool = True,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "bias_correction": bias_correction,
            "layer_adaptation": layer_adaptation,
            "norm_bounds": norm_bounds,
            "foreach": foreach,
        }
        super().__init__(params, defaults)

    def _check(self, settings: Mapping[str, Any]) -> None:
        if not all(0 <= beta < 1 for beta in settings["betas"]):
            raise ValueError(f"betas must lie in [0, 1), got {settings['betas']}")
        bounds = settings["norm_bounds"]
        if bounds is not None and not 0 <= bounds[0] <= bounds[1]:
            raise ValueError(f"norm_bounds must be (low, high) with 0 <= low <= high, got {bounds}")

    def _layer(self, parameter: Tensor) -> "_Layer":
        g = layerwise.gradient(parameter)
        state = self.state[parameter]
        if not state:
            dtype = layerwise.working_dtype(parameter.dtype)
            state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
            state["exp_avg"] = torch.zeros_like(parameter, dtype=dtype)
            state["exp_avg_sq"] = torch.zeros_like(parameter, dtype=dtype)
        return _Layer(parameter, g, state["exp_avg"], state["exp_avg_sq"], state["step"])

    def _step_alone(self, layer: "_Layer", group: dict[str, Any]) -> None:
        layer.step.add_(1)
        beta1, beta2 = group["betas"]
        x, g, m, v = layer.x.to(layer.m.dtype), layer.g.to(layer.m.dtype), layer.m, layer.v
        m.lerp_(g, 1 - beta1)
        v.mul_(beta2).addcmul_(g, g, value=1 - beta2)
        m_hat, v_hat = m, v
        if group["bias_correction"]:
            step = layer.step.to(m.dtype)
            m_hat, v_hat = m / layerwise.one_minus_power(beta1, step), v / layerwise.one_minus_power(beta2, step)
        u = m_hat / (v_hat.sqrt() + group["eps"]) + group["weight_decay"] * x
        rate = _rate(group, torch.linalg.vector_norm(x), torch.linalg.vector_norm(u))
        layer.x.copy_(x - rate * u)

    def _step_together(self, layers: "list[_Layer]", group: dict[str, Any]) -> None:
        """By torch's fused Adam.

        That kernel moves a parameter by -r; given -lambda x in its place it leaves the direction, -u.
        """
        torch._foreach_add_([layer.step for layer in layers], 1)
        beta1, beta2 = group["betas"]
        adam = partial(torch._fused_adam_, lr=1.0, beta1=beta1, beta2=beta2, weight_decay=0.0, eps=group["eps"])
        never = torch.full_like(layers[0].step, math.inf)  # beta^inf = 0: no bias to correct

        def look(
            x: list[Tensor], g: list[Tensor], m: list[Tensor], v: list[Tensor], step: list[Tensor]
        ) -> list[Tensor]:
            u = torch._foreach_mul(x, -group["weight_decay"])
            steps = step if group["bias_correction"] else [never] * len(step)
            adam(u, g, m, v, [], steps, amsgrad=False, maximize=False)
            return list(u)

        def move(
            x: list[Tensor],
            g: list[Tensor],
            m: list[Tensor],
            v: list[Tensor],
            step: list[Tensor],
            u: list[Tensor],
            rates: list[Tensor],
        ) -> None:
            torch._foreach_addcmul_(x, u, rates)

        layerwise.walk(layers, look, partial(_rate, group), move)


class _Layer(NamedTuple):
    x: Tensor
    g: Tensor
    m: Tensor
    v: Tensor
    step: Tensor


def _rate(group: dict[str, Any], weight_norm: Tensor, direction_norm: Tensor) -> Tensor:
    """`lr phi(|x|) / |u|` of one or more layers."""
    if group["norm_bounds"] is not None:
        weight_norm = weight_norm.clamp(*group["norm_bounds"])
    ratio = layerwise.trust_ratio(weight_norm, direction_norm)
    lr: float | Tensor = group["lr"]
    return (ratio if group["layer_adaptation"] else torch.ones_like(ratio)) * lr
