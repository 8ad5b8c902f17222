"""Smooth adversarial comp-sum loss: a comp-sum loss of scaled scores, and how far an adversary can move the margins.

    L = l_tau(h(x) / rho, y) + nu sup_{x'} || Delta(x', y) - Delta(x, y) ||_2
    Delta(x, y) = (h(x, y) - h(x, k))_{k != y}

For nu >= sqrt(n - 1) / rho it bounds the adversarial comp-sum rho-margin loss from above (`margin_bound_nu`); training
works best with far less, so that rho and nu are to be tuned. With tau = 1 it is the objective of Adv-comp-sum.

Source: Mao, Mohri, Zhong, "Cross-Entropy Loss Functions: Theoretical Analysis and Applications" (ICML 2023), section 5.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from assay.data.adversarial import PGD
from assay.losses.comp_sum import comp_sum_loss
from assay.losses.reduction import check_reduction, reduced

TINY = 1e-12  # under the root, whose slope is infinite at 0


def margin_shift(
    clean: Float[Tensor, "batch classes"], adversarial: Float[Tensor, "batch classes"], target: Int[Tensor, " batch"]
) -> Float[Tensor, " batch"]:
    """|| Delta(x', y) - Delta(x, y) ||_2^2: the objective of the adversary, which has the supremum's maximiser and a
    gradient wherever x' is not x.

    Args:
        clean: h(x).
        adversarial: h(x').
        target: y.

    Returns:
        one value a sample, in float32 at least.

    Raises:
        ValueError: shapes differ, or the target is not of classes.
    """
    if clean.shape != adversarial.shape:
        raise ValueError(
            f"adversarial must have the shape of clean, {list(clean.shape)}, got {list(adversarial.shape)}"
        )
    if target.is_floating_point() or target.shape != clean.shape[:1]:
        raise ValueError(f"target must hold classes [{len(clean)}], got {target.dtype} of shape {list(target.shape)}")
    wide = torch.promote_types(clean.dtype, torch.float32)
    moved = adversarial.to(wide) - clean.to(wide)
    return (moved.gather(1, target.long()[:, None]) - moved).square().sum(1)  # 0 at k = y


def margin_shift_norm(
    clean: Float[Tensor, "batch classes"], adversarial: Float[Tensor, "batch classes"], target: Int[Tensor, " batch"]
) -> Float[Tensor, " batch"]:
    """|| Delta(x', y) - Delta(x, y) ||_2, with 1e-12 under the root for its gradient; see `margin_shift`."""
    return (margin_shift(clean, adversarial, target) + TINY).sqrt()


def smooth_adversarial_loss(
    clean: Float[Tensor, "batch classes"],
    adversarial: Float[Tensor, "batch classes"],
    target: Int[Tensor, " batch"],
    *,
    tau: float = 1.0,
    rho: float = 1.0,
    nu: float = 1.0,
    reduction: str = "mean",
) -> Float[Tensor, "..."]:
    """The loss at scores that are at hand, x' being the adversary's answer; the gradient goes through both.

    Args:
        clean: h(x).
        adversarial: h(x').
        target: y.
        tau: of the comp-sum loss, at least 0.
        rho: margin, positive: the scores' temperature.
        nu: weight of the adversarial term, at least 0.
        reduction: `mean`, `sum` or `none`.

    Returns:
        a scalar or one value a sample, in float32 at least.

    Raises:
        ValueError: a setting is out of range, or shapes or classes do not fit.

    Source: Mao et al. 2023, section 5; the square root of a sum plus 1e-12, for its gradient, is ours.
    """
    _check(rho, nu, reduction)
    smooth = comp_sum_loss(clean.to(torch.promote_types(clean.dtype, torch.float32)) / rho, target, tau,
                           reduction="none")  # fmt: skip
    loss = smooth + nu * margin_shift_norm(clean, adversarial, target) if nu else smooth
    return reduced(loss, reduction)


def margin_bound_nu(num_classes: int, rho: float) -> float:
    """sqrt(n - 1) / rho, the least nu for which the loss is above the adversarial rho-margin loss in any case.

    Source: Mao et al. 2023, section 5.
    """
    _check(rho, 0.0, "none")
    if num_classes < 1:
        raise ValueError(f"num_classes must be positive, got {num_classes}")
    return math.sqrt(num_classes - 1) / rho


class SmoothAdversarialCompSumLoss(nn.Module):
    """The loss of a network at inputs, with the adversary inside: called `loss(model, x, y)`.

    The adversary makes `margin_shift` large, not the loss; then the network runs on x and on x', one after the other,
    so that batch normalisation sees each by itself, as in TRADES.

    Args:
        attack: the adversary; `start="zero"` would leave it without a gradient.
        tau, rho, nu, reduction: as `smooth_adversarial_loss` takes them.

    Raises:
        ValueError: a setting is out of range.

    Source: Mao et al. 2023, section 5; the inner maximisation as TRADES has it.
    """

    def __init__(
        self, attack: PGD, *, tau: float = 1.0, rho: float = 1.0, nu: float = 1.0, reduction: str = "mean"
    ) -> None:
        super().__init__()
        _check(rho, nu, reduction)
        if not 0 <= tau < math.inf:
            raise ValueError(f"tau must be at least 0 and finite, got {tau}")
        if attack.start == "zero":
            raise ValueError("attack must not start at zero: there the margins have not moved and have no gradient")
        self.attack, self.tau, self.rho, self.nu, self.reduction = attack, tau, rho, nu, reduction

    def forward(
        self, model: nn.Module, x: Tensor, y: Int[Tensor, " batch"], generator: torch.Generator | None = None
    ) -> Tensor:
        moved = shifted(self.attack, model, x, y, generator)
        return smooth_adversarial_loss(
            model(x), model(moved), y, tau=self.tau, rho=self.rho, nu=self.nu, reduction=self.reduction
        )

    def extra_repr(self) -> str:
        return f"tau={self.tau}, rho={self.rho}, nu={self.nu}, attack={self.attack}"


def shifted(
    attack: PGD, model: nn.Module, x: Tensor, y: Int[Tensor, " batch"], generator: torch.Generator | None = None
) -> Tensor:
    """The x' of the supremum, as far as `attack` finds it; detached.

    The margins that are to move are those of the network in the mode in which it is attacked.
    """
    with attack.in_mode(model), torch.no_grad():
        clean = model(x)
    return attack(model, x, lambda outputs: margin_shift(clean, outputs, y), generator)


def _check(rho: float, nu: float, reduction: str) -> None:
    if not 0 < rho < math.inf:
        raise ValueError(f"rho must be positive and finite, got {rho}")
    if not 0 <= nu < math.inf:
        raise ValueError(f"nu must be at least 0 and finite, got {nu}")
    check_reduction(reduction)
