"""AGVM as a method of a run, and constant learning rates by module to hold it against."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils._pytree import tree_map_only

from assay.engine import Batch, Method, Recipe, Task
from assay.engine.devices import part
from assay.errors import AssayError, CannotTreat
from assay.optim import agvm
from assay.optim.agvm import split_groups

if TYPE_CHECKING:
    from assay.engine import Run


@dataclass
class AGVM(Method):
    """The learning rates of the network's modules follow their gradient variances, whatever the optimizer.

    Every `interval` steps the batch goes through in two halves, each normalised by itself; on several devices the
    halves are those of the devices. A method that puts another optimizer in place comes before this one. The last
    factors and variances are logged, by module.

    Args:
        modules: dotted names joined by `+`, the anchor first, such as `backbone+neck+head`; by default the network's
            children.
        alpha: weight of the past in the average of the factors, in [0, 1].
        interval: steps between measurements, from 1.
        start: share of the budget, in [0, 1], before which the rates are the recipe's alone: its warm-up, say.

    Raises:
        AssayError: a setting is out of range.
    """

    name: ClassVar[str] = "agvm"
    strategies: ClassVar[frozenset[str]] = frozenset({"ddp"})

    modules: str = ""
    alpha: float = 0.97
    interval: int = 10
    start: float = 0.0

    def __post_init__(self) -> None:
        for name in ("alpha", "start"):
            if not 0 <= getattr(self, name) <= 1:
                raise AssayError(f"{name} must lie in [0, 1], got {getattr(self, name):g}")
        if self.interval < 1:
            raise AssayError(f"interval must be at least 1, got {self.interval}")

    def check(self, task: Task, recipe: Recipe) -> None:
        super().check(task, recipe)
        cannot = f"method 'agvm' cannot treat task {task.name!r}: "
        if type(task).step is not Task.step:
            raise CannotTreat(cannot + "it divides batches, and the task has a training step of its own")
        if type(task).objective is not Task.objective and not task.divisible:
            raise CannotTreat(
                cannot
                + "it divides batches, and the task has an objective of its own; if that is a mean over samples, "
                "say divisible = True in the task"
            )
        if recipe.batch_size < 2:
            raise CannotTreat(
                f"method 'agvm' divides batches, which needs batch_size 2 or more, got {recipe.batch_size}"
            )
        if recipe.precision == "16-mixed":
            raise CannotTreat("method 'agvm' cannot be used with precision 16-mixed; give bf16-mixed")
        others = [m.name for m in recipe.methods if m.name != self.name and type(m).step is not Method.step]
        if others:
            raise CannotTreat(
                f"method 'agvm' cannot be combined with {others[0]!r}: each has a training step of its own"
            )

    def check_devices(self, recipe: Recipe, devices: int, strategy: str) -> None:
        super().check_devices(recipe, devices, strategy)
        if recipe.batch_size % devices:
            raise CannotTreat(
                f"method 'agvm' would not be on {devices} devices what it is on one: their parts of a batch of "
                f"{recipe.batch_size} are its halves, so that it must be a multiple of {devices}"
            )

    def setup(self, run: "Run") -> None:
        self._joined = False
        make = run.make_optimizer

        def optimizer(parameters: Any) -> Optimizer:
            made = by_module(make(parameters), run, self.name, self.modules)
            self._agvm = agvm.AGVM(made, alpha=self.alpha, interval=self.interval, start_step=sys.maxsize)
            return made

        run.make_optimizer = optimizer

    def step(self, run: "Run", batch: Batch, proceed: Callable[[Batch], Tensor]) -> Tensor:
        if not hasattr(self, "_agvm"):
            raise CannotTreat("method 'agvm' must come after the one that puts another optimizer in place")
        modulator: agvm.AGVM = self._agvm
        if modulator.start_step == sys.maxsize and (not self.start or run.progress >= self.start):
            modulator.start_step = modulator.steps
        if run.strategy is not None:
            if not self._joined:
                run.forward_module.register_comm_hook(None, modulator.split_ranks)  # type: ignore[operator]
                self._joined = True
            return proceed(batch)
        if not modulator.due:
            return proceed(batch)
        loss = torch.zeros((), device=run.device)
        for half in (0, 1):
            piece: Batch = tree_map_only(Tensor, itemgetter(part(len(batch.ids), half, 2)), batch)
            share = len(piece.ids) / len(batch.ids)
            of_half = run.objective(piece) * share
            run.backward(of_half)
            modulator.split(share)
            loss = loss + of_half.detach()
        run.update()
        return loss

    def gradients(self, run: "Run") -> None:
        self._agvm.measure()

    def finish(self, run: "Run") -> None:
        for kind, values in (("factor", self._agvm.factors), ("variance", self._agvm.variances)):
            for module, value in values.items():
                run.log(f"agvm/{kind} of {module}", value)

    def state_dict(self) -> dict[str, Any]:
        return {"start_step": self._agvm.start_step, "agvm": self._agvm.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._agvm.start_step = state["start_step"]
        self._agvm.load_state_dict(state["agvm"])


@dataclass
class ModuleRates(Method):
    """Each module's learning rate is the recipe's times a constant: what of AGVM is not a matter of variances.

    Args:
        factors: one a module, the anchor's first; positive.
        modules: as in `AGVM`.

    Raises:
        AssayError: a factor is not positive.
    """

    name: ClassVar[str] = "module-rates"

    factors: tuple[float, ...]
    modules: str = ""

    def __post_init__(self) -> None:
        if not all(factor > 0 for factor in self.factors):
            raise AssayError(f"factors must be positive, got {self.factors}")

    def setup(self, run: "Run") -> None:
        make = run.make_optimizer

        def optimizer(parameters: Any) -> Optimizer:
            made = by_module(make(parameters), run, self.name, self.modules)
            names = list(dict.fromkeys(group["module"] for group in made.param_groups))
            if len(names) != len(self.factors):
                raise CannotTreat(
                    f"factors must be {len(names)}, one for each of {', '.join(names)}, got {self.factors}"
                )
            for group in made.param_groups:
                group["lr"] = group["lr"] * self.factors[names.index(group["module"])]
            return made

        run.make_optimizer = optimizer


def by_module(optimizer: Optimizer, run: "Run", method: str, modules: str) -> Optimizer:
    """A fresh optimizer with its groups divided by module.

    Raises:
        CannotTreat: the network has no such modules.
    """
    try:
        optimizer.param_groups[:] = split_groups(
            optimizer.param_groups, run.model, modules.split("+") if modules else None
        )
    except ValueError as error:
        raise CannotTreat(f"method {method!r} cannot treat task {run.task.name!r}: {error}") from error
    return optimizer
