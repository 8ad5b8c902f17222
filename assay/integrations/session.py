"""Methods in a loop that is not the engine's: what they act on, and their hooks in the engine's order."""

import warnings
from collections.abc import Callable, Iterable
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from assay.engine import Batch, Method, Recipe, Task, chance
from assay.engine.arithmetic import Arithmetic
from assay.engine.carrier import Carrier, Setup
from assay.engine.task import to_device
from assay.errors import AssayError, CannotTreat
from assay.integrations import batches

ABSENT = frozenset({"splits", "stream", "evaluate", "budget", "seconds", "flops"})
_COUNTERS = ("steps", "samples", "_epochs_ended", "extras", "series")
_RECIPE = frozenset(f.name for f in fields(Recipe))


class Session(Carrier):
    """A network that methods treat while any loop trains it: for hooks it is the `run`, as far as a loop has one.

        session = Session(model, [LabelSmoothing()], F.cross_entropy, Recipe(lr=0.05), traits={"classification"})
        session.begin(total_steps=100)
        for x, y in loader:
            loss = session.step((x, y))
        session.finish()
        session.model.eval()

    Either the session makes optimizer and schedule, by `recipe`, or the loop has its own and gives it to `begin`; then
    methods that ask for the recipe or make an optimizer are refused. Draws come from generators of `seed`; what layers
    draw (dropout) comes from torch's global generator, which the loop seeds. Samples without ids are numbered as they
    come, so that none equals another.

    Args:
        model: the network; after this, and again after `finish`, take `session.model`.
        methods: in force in this order; each is copied.
        loss: `(outputs, targets, reduction="mean")`, such as `F.cross_entropy`.
        recipe: optimizer, rate, schedule, precision and clipping; its methods are those of `methods`.
        traits: what the data and the loss are, as in `Task.traits`.
        seed: of the methods' draws; equal seeds give the draws of a `Run` of that seed.
        objective: `(session, batch)` to the scalar loss; by default `session.loss` of the network's outputs.
        ids: batches come with ids, of which equal ones mean equal samples.
        arithmetic: how to go backward and step; by default as the recipe's precision wants it.
        host: what error messages call the loop.

    Raises:
        CannotTreat: a method cannot be carried; the message names it and says why.
    """

    def __init__(
        self,
        model: nn.Module,
        methods: Iterable[Method],
        loss: Callable[..., Tensor] | None = None,
        recipe: Recipe | None = None,
        *,
        traits: Iterable[str] = (),
        seed: int = 0,
        objective: Callable[[Any, Batch], Tensor] | None = None,
        ids: bool = False,
        arithmetic: Arithmetic | None = None,
        host: str = "this loop",
    ) -> None:
        methods = list(methods)
        if loss is None and objective is None:
            raise AssayError("give loss, such as F.cross_entropy, or an objective")
        if recipe is not None and recipe.methods:
            raise AssayError("recipe.methods must be empty here; give them as methods")
        self.host, self.seed, self._plain_loss, self._loss = host, seed, loss, loss
        self._given, self.clip_norm = recipe, recipe.clip_norm if recipe is not None else 0.0
        self._acting = ", ".join(method.name for method in methods)
        self.recipe = recipe if recipe is not None else _NoRecipe(self._lacks)
        self.task = _Hosted(f"{type(model).__name__} in {host}", frozenset(traits), objective)
        absent = ABSENT | ({"loss"} if loss is None else set()) | (set() if ids else {"ids"})
        for method in methods:
            self._acting = method.name
            self._admit(method, absent)
        self.model, self.device = model.train(), _device(model)
        self.arithmetic = arithmetic or Arithmetic(recipe.precision if recipe else "32-true", self.device.type)
        self.total_steps: int | None = None
        self.steps_per_epoch: int | None = None
        self._epochs_ended = 0
        self._schedule: LRScheduler | None = None
        with chance.kept():
            self._set_up(methods, self._call)
        self._acting = ", ".join(method.name for method in methods)
        self.still = [module for module in self.model.modules() if not module.training]

    # What it refuses ----------------------------------------------------------------------------------------------

    def _admit(self, method: Method, absent: frozenset[str]) -> None:
        for need in sorted(method.needs & absent):
            raise self._lacks(need)
        missing = sorted(method.requires - self.task.traits)
        if missing:
            wants = ", ".join(map(repr, missing))
            raise CannotTreat(
                f"method {method.name!r} needs {' and '.join(missing)}: if you have, say traits={{{wants}}}"
            )
        method.check(self.task, self.recipe)

    def _call(self, setup: Setup) -> None:
        self._acting = setup.__self__.name  # type: ignore[attr-defined]
        before = self.make_optimizer, self.make_schedule
        setup(self._run)
        if self._given is None and (self.make_optimizer, self.make_schedule) != before:
            raise self._lacks("optimizer")

    def _lacks(self, what: str) -> CannotTreat:
        """That the method at work asks for what is not there."""
        instead = {
            "loss": "the loss, which is out of reach: give it as loss=",
            "ids": "the ids of samples: give batches that have them, and say ids=True",
            "splits": f"the data sets, which {self.host} keeps to itself",
            "recipe": f"the recipe, and {self.host} has none: give recipe=, by which the optimizer is made",
            "optimizer": f"to make the optimizer or its schedule, and {self.host} has its own: give recipe=",
            "total_steps": "the number of steps, which is not known: give total_steps",
            "steps_per_epoch": "epochs, whose length is not known: give steps_per_epoch",
        }
        wants = instead.get(what, f"run.{what}, which {self.host} does not have")
        return CannotTreat(f"method {self._acting!r} needs {wants}")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        raise self._lacks(name)

    @property
    def splits(self) -> Any:
        """The data, which a loop does not show."""
        raise self._lacks("splits")

    @splits.setter
    def splits(self, value: Any) -> None:
        raise self._lacks("splits")

    @property
    def loss(self) -> Callable[..., Tensor]:
        """The loss as the methods have made it; `plain_loss` is what it was."""
        if self._loss is None:
            raise self._lacks("loss")
        return self._loss

    @loss.setter
    def loss(self, value: Callable[..., Tensor]) -> None:
        if self._loss is None:
            raise self._lacks("loss")
        self._loss = value

    # What methods find here ---------------------------------------------------------------------------------------

    def seed_for(self, purpose: str) -> int:
        """The seed of one source of chance."""
        return chance.seed_of(purpose, self.seed)

    def recount(self) -> None:
        """Say that a step's FLOPs have changed: nothing to do where nobody counts them."""

    @property
    def epochs(self) -> float:
        """Passes over the data so far."""
        if self.steps_per_epoch is None:
            raise self._lacks("steps_per_epoch")
        return self.steps / self.steps_per_epoch

    @property
    def progress(self) -> float:
        """Share of the steps that are done, in [0, 1]."""
        if self.total_steps is None:
            raise self._lacks("total_steps")
        return min(self.steps / self.total_steps, 1.0)

    # What the loop calls ------------------------------------------------------------------------------------------

    def trained(self) -> list[nn.Parameter]:
        """The parameters that an optimizer is to have."""
        return [p for p in self.model.parameters() if p.requires_grad]

    def begin(
        self,
        *,
        total_steps: int | None = None,
        steps_per_epoch: int | None = None,
        optimizer: Optimizer | None = None,
        schedule: LRScheduler | None = None,
    ) -> None:
        """Make the optimizer, or take the loop's own; to be called before the first step, the network on its device.

        Args:
            total_steps: how many there will be; not needed without a recipe unless a method asks for it.
            steps_per_epoch: needed if a method acts at the end of epochs.
            optimizer: the loop's own, where there is no recipe.
            schedule: of `optimizer`, stepped after each step.

        Raises:
            CannotTreat: a method needs a length that is not given.
            AssayError: there are two optimizers or none.
        """
        if (self._given is None) == (optimizer is None):
            raise AssayError("give either a recipe to the session or an optimizer to begin(), not both")
        self.start(total_steps, steps_per_epoch)
        if optimizer is None:
            if total_steps is None:
                raise AssayError("give total_steps: the number of steps that the recipe's schedule is spread over")
            optimizer = self.make_optimizer(self.trained())
            schedule = self.make_schedule(optimizer, total_steps)
        self.optimizers, self._schedule = {"main": optimizer}, schedule

    def start(self, total_steps: int | None, steps_per_epoch: int | None) -> None:
        """Take note of the loop's lengths, and of the device that the network is on by now."""
        self.total_steps, self.steps_per_epoch, self.device = total_steps, steps_per_epoch, _device(self.model)
        if steps_per_epoch is None and self._on_epoch:
            self._acting = ", ".join(method.name for method in self._overriding("epoch"))
            raise self._lacks("steps_per_epoch")

    def step(self, raw: Any) -> Tensor:
        """One whole training step on a batch: `(x, y)`, `(x, y, ids)`, or a dictionary with `labels`.

        Returns:
            the loss, a scalar.
        """
        loss = self.around(self.taken(raw)[0])
        if self._schedule is not None:
            self._schedule.step()
        return loss

    def taken(self, raw: Any, target: str = "labels") -> tuple[Batch, Callable[[Batch], Any]]:
        """A loop's batch after the `batch` hooks, and what puts it back into the loop's form."""
        batch, back = batches.read(raw, self.samples, target)
        self.samples += len(batch.ids)
        return self._treated(to_device(batch, self.device)), back

    def around(self, batch: Batch) -> Tensor:
        """Forward, backward and update, with all hooks between and around them."""
        loss = self._step(batch).detach()
        self._count()
        return loss

    def gradients(self) -> None:
        """Call the hooks between backward and update, in a loop that does these by itself."""
        for on_gradients in self._on_gradients:
            on_gradients(self._run)

    def updated(self) -> None:
        """Call the hooks after an update, in a loop that does these by itself."""
        if self._on_updated:  # which find no gradients, as in a run
            self.optimizer.zero_grad()
        for on_updated in self._on_updated:
            on_updated(self._run)
        self._count()

    def _count(self) -> None:
        self.steps += 1
        while self._on_epoch and self._epochs_ended + 1 <= self.epochs:
            self._epochs_ended += 1
            for on_epoch in self._on_epoch:
                on_epoch(self._run)

    def finish(self) -> None:
        """Say that training is over; the network to judge and to keep is then `session.model`."""
        for method in self._overriding("finish"):
            before = self.evaluation_batch_size
            method.finish(self._run)
            if (wants := self.evaluation_batch_size) != before:
                said = f"method {method.name!r} is to be judged {wants} examples at a time: give your loader that size"
                warnings.warn(said, stacklevel=2)
        self._wire()

    @property
    def plain_loss(self) -> Callable[..., Tensor] | None:
        """The loss as it was given, by which to judge."""
        return self._plain_loss

    def overriding(self, *hooks: str) -> list[str]:
        """The names of the methods that have one of these hooks."""
        return [method.name for hook in hooks for method in self._overriding(hook)]

    def state_dict(self) -> dict[str, Any]:
        """What the methods need to go on, beside the network's, the optimizer's and the loop's own state."""
        return {
            "names": [method.name for method in self.methods],
            "methods": [method.state_dict() for method in self.methods],
            "generators": {name: generator.get_state() for name, generator in self._generators.items()},
            "counters": {name: getattr(self, name) for name in _COUNTERS},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what `state_dict` gave; before the network's own state, whose shapes a method may have changed.

        Raises:
            AssayError: it is the state of other methods.
        """
        if state["names"] != (own := [method.name for method in self.methods]):
            told = [", ".join(names) or "none" for names in (state["names"], own)]
            raise AssayError(f"the state is of other methods: {told[0]}; here are {told[1]}")
        for method, saved in zip(self.methods, state["methods"], strict=True):
            method.load_state_dict(saved)
        for name, saved in state["generators"].items():
            self.generator(name).set_state(saved)
        for name, value in state["counters"].items():
            setattr(self, name, value)


class _Hosted(Task):
    """The little that methods see of a task where a loop has none."""

    def __init__(self, name: str, traits: frozenset[str], objective: Callable[[Any, Batch], Tensor] | None) -> None:
        self.name, self.traits = name, traits  # type: ignore[misc]
        self._objective, self.divisible = objective, objective is None

    def objective(self, run: Any, batch: Batch) -> Tensor:
        return self._objective(run, batch) if self._objective is not None else super().objective(run, batch)


class _NoRecipe(Recipe):
    """Stands where a recipe would, and tells who asks for it."""

    def __init__(self, lacks: Callable[[str], CannotTreat]) -> None:
        object.__setattr__(self, "_lacks", lacks)

    def __getattribute__(self, name: str) -> Any:
        if name in _RECIPE:
            raise object.__getattribute__(self, "_lacks")("recipe")
        return object.__getattribute__(self, name)


def _device(model: nn.Module) -> torch.device:
    return next((p.device for p in model.parameters()), torch.device("cpu"))
