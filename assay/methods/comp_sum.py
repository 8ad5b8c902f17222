"""Comp-sum losses as a method of a run, and Adv-comp-sum, its adversarial training."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor

from assay.engine import Batch, Method, Recipe, Task
from assay.errors import AssayError, CannotTreat
from assay.losses.comp_sum import comp_sum_loss
from assay.losses.smooth_adversarial import SmoothAdversarialCompSumLoss, margin_shift_norm, shifted
from assay.methods.adversarial_training import attack_for, check_attackable, classes_of

if TYPE_CHECKING:
    from assay.engine import Run


@dataclass
class CompSum(Method):
    """Train on l_tau in place of the cross-entropy; with an epsilon, on its smooth adversarial form. Evaluation is
    ordinary.

    Name it before methods that change the loss, such as label smoothing: these then act on it.

    Args:
        tau: at least 0; 1 is cross-entropy, 1 to 2 generalised cross-entropy, 2 the mean absolute error.
        epsilon: radius of the attack, in pixels of [0, 1]; 0 for none.
        rho: the adversarial form's margin, by which the scores are divided; it alone has this and what follows.
        nu: weight of what the adversary moves.
        steps: of the attack, in eval mode.
        step_size: likewise in pixels; 2.5 epsilon / steps by default.
        norm: `linf` or `l2`.

    Raises:
        AssayError: a setting is out of range.
    """

    name: ClassVar[str] = "comp-sum"
    requires: ClassVar[frozenset[str]] = frozenset({"classification"})
    needs: ClassVar[frozenset[str]] = frozenset({"loss"})

    tau: float = 1.0
    epsilon: float = 0.0
    rho: float = 1.0
    nu: float = 1.0
    steps: int = 10
    step_size: float | None = None
    norm: Literal["linf", "l2"] = "linf"

    def __post_init__(self) -> None:
        attack = attack_for(None, self.epsilon, self.steps, self.step_size, self.norm)
        try:
            SmoothAdversarialCompSumLoss(attack, tau=self.tau, rho=self.rho, nu=self.nu)
        except ValueError as error:
            raise AssayError(str(error)) from error

    def settings(self) -> dict[str, Any]:
        """Those that have a use."""
        return super().settings() if self.epsilon else {"tau": self.tau, "epsilon": self.epsilon}

    def check(self, task: Task, recipe: Recipe) -> None:
        super().check(task, recipe)
        if self.epsilon:
            check_attackable(self, task, recipe)

    def setup(self, run: "Run") -> None:
        if run.loss != run.task.loss:
            raise CannotTreat("method 'comp-sum' replaces the loss: name it before the methods that change the loss")
        run.loss = self._loss
        if self.epsilon:
            self._attack = attack_for(run.task, self.epsilon, self.steps, self.step_size, self.norm)
            self._chance = run.generator(self.name)

    def _loss(self, outputs: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
        return comp_sum_loss(outputs, targets, self.tau, reduction=reduction)

    def objective(self, run: "Run", batch: Batch, proceed: Callable[[Batch], Tensor]) -> Tensor:
        if not self.epsilon:
            return proceed(batch)
        x, y = batch.x, classes_of(self, run, batch)
        moved = shifted(self._attack, run.forward_module, x, y, self._chance)
        clean = run.forward(x)
        # smooth_adversarial_loss, with whatever later methods made of the comp-sum loss
        scaled = clean.to(torch.promote_types(clean.dtype, torch.float32)) / self.rho
        return run.loss(scaled, y) + self.nu * margin_shift_norm(clean, run.forward(moved), y).mean()
