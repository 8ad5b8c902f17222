"""Adversarial training as a method of a run: the baselines that other ways of it are held against.

cross-entropy   L = CE(h(x'), y), x' making it large (Madry et al., 2018)
trades          L = CE(h(x), y) + beta KL(h(x) || h(x')), x' making the second term large (Zhang et al., 2019)
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from assay.data.adversarial import PGD
from assay.engine import Batch, Method, Recipe, Task
from assay.errors import AssayError, CannotTreat, UnknownName
from assay.losses.trades import divergence

if TYPE_CHECKING:
    from assay.engine import Run


@dataclass
class AdversarialTraining(Method):
    """Each batch is attacked, in eval mode, and the loss is one of the attacked batch; evaluation is ordinary.

    Args:
        loss: `trades` or `cross-entropy`.
        beta: weight of the divergence in TRADES.
        epsilon: radius of the attack, in pixels of [0, 1].
        steps: of the attack.
        step_size: likewise in pixels; 2.5 epsilon / steps by default.
        norm: `linf` or `l2`.

    Raises:
        AssayError: a setting is out of range.
    """

    name: ClassVar[str] = "adversarial-training"
    requires: ClassVar[frozenset[str]] = frozenset({"classification", "images"})
    needs: ClassVar[frozenset[str]] = frozenset({"loss"})

    loss: Literal["trades", "cross-entropy"] = "trades"
    beta: float = 6.0
    epsilon: float = 8 / 255
    steps: int = 10
    step_size: float | None = None
    norm: Literal["linf", "l2"] = "linf"

    def __post_init__(self) -> None:
        if self.loss not in ("trades", "cross-entropy"):
            raise UnknownName("loss", self.loss, ("trades", "cross-entropy"))
        if not self.beta >= 0:
            raise AssayError(f"beta must be at least 0, got {self.beta:g}")
        attack_for(None, self.epsilon, self.steps, self.step_size, self.norm)

    def settings(self) -> dict[str, Any]:
        """Those that the loss has a use for."""
        unused = set() if self.loss == "trades" else {"beta"}
        return {name: value for name, value in super().settings().items() if name not in unused}

    def check(self, task: Task, recipe: Recipe) -> None:
        super().check(task, recipe)
        check_attackable(self, task, recipe)

    def setup(self, run: "Run") -> None:
        start: Literal["gaussian", "uniform"] = "gaussian" if self.loss == "trades" else "uniform"
        self._attack = attack_for(run.task, self.epsilon, self.steps, self.step_size, self.norm, start)
        self._chance = run.generator(self.name)

    def objective(self, run: "Run", batch: Batch, proceed: Callable[[Batch], Tensor]) -> Tensor:
        x, y = batch.x, classes_of(self, run, batch)
        model = run.forward_module
        if self.loss == "cross-entropy":
            moved = self._attack(model, x, lambda h: F.cross_entropy(h, y, reduction="none"), self._chance)
            return run.loss(run.forward(moved), y)
        with self._attack.in_mode(model), torch.no_grad():
            target = model(x)
        moved = self._attack(model, x, lambda h: divergence(target, h), self._chance)
        clean = run.forward(x)
        return run.loss(clean, y) + self.beta * divergence(clean, run.forward(moved)).mean()


def attack_for(
    task: Task | None,
    epsilon: float,
    steps: int,
    step_size: float | None,
    norm: Literal["linf", "l2"],
    start: Literal["gaussian", "uniform"] = "gaussian",
) -> PGD:
    """The attack on inputs as `task` normalises them, in eval mode.

    Raises:
        AssayError: a setting is out of range.
    """
    mean, std = task.pixels if task is not None and task.pixels is not None else ((0.0,), (1.0,))
    try:
        return PGD(epsilon, steps, step_size, norm, start=start, mean=mean, std=std)
    except ValueError as error:
        raise AssayError(str(error)) from error


def check_attackable(method: Method, task: Task, recipe: Recipe) -> None:
    """Refuse a task whose inputs cannot be attacked, and methods whose loss would be passed over.

    Raises:
        CannotTreat: either is so.
    """
    if task.pixels is None:
        raise CannotTreat(
            f"method {method.name!r} cannot treat task {task.name!r}: it attacks pictures, and the task does not say "
            "what its pixels are (Task.pixels)"
        )
    others = [m.name for m in recipe.methods if m.name != method.name and type(m).objective is not Method.objective]
    if others:
        raise CannotTreat(f"method {method.name!r} cannot be combined with {others[0]!r}: each is the loss of a step")


def classes_of(method: Method, run: "Run", batch: Batch) -> Tensor:
    """The targets of a batch.

    Raises:
        CannotTreat: they are not classes.
    """
    if not isinstance(batch.y, Tensor) or batch.y.is_floating_point():
        raise CannotTreat(f"method {method.name!r} cannot treat task {run.task.name!r}: its targets must be classes")
    return batch.y
