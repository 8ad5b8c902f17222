"""A run: a task trained by a recipe from a seed, on Lightning Fabric, to one record."""

import copy
import hashlib
import math
import random
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.flop_counter import FlopCounterMode

from assay.engine import checkpoint
from assay.engine.budget import Budget
from assay.engine.method import Method
from assay.engine.recipe import Recipe, make_optimizer, make_schedule
from assay.engine.record import PeakMemory, Record, code_version, environment, run_key
from assay.engine.stream import Stream
from assay.engine.task import Batch, Evaluation, Splits, Task, to_device
from assay.errors import AssayError, Interrupted

WINDOW = 64  # steps between looks at the losses: each look is a synchronisation with the device
TICKS = 1000  # resolution of a schedule whose length in steps is not known beforehand


class Run:
    """(task, recipe, seed), executed by `train()`.

    Methods and tasks find here what they act on: `model` (the plain network), `forward` (call this one to compute),
    `loss`, `splits`, `stream`, `optimizers`, `schedules`, `recipe`, `device`, the counters `steps`, `samples`,
    `epochs`, `seconds`, `flops`, and `progress` in [0, 1].

    Args:
        task: what is trained.
        recipe: how; the task's own by default.
        seed: redraws what `vary` names; all else is drawn as by seed 0.
        budget: such as `"10epochs"`; the task's own by default.
        vary: among `init` (weights and the noise of training), `order` (of the data, and its augmentation), `split`.
        folder: where checkpoints live; none are written without it.
        checkpoint_every: seconds between checkpoints.
        evaluations: points of the learning curve, evenly spread over the budget.
        test: read the test split at the end (tuning runs do not).
        accelerator: as Fabric takes it: `cpu`, `cuda`, `auto`.
        watch: called with the run at most every `WINDOW` steps.

    Raises:
        AssayError: a method refuses the task, or the budget is impossible here.
    """

    def __init__(
        self,
        task: Task,
        recipe: Recipe | None = None,
        seed: int = 0,
        budget: Budget | str | None = None,
        *,
        vary: Iterable[str] = ("init", "order"),
        folder: Path | None = None,
        checkpoint_every: float = 30.0,
        evaluations: int = 10,
        test: bool = True,
        accelerator: str = "cpu",
        watch: Callable[["Run"], None] | None = None,
    ) -> None:
        self.task, self.recipe, self.seed = task, recipe or task.recipe, seed
        self.budget = Budget.parse(budget if budget is not None else task.budget)
        self.vary = tuple(sorted(set(vary)))
        if not set(self.vary) <= task.varies:
            cannot = ", ".join(sorted(set(self.vary) - task.varies))
            raise AssayError(f"task {task.name!r} cannot vary {cannot}; it can vary {', '.join(sorted(task.varies))}")
        self.folder, self.checkpoint_every, self.test, self.watch = folder, checkpoint_every, test, watch
        self.evaluations, self.accelerator = evaluations, accelerator
        self.methods: list[Method] = copy.deepcopy(list(self.recipe.methods))
        for method in self.methods:
            method.check(task, self.recipe)
        self.steps, self.samples, self.seconds, self.flops = 0, 0, 0.0, 0.0
        self.updating = "main"
        self.extras: dict[str, float] = {}
        self.make_optimizer: Callable[[Any], Optimizer] = lambda parameters: make_optimizer(self.recipe, parameters)
        self.make_schedule: Callable[[Optimizer, int], LRScheduler | None] = lambda optimizer, total: make_schedule(
            self.recipe, optimizer, total
        )
        self._curve: list[dict[str, float]] = []
        self._losses: list[Tensor] = []
        self._loss_sum, self._loss_count = 0.0, 0
        self._diverged_at: int | None = None
        self._flops_of: dict[str, float] = {}
        self._generators: dict[str, torch.Generator] = {}
        self._wall, self._peak = 0.0, 0
        self._ticked = 0
        self._epochs_ended = 0
        self._stop = False

    # Identity and chance ------------------------------------------------------------------------------------------

    def identity(self) -> dict[str, Any]:
        """All that the run's figures depend on, JSON-able."""
        return {
            "task": {"name": self.task.name, "settings": self.task.settings()},
            "recipe": self.recipe.describe(),
            "seed": self.seed,
            "vary": list(self.vary),
            "budget": str(self.budget),
            "evaluations": self.evaluations,
            "test": self.test,
            "accelerator": self.accelerator,
            "threads": torch.get_num_threads(),
            "code": code_version() | ({"task": self.task.source} if self.task.source else {}),
        }

    @property
    def key(self) -> str:
        """The run's content address."""
        return run_key(self.identity())

    def seed_for(self, purpose: str) -> int:
        """The seed of one source of chance: a function of the run's seed where it varies, else of 0."""
        source = {"augment": "order", "init": "init", "order": "order", "split": "split"}.get(purpose, "init")
        seed = self.seed if source in self.vary else 0
        return int.from_bytes(hashlib.sha256(f"{purpose}:{seed}".encode()).digest()[:7])

    def generator(self, name: str) -> torch.Generator:
        """A method's own stream of chance, on the CPU: equal in all arms of a seed, and resumed exactly."""
        if name not in self._generators:
            self._generators[name] = torch.Generator().manual_seed(self.seed_for(name))
        return self._generators[name]

    # Building -----------------------------------------------------------------------------------------------------

    def build(self) -> None:
        """Make data, network, optimizers and schedules; `train` does it where it has not been done."""
        from lightning_fabric import (
            Fabric,
        )  # seconds to import, and a process that leaves the runs to workers needs none

        self.fabric = Fabric(accelerator=self.accelerator, devices=1, precision=self.recipe.precision)  # type: ignore[arg-type]
        self.device = self.fabric.device
        self.splits: Splits = self.task.splits(self.seed_for("split"))
        _seed_all(self.seed_for("init"))
        self.model: nn.Module = self.task.model()
        self.loss: Callable[..., Tensor] = self.task.loss
        self.model.to(self.device)
        for method in self.methods:  # each method's own draws, so that one does not shift the next one's
            _seed_all(self.seed_for(f"setup:{method.name}"))
            method.setup(self)
        self.model.to(self.device)
        # Fabric's wrapper casts and synchronises; at full precision on one device there is nothing to do in it
        wrapped = self.fabric.setup_module(self.model, move_to_device=False)
        self.plain = self.recipe.precision == "32-true" and self.fabric.world_size == 1
        self.forward_module: nn.Module = self.model if self.plain else wrapped
        self.forward: Callable[..., Any] = self.forward_module
        made = {name: self.make_optimizer(ps) for name, ps in self.task.parameters(self.model).items()}
        self.optimizers: dict[str, Any] = (
            made if self.plain else {name: self.fabric.setup_optimizers(o) for name, o in made.items()}
        )
        self.stream: Stream = self.task.stream(self)
        self.total_steps = self._total_steps()
        ticks = self.total_steps or TICKS
        schedules = {name: self.make_schedule(optimizer, ticks) for name, optimizer in made.items()}
        self.schedules: dict[str, LRScheduler] = {name: s for name, s in schedules.items() if s is not None}
        self._on_batch = [m.batch for m in self._overriding("batch")]
        self._on_gradients = [m.gradients for m in self._overriding("gradients")]
        self._on_updated = [m.updated for m in self._overriding("updated")]
        self._on_epoch = [m.epoch for m in self._overriding("epoch")]
        self._step = self._around("step", self.task.step)
        self.objective = self._around("objective", self.task.objective)
        _seed_all(self.seed_for("noise"))

    def _overriding(self, hook: str) -> list[Method]:
        return [m for m in self.methods if getattr(type(m), hook) is not getattr(Method, hook)]

    def _around(self, hook: str, inner: Callable[["Run", Batch], Tensor]) -> Callable[[Batch], Tensor]:
        def innermost(batch: Batch) -> Tensor:
            return inner(self, batch)

        proceed: Callable[[Batch], Tensor] = innermost
        for method in reversed(self._overriding(hook)):  # the first method of the recipe is the outermost
            proceed = _wrap(getattr(method, hook), self, proceed)
        return proceed

    def _total_steps(self) -> int | None:
        """The run's length in steps where the budget fixes it."""
        per_epoch, amount = self.stream.steps_per_epoch, self.budget.amount
        if self.budget.unit == "epochs" and per_epoch is None:
            raise AssayError(
                f"task {self.task.name!r} has no epochs; give its budget in steps, samples, seconds or flops"
            )
        if self.budget.unit == "steps":
            return int(amount)
        if self.budget.unit == "epochs" and per_epoch is not None:
            return math.ceil(round(amount * per_epoch, 6))
        return None

    # What a task's step calls -------------------------------------------------------------------------------------

    @property
    def optimizer(self) -> Any:
        """The only optimizer; a task of several names them in `optimizers`."""
        (only,) = self.optimizers.values()
        return only

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of `loss`."""
        if self.plain:
            loss.backward()  # type: ignore[no-untyped-call]
        else:
            self.fabric.backward(loss)

    def update(self, name: str = "main") -> None:
        """Step the optimizer `name` on the gradients that are there, and clear them."""
        self.updating = name
        for on_gradients in self._on_gradients:
            on_gradients(self)
        optimizer = self.optimizers[name]
        if self.recipe.clip_norm:
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            torch.nn.utils.clip_grad_norm_(parameters, self.recipe.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        for on_updated in self._on_updated:
            on_updated(self)

    def log(self, name: str, value: float) -> None:
        """Keep a figure of a method's own in the record."""
        self.extras[name] = float(value)

    def recount(self) -> None:
        """Say that a step's FLOPs have changed though its batch has not (pruning, a growing network)."""
        self._flops_of.clear()

    # The loop -----------------------------------------------------------------------------------------------------

    @property
    def epochs(self) -> float:
        return self.stream.epoch if self.stream.steps_per_epoch is not None else 0.0

    @property
    def spent(self) -> float:
        """What has been spent of the budget, in its unit."""
        return float(getattr(self, self.budget.unit))

    @property
    def progress(self) -> float:
        if self.total_steps is not None:
            return min(self.steps / self.total_steps, 1.0)
        return min(self.spent / self.budget.amount, 1.0)

    def train(self) -> Record:
        """Run to the end of the budget, from the newest usable checkpoint if there is one.

        Returns:
            the record; a run whose loss stopped being finite is `diverged` in it.

        Raises:
            Interrupted: it was asked to stop (Ctrl-C, SIGTERM); a checkpoint was left if there is a folder.
        """
        with _chance_kept(), self._stoppable():
            began = time.perf_counter()
            memory = PeakMemory(torch.device("cpu" if self.accelerator == "cpu" else "cuda"))
            self.build()
            self._resume()
            earlier = self._wall
            try:
                self._loop(lambda: earlier + time.perf_counter() - began, memory)
            except (ArithmeticError, RuntimeError, ValueError):
                self._look()  # a step may choke on what a non-finite loss left behind: that is divergence, not a bug
                if self._diverged_at is None:
                    raise
            record = self._finish()
            record.wall_seconds = earlier + time.perf_counter() - began
            record.peak_memory = max(self._peak, memory.bytes())
        return record

    def _loop(self, wall: Callable[[], float], memory: PeakMemory) -> None:
        clock = time.perf_counter
        saved_at = clock()
        next_point = (len(self._curve) + 1) / max(self.evaluations, 1)
        self.model.train()
        done = self.steps >= self.total_steps if self.total_steps is not None else self.spent >= self.budget.amount
        while not done:
            started = clock()
            batch = to_device(self.stream.next(), self.device)
            for on_batch in self._on_batch:
                batch = on_batch(self, batch)
            loss = self._count(batch)
            self._losses.append(loss.detach())
            self.steps += 1
            self.samples += len(batch.ids)
            if self.schedules:
                self._tick()
            if self.device.type == "cuda" and (self.budget.unit == "seconds" or len(self._losses) == WINDOW):
                torch.cuda.synchronize(self.device)
            now = clock()
            self.seconds += now - started
            if self.stream.steps_per_epoch is not None and int(self.stream.epoch) > self._epochs_ended:
                self._epochs_ended = int(self.stream.epoch)
                for on_epoch in self._on_epoch:
                    on_epoch(self)
            done = self.steps >= self.total_steps if self.total_steps is not None else self.spent >= self.budget.amount
            if len(self._losses) >= WINDOW or done or self._stop:
                self._look()
                if self.watch is not None:
                    self.watch(self)
                if self._diverged_at is not None:
                    return
            if self.evaluations and self.progress >= next_point - 1e-9 and not done:
                self._look()
                self._point()
                next_point = (len(self._curve) + 1) / self.evaluations
            if self.folder is not None and (self._stop or now - saved_at >= self.checkpoint_every):
                self._wall, self._peak = wall(), max(self._peak, memory.bytes())
                checkpoint.save(self.folder, self.key, self.steps, self._state())
                saved_at = clock()
            if self._stop:
                where = f"; it continues from {self.folder}" if self.folder is not None else ""
                raise Interrupted(f"run stopped after {self.steps} steps{where}")

    def _count(self, batch: Batch) -> Tensor:
        """One step; its FLOPs are measured the first time a batch has this shape."""
        shape = str([tuple(x.shape) for x in batch if isinstance(x, Tensor)])
        if shape in self._flops_of:
            loss = self._step(batch)
        else:
            with FlopCounterMode(display=False) as counter:
                loss = self._step(batch)
            self._flops_of[shape] = float(counter.get_total_flops())
        self.flops += self._flops_of[shape]
        return loss

    def _tick(self) -> None:
        due = self.steps if self.total_steps is not None else int(self.progress * TICKS)
        while self._ticked < due:
            self._ticked += 1
            for schedule in self.schedules.values():
                schedule.step()

    def _look(self) -> None:
        """Read the losses of the steps since the last look; the first that is not finite ends the run."""
        if not self._losses:
            return
        values = torch.stack(self._losses).float().tolist()
        self._losses.clear()
        for i, value in enumerate(values):
            if not math.isfinite(value):
                self._diverged_at = self.steps - len(values) + i + 1
                return
            self._loss_sum += value
        self._loss_count += len(values)

    def _point(self) -> Evaluation:
        """A point of the learning curve."""
        found = self.evaluate(self.splits.valid)
        point = {name: float(getattr(self, name)) for name in ("steps", "epochs", "samples", "seconds", "flops")}
        if self._loss_count:
            point["train_loss"] = self._loss_sum / self._loss_count
        self._loss_sum, self._loss_count = 0.0, 0
        self._curve.append(point | {f"valid/{name}": value for name, value in found.metrics.items()})
        return found

    def evaluate(self, examples: Any) -> Evaluation:
        """Judge the model as it is now; training goes on as if nothing had happened."""
        modes = [(module, module.training) for module in self.model.modules()]
        self.model.eval()
        with torch.no_grad(), _chance_kept(self.seed_for("evaluation")):
            found = self.task.evaluate(self, examples)
        for module, training in modes:
            module.training = training
        return found

    def _finish(self) -> Record:
        outcomes: dict[str, np.ndarray] = {}
        metrics: dict[str, dict[str, float]] = {}
        if self._diverged_at is None:
            for method in self.methods:
                method.finish(self)
            parts = {"valid": self._point()}
            if self.test:
                parts["test"] = self.evaluate(self.splits.test)
            if all(math.isfinite(value) for part in parts.values() for value in part.metrics.values()):
                metrics = {part: dict(found.metrics) for part, found in parts.items()}
                outcomes = {f"{part}/{name}": v for part, found in parts.items() for name, v in found.outcomes.items()}
            else:
                self._diverged_at = self.steps
        identity = self.identity()
        return Record(
            **{name: identity[name] for name in ("task", "recipe", "seed", "vary", "budget", "code")},
            status="finished" if self._diverged_at is None else "diverged",
            diverged_at=self._diverged_at,
            **{name: getattr(self, name) for name in ("steps", "epochs", "samples", "seconds", "flops")},
            metrics=metrics,
            curve=[point for point in self._curve if all(map(math.isfinite, point.values()))],
            extras=self.extras,
            parameters=sum(p.numel() for p in self.model.parameters()),
            trainable=sum(p.numel() for p in self.model.parameters() if p.requires_grad),
            environment=environment(self.device),
            outcomes=outcomes,
        )

    # Stopping and going on ----------------------------------------------------------------------------------------

    def _state(self) -> dict[str, Any]:
        self._look()
        counters = ("steps", "samples", "seconds", "flops", "extras", "_curve", "_loss_sum", "_loss_count", "_flops_of")
        return {
            "model": self.model.state_dict(),
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
            "schedules": {name: schedule.state_dict() for name, schedule in self.schedules.items()},
            "methods": [method.state_dict() for method in self.methods],
            "stream": self.stream.state_dict(),
            "chance": _chance(),
            "generators": {name: g.get_state() for name, g in self._generators.items()},
            **{name: getattr(self, name) for name in (*counters, "_wall", "_peak", "_ticked", "_epochs_ended")},
        }

    def _resume(self) -> None:
        if self.folder is None:
            return
        found, problems = checkpoint.latest(self.folder, self.key)
        for problem in problems:
            warnings.warn(f"{problem}; the one before it is used", stacklevel=3)
        if found is None:
            return
        state = found[1]
        self.model.load_state_dict(state.pop("model"))
        for name, saved in state.pop("optimizers").items():
            self.optimizers[name].load_state_dict(saved)
        for name, saved in state.pop("schedules").items():
            self.schedules[name].load_state_dict(saved)
        for method, saved in zip(self.methods, state.pop("methods"), strict=True):
            method.load_state_dict(saved)
        self.stream.load_state_dict(state.pop("stream"))
        for name, saved in state.pop("generators").items():
            self.generator(name).set_state(saved)
        chance = state.pop("chance")
        for name, value in state.items():
            setattr(self, name, value)
        _set_chance(chance)

    def stop(self) -> None:
        """Ask the run to checkpoint and raise `Interrupted` after the present step."""
        self._stop = True

    @contextmanager
    def _stoppable(self) -> Iterator[None]:
        """The first Ctrl-C or SIGTERM stops the run after its step; the second acts as ever."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}

        def handle(number: int, frame: FrameType | None) -> None:
            self.stop()
            signal.signal(number, before[signal.Signals(number)])

        for number in before:
            signal.signal(number, handle)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _wrap(
    hook: Callable[[Run, Batch, Callable[[Batch], Tensor]], Tensor], run: Run, proceed: Callable[[Batch], Tensor]
) -> Callable[[Batch], Tensor]:
    return lambda batch: hook(run, batch, proceed)


# Torch's layers (dropout, initialisation) draw from global generators only, so a run seeds those, keeps their state in
# its checkpoints and puts back what it found.


def _seed_all(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def _chance() -> dict[str, Any]:
    kind, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    state: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": (kind, torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, gauss),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def _set_chance(state: dict[str, Any]) -> None:
    random.setstate(state["python"])
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if "cuda" in state:
        torch.cuda.set_rng_state_all(state["cuda"])


@contextmanager
def _chance_kept(seed: int | None = None) -> Iterator[None]:
    before = _chance()
    if seed is not None:
        _seed_all(seed)
    try:
        yield
    finally:
        _set_chance(before)
