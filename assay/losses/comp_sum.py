"""Comp-sum losses: one parameter from the exponential sum over cross-entropy to the mean absolute error.

    S = sum_{k != y} exp(h_k - h_y),    1 + S = 1 / p_y,    p = softmax(h)
    l_tau = Phi_tau(S) = ((1 + S)^(1 - tau) - 1) / (1 - tau) = (1 - p_y^(tau - 1)) / (tau - 1);    -log p_y at tau = 1
    dl_tau / dh_k = p_y^(tau - 1) (p_k - [k = y])

    tau = 0         1 / p_y - 1, sum-exponential
    tau = 1         -log p_y, logistic: cross-entropy
    1 < tau < 2     generalised cross-entropy of q = tau - 1
    tau = 2         1 - p_y, mean absolute error up to a factor 2

Source: Mao, Mohri, Zhong, "Cross-Entropy Loss Functions: Theoretical Analysis and Applications" (ICML 2023), section 2.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from assay.losses.reduction import check_reduction

# From here on our own forward and backward beat torch's chain of operators on a CPU (benchmarks/comp_sum.py): by its
# fewer buffers where there are many logits, and where classes are few by the slowness of torch's softmax over them. On
# a GPU torch's softmax reads its input once where ours would be a kernel an operator.
FUSED_LOGITS = 2**18
FUSED_ROWS, FEW_CLASSES = 512, 32


def comp_sum_loss(
    logits: Tensor,
    target: Tensor,
    tau: float = 1.0,
    *,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
) -> Tensor:
    """l_tau of the logits; shapes, weights, smoothing and reductions are those of `torch.nn.functional.cross_entropy`.

    No logits give NaN. For tau < 1 the loss grows as p_y^(tau - 1): where that exceeds the largest float (in float32 at
    tau = 0 from a gap of 88 on) loss and gradient are infinite (under `torch.compile`, torch.func or with soft targets
    the gradient may be NaN), and long before that gradients want clipping. For
    tau > 1 the gradient vanishes where the network is wrong and certain of it.

    Args:
        logits: h, [batch, classes, *positions] or [classes]; half precision is computed in float32.
        target: y, classes [batch, *positions], or [] for logits [classes]; or probabilities q of the logits' shape,
            whose loss is sum_k q_k l_tau(h, k).
        tau: at least 0.
        weight: of each class, [classes]; the mean is then a weighted one.
        ignore_index: a class whose samples count nothing; not for probabilities.
        label_smoothing: share of a target's mass that is spread over all classes, in [0, 1].
        reduction: `mean`, `sum` or `none`; the mean of no samples is NaN, as torch's.

    Returns:
        in float32 at least, a scalar or [batch, *positions].

    Raises:
        ValueError: an argument is out of range or does not fit the logits. Classes are looked at on a CPU only; on a
            GPU that would wait for the device, whose own assertion then fails.

    Source: Mao et al. 2023, section 2; Zhang and Sabuncu, "Generalized cross entropy loss" (2018) for 1 < tau < 2.
    """
    _check_settings(tau, label_smoothing, reduction)
    _check_shapes(logits, target, weight)
    x = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if x.ndim == 1:
        each = (x[None], target[None], tau, weight, ignore_index, label_smoothing, reduction)
        loss = _loss(*each)
        return loss[0] if reduction == "none" else loss
    return _loss(x, target, tau, weight, ignore_index, label_smoothing, reduction)


def _loss(
    x: Tensor, target: Tensor, tau: float, weight: Tensor | None, ignore_index: int, smoothing: float, reduction: str
) -> Tensor:
    """`comp_sum_loss` of checked arguments, with a batch."""
    if weight is not None:
        weight = weight.to(x)
    soft = target.is_floating_point()
    eager = not _traced()
    # for tau < 1 torch's chain would multiply an infinite p_y^(tau - 1) by a p_k of 0
    fused = eager and not soft and not smoothing and (tau < 1 or _pays(x))
    counted = None
    if not soft:
        target = target.long()
        counted = _counted(target, x.shape[1], ignore_index, look=eager and x.device.type == "cpu")
    if tau == 1 and not fused:
        target, ignore_index = (target.to(x), -100) if soft else (target, ignore_index)
        return F.cross_entropy(
            x, target, weight, ignore_index=ignore_index, reduction=reduction, label_smoothing=smoothing
        )
    share: Tensor | None = None  # each sample's part in the mean; None where all have 1
    if counted is not None:
        target, share = target.masked_fill(~counted, 0), counted.to(x)
    if weight is not None and not soft:
        share = weight[target] if share is None else weight[target] * share
    if soft or smoothing:
        each = _expected(x, target, tau, weight, smoothing)
        each = each if counted is None else each.masked_fill(~counted, 0)
    else:
        each = (_fused if fused else _composed)(x, target, counted, tau)
        each = each if weight is None else weight[target] * each
    divisor: float | Tensor = _divisor(tau)
    if reduction == "none":
        return each / divisor
    if reduction == "mean":
        divisor = divisor * (each.numel() if share is None else share.sum())
    return each.sum() / divisor


def _divisor(tau: float) -> float:
    """What the values of the functions below are yet to be divided by, once for all samples."""
    return 1.0 if tau == 1 else 1 - tau


def _pays(x: Tensor) -> bool:
    """Whether `_Fused` is quicker than `_composed`."""
    if x.device.type != "cpu":
        return False
    rows = x.numel() // x.shape[1]
    return x.numel() >= FUSED_LOGITS or (rows >= FUSED_ROWS and x.shape[1] <= FEW_CLASSES)


def _composed(x: Tensor, target: Tensor, counted: Tensor | None, tau: float) -> Tensor:
    """One loss a sample by torch's operators; 0 for those that are not counted."""
    nll = F.nll_loss(F.log_softmax(x, 1), target, reduction="none")
    if counted is not None:
        nll = nll.masked_fill(~counted, 0)
    return nll if tau == 1 else torch.expm1((1 - tau) * nll)


def _expected(x: Tensor, target: Tensor, tau: float, weight: Tensor | None, smoothing: float) -> Tensor:
    """sum_k q_k l_tau(h, k) of probabilities, or of classes that are smoothed."""
    classes = x.shape[1]
    q = target.to(x) if target.is_floating_point() else F.one_hot(target, classes).movedim(-1, 1).to(x)
    q = q * (1 - smoothing) + smoothing / classes
    if weight is not None:
        q = q * weight.view(-1, *[1] * (x.ndim - 2))
    log_p = F.log_softmax(x, 1).masked_fill(q == 0, 0)  # the loss of a class without mass may be infinite
    return (q * (-log_p if tau == 1 else torch.expm1((tau - 1) * log_p))).sum(1)


class _Fused(torch.autograd.Function):
    """`_composed` with one exponential and one buffer, which becomes the gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, target: Tensor, counted: Tensor | None, tau: float) -> Tensor:
        index = target.unsqueeze(1)
        top = x.amax(1, keepdim=True)
        e = (x - top).exp_()
        total = e.sum(1, keepdim=True)
        log_p = x.gather(1, index).sub_(top).sub_(total.log())
        if counted is not None:
            log_p.masked_fill_(~counted.unsqueeze(1), 0)
        ctx.save_for_backward(x, target, counted, top, total, log_p)
        ctx.tau, ctx.e = tau, e
        return (-log_p if tau == 1 else torch.expm1((tau - 1) * log_p)).squeeze(1)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None, None]:
        (g,) = upstream
        x, target, counted, top, total, log_p = ctx.saved_tensors
        if torch.is_grad_enabled():  # the gradient is to be differentiated again
            loss = _composed(x, target, counted, ctx.tau)
            (gradient,) = torch.autograd.grad(loss, x, g, create_graph=True)
            return gradient, None, None, None
        # the buffer is handed over once; another backward pass through the same graph makes it anew
        e, ctx.e = ctx.e, None
        if e is None:
            e = (x - top).exp_()
        g = (g if counted is None else g * counted).unsqueeze(1) * _divisor(ctx.tau)
        power = (ctx.tau - 1) * log_p
        if ctx.tau < 1:  # p_y^(tau - 1) may be infinite where p_k is 0
            torch.sub(x, top, out=e).sub_(total.log() - power).exp_().mul_(g)
        else:
            e.mul_(power.exp() * g / total)
        # p_k - 1 at k = y, without the cancellation where p_y is near 1
        e.scatter_(1, target.unsqueeze(1), power.exp_() * log_p.expm1() * g)
        return e, None, None, None


def _fused(x: Tensor, target: Tensor, counted: Tensor | None, tau: float) -> Tensor:
    found: Tensor = _Fused.apply(x, target, counted, tau)  # type: ignore[no-untyped-call]
    return found


def _traced() -> bool:
    """Whether values cannot be looked at, nor buffers written: in `torch.compile` and in the transforms of torch.func,
    for whose state there is no public name."""
    return torch.compiler.is_compiling() or bool(torch._C._are_functorch_transforms_active())


def _counted(target: Tensor, classes: int, ignore_index: int, *, look: bool) -> Tensor | None:
    """Which samples count; `None` where all do."""
    if not look:
        return target != ignore_index
    if target.numel() == 0:
        return None
    low, high = (int(bound) for bound in target.aminmax())
    if low >= 0 and high < classes and not low <= ignore_index <= high:
        return None
    counted = target != ignore_index
    wrong = target[counted & ((target < 0) | (target >= classes))]
    if len(wrong):
        raise ValueError(
            f"target must hold classes 0 to {classes - 1} or {ignore_index} to ignore, got {int(wrong[0])}"
        )
    return None if counted.all() else counted


def _check_settings(tau: float, smoothing: float, reduction: str) -> None:
    if not 0 <= tau < math.inf:
        raise ValueError(f"tau must be at least 0 and finite, got {tau}")
    if not 0 <= smoothing <= 1:
        raise ValueError(f"label_smoothing must lie in [0, 1], got {smoothing}")
    check_reduction(reduction)


def _check_shapes(logits: Tensor, target: Tensor, weight: Tensor | None) -> None:
    if not logits.is_floating_point():
        raise ValueError(f"logits must be of a floating type, got {logits.dtype}")
    shape = tuple(logits.shape)
    if not shape or shape[min(len(shape) - 1, 1)] == 0:
        raise ValueError(f"logits must have shape [batch, classes, *positions] or [classes], got {list(shape)}")
    if target.dtype == torch.bool or target.is_complex():
        raise ValueError(f"target must hold classes (integers) or probabilities, got {target.dtype}")
    wanted = shape if target.is_floating_point() else shape[:1] + shape[2:] if len(shape) > 1 else ()
    if target.shape != wanted:
        kind = "probabilities" if target.is_floating_point() else "classes"
        raise ValueError(f"target of {kind} must have shape {list(wanted)} for logits {list(shape)}, "
                         f"got {list(target.shape)}")  # fmt: skip
    classes = shape[min(len(shape) - 1, 1)]
    if weight is not None and weight.shape != (classes,):
        raise ValueError(f"weight must have shape [{classes}], got {list(weight.shape)}")


class CompSumLoss(nn.Module):
    """`comp_sum_loss` with its settings.

    Args:
        tau, weight, ignore_index, label_smoothing, reduction: as `comp_sum_loss` takes them; the weight is a buffer.

    Raises:
        ValueError: a setting is out of range.
    """

    weight: Tensor | None

    def __init__(
        self,
        tau: float = 1.0,
        *,
        weight: Tensor | None = None,
        ignore_index: int = -100,
        label_smoothing: float = 0.0,
        reduction: str = "mean",
    ) -> None:
        super().__init__()
        _check_settings(tau, label_smoothing, reduction)
        self.tau, self.ignore_index = tau, ignore_index
        self.label_smoothing, self.reduction = label_smoothing, reduction
        self.register_buffer("weight", weight)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        return comp_sum_loss(
            logits,
            target,
            self.tau,
            weight=self.weight,
            ignore_index=self.ignore_index,
            label_smoothing=self.label_smoothing,
            reduction=self.reduction,
        )

    def extra_repr(self) -> str:
        return f"tau={self.tau}, label_smoothing={self.label_smoothing}, reduction={self.reduction!r}"


# The general family -------------------------------------------------------------------------------------------------


def phi(u: Tensor, tau: float) -> Tensor:
    """Phi_tau(u) = ((1 + u)^(1 - tau) - 1) / (1 - tau), log(1 + u) at tau = 1: concave and increasing on u >= 0.

    Args:
        u: at least 0.
        tau: at least 0.

    Source: Mao et al. 2023, section 2.
    """
    log = torch.log1p(u)
    return log if tau == 1 else torch.expm1((1 - tau) * log) / (1 - tau)


def composed_sum_loss(
    logits: Tensor, target: Tensor, outer: Callable[[Tensor], Tensor], inner: Callable[[Tensor], Tensor]
) -> Tensor:
    """Phi1(sum_{k != y} Phi2(h_y - h_k)), which is l_tau for Phi1 = `phi` and Phi2(u) = e^-u (but overflows).

    Args:
        logits: h, [batch, classes].
        target: classes [batch].
        outer: Phi1, on a sum a sample.
        inner: Phi2, on margins.

    Returns:
        one value a sample [batch].

    Raises:
        ValueError: shapes or classes do not fit.

    Source: Mao et al. 2023, section 2.
    """
    _check_shapes(logits, target, None)
    if logits.ndim != 2 or target.is_floating_point():
        raise ValueError(f"logits must have shape [batch, classes] with classes as target, got {list(logits.shape)}")
    target = target.long()
    if not _traced() and logits.device.type == "cpu":
        _counted(target, logits.shape[1], int(target[0]) if len(target) else 0, look=True)
    h = logits.to(torch.promote_types(logits.dtype, torch.float32))
    margins = h.gather(1, target[:, None]) - h
    others = torch.ones_like(margins, dtype=torch.bool).scatter(1, target[:, None], False)
    return outer(torch.where(others, inner(margins), 0).sum(1))


def comp_sum_margin_loss(logits: Tensor, target: Tensor, tau: float = 1.0, *, rho: float = 1.0) -> Tensor:
    """Phi_tau(sum_{k != y} Phi_rho(h_y - h_k)), Phi_rho(u) = min(max(0, 1 - u / rho), 1): what the adversarial comp-sum
    rho-margin loss is at one point x'; its supremum over x' is the loss.

    Args:
        logits: h, [batch, classes].
        target: classes [batch].
        tau: at least 0.
        rho: margin, positive.

    Returns:
        one value a sample [batch].

    Raises:
        ValueError: a setting is out of range, or shapes or classes do not fit.

    Source: Mao et al. 2023, section 5.
    """
    _check_settings(tau, 0.0, "none")
    if not 0 < rho < math.inf:
        raise ValueError(f"rho must be positive and finite, got {rho}")
    return composed_sum_loss(logits, target, lambda u: phi(u, tau), lambda u: (1 - u / rho).clamp(0, 1))
