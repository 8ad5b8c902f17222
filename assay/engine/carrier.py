"""What carries methods: a network with its surroundings, and the hooks, called in the recipe's order."""

import copy
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, SupportsFloat, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from assay.engine import chance
from assay.engine.arithmetic import Arithmetic
from assay.engine.method import Method
from assay.engine.recipe import Recipe, make_optimizer, make_schedule
from assay.engine.task import Batch, Task

if TYPE_CHECKING:
    from assay.engine.run import Run

Setup = Callable[["Run"], None]


class Carrier:
    """The part of a run that a loop of any make can have. A subclass sets `task`, `recipe`, `clip_norm`, `device`,
    `arithmetic`, `model` and `loss`, calls `_set_up`, and makes the `optimizers`."""

    task: Task
    recipe: Recipe
    clip_norm: float
    device: torch.device
    arithmetic: Arithmetic
    strategy: str | None = None  # by which several devices share the run
    model: nn.Module
    loss: Callable[..., Tensor]
    optimizers: dict[str, Optimizer]

    def seed_for(self, purpose: str) -> int:
        """The seed of one source of chance."""
        raise NotImplementedError

    def generator(self, name: str) -> torch.Generator:
        """A method's own stream of chance, on the CPU: equal in all arms of a seed, and resumed exactly."""
        if name not in self._generators:
            self._generators[name] = torch.Generator().manual_seed(self.seed_for(f"generator:{name}"))
        return self._generators[name]

    # Building -----------------------------------------------------------------------------------------------------

    def _set_up(self, methods: Iterable[Method], call: Callable[[Setup], None]) -> None:
        """Copy the methods, let each set up by way of `call`, and put all hooks in their order."""
        self.methods: list[Method] = copy.deepcopy(list(methods))
        self.steps, self.samples = 0, 0
        self.extras: dict[str, float] = {}
        self.series: dict[str, list[list[float]]] = {}
        self.updating = "main"
        self.evaluation_batch_size = 500
        self._generators: dict[str, torch.Generator] = {}
        self.make_optimizer: Callable[[Any], Optimizer] = lambda parameters: make_optimizer(self.recipe, parameters)
        self.make_schedule: Callable[[Optimizer, int], LRScheduler | None] = lambda optimizer, total: make_schedule(
            self.recipe, optimizer, total
        )
        for method in self._overriding("setup"):  # each method's own draws, so that one does not shift the next one's
            chance.seed_all(self.seed_for(f"setup:{method.name}"))
            call(method.setup)
        self._wire()
        self._on_batch = [m.batch for m in self._overriding("batch")]
        self._on_gradients = [m.gradients for m in self._overriding("gradients")]
        self._on_updated = [m.updated for m in self._overriding("updated")]
        self._on_epoch = [m.epoch for m in self._overriding("epoch")]
        self._on_evaluation = [m.evaluation for m in self._overriding("evaluation")]
        self._step = self._around("step", self.task.step)
        self.objective = self._around("objective", self.task.objective)

    def _wire(self) -> None:
        self.model.to(self.device)
        self.forward_module: nn.Module = self.arithmetic.wrap(self.model)
        self.forward: Callable[..., Any] = self.forward_module

    @property
    def _run(self) -> "Run":
        """What the hooks are given: this, in the words of their signatures."""
        return cast("Run", self)

    def _overriding(self, hook: str) -> list[Method]:
        return [m for m in self.methods if getattr(type(m), hook) is not getattr(Method, hook)]

    def _around(self, hook: str, inner: Callable[["Run", Batch], Tensor]) -> Callable[[Batch], Tensor]:
        proceed: Callable[[Batch], Tensor] = partial(inner, self._run)
        for method in reversed(self._overriding(hook)):  # the first method of the recipe is the outermost
            proceed = _wrap(getattr(method, hook), self._run, proceed)
        return proceed

    # What a task's step calls -------------------------------------------------------------------------------------

    @property
    def optimizer(self) -> Optimizer:
        """The only optimizer; a task of several names them in `optimizers`."""
        (only,) = self.optimizers.values()
        return only

    def backward(self, loss: Tensor, name: str | None = None) -> None:
        """Add the gradients of `loss`, where `name` is given to the parameters of that optimizer alone."""
        self.arithmetic.backward(loss, _parameters(self.optimizers[name]) if name is not None else None)

    def update(self, name: str = "main") -> None:
        """Step the optimizer `name` on the gradients that are there, and clear them."""
        self.updating, optimizer = name, self.optimizers[name]
        self.arithmetic.unscale(optimizer)
        for on_gradients in self._on_gradients:
            on_gradients(self._run)
        if self.clip_norm:
            nn.utils.clip_grad_norm_(_parameters(optimizer), self.clip_norm)
        self.arithmetic.step(optimizer)
        optimizer.zero_grad()
        for on_updated in self._on_updated:
            on_updated(self._run)

    def log(self, name: str, value: SupportsFloat) -> None:
        """Keep a figure of a method's own in the record."""
        self.extras[name] = float(value)

    def trace(self, name: str, value: SupportsFloat) -> None:
        """Keep the course of a figure of a method's own in the record: it is `value` from this step on. A value that
        does not change takes no room."""
        course, number = self.series.setdefault(name, []), float(value)
        if not course or course[-1][1] != number:
            course.append([float(self.steps), number])

    # What a loop calls --------------------------------------------------------------------------------------------

    def _advance(self, batch: Batch) -> Tensor:
        return self._step(self._treated(batch))

    def _treated(self, batch: Batch) -> Batch:
        for on_batch in self._on_batch:
            batch = on_batch(self._run, batch)
        return batch

    def begin_evaluation(self) -> None:
        """Say that the examples evaluated next have nothing to do with those before them."""
        for on_evaluation in self._on_evaluation:
            on_evaluation(self._run)


def _parameters(optimizer: Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def _wrap(
    hook: Callable[["Run", Batch, Callable[[Batch], Tensor]], Tensor], run: "Run", proceed: Callable[[Batch], Tensor]
) -> Callable[[Batch], Tensor]:
    return lambda batch: hook(run, batch, proceed)
