"""A run: a task trained by a recipe from a seed, to one record."""

import math
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from assay.engine import chance, checkpoint
from assay.engine import devices as sharing
from assay.engine.arithmetic import Arithmetic
from assay.engine.budget import Budget
from assay.engine.carrier import Carrier
from assay.engine.flops import flop_counter
from assay.engine.recipe import Recipe
from assay.engine.record import PeakMemory, Record, code_version, environment, own_code, run_key
from assay.engine.stopping import stoppable
from assay.engine.stream import Stream
from assay.engine.task import Batch, Evaluation, Splits, Task, to_device
from assay.errors import AssayError, BadCheckpoint, Interrupted

WINDOW = 64  # steps between looks at the losses, a second at most: each look is a synchronisation with the device
TICKS = 1000  # resolution of a schedule whose length in steps is not known beforehand
COUNTERS = (  # a run's figures so far, as its checkpoints hold them
    *("steps", "samples", "seconds", "flops", "extras", "series"),
    *("curve", "loss_sum", "loss_count", "_ticked", "_epochs_ended", "_flops_of", "_held_by"),
)
Item = TypeVar("Item")
Found = TypeVar("Found")


class Run(Carrier):
    """(task, recipe, seed), executed by `train()`.

    Methods and tasks find here what they act on: `model` (the plain network), `forward` or `forward_module` (call this
    one to compute), `loss`, `splits`, `stream`, `optimizers`, `schedules`, `recipe`, `device`, the counters `steps`,
    `samples`, `epochs`, `seconds`, `flops`, `progress` in [0, 1], and `evaluation_batch_size`. Who watches finds the
    `curve` so far, and `loss_sum` and `loss_count` of the steps since its last point. A run on several devices is one
    such object in each of their processes; `ranks` is its place among them.

    Args:
        task: what is trained.
        recipe: how; the task's own by default.
        seed: redraws what `vary` names; all else is drawn as by seed 0.
        budget: such as `"10epochs"`; the task's own by default.
        vary: among `init` (weights and the noise of training), `order` (of the data, and its augmentation), `split`.
        folder: where checkpoints live; none are written without it.
        checkpoint_every: seconds between checkpoints; the last one is written when training ends.
        evaluations: points of the learning curve, evenly spread over the budget.
        test: read the test split at the end (tuning runs do not).
        accelerator: `cpu`, `cuda`, or `auto` for the best there is.
        devices: how many share every batch, a process each, of which this is to be one.
        strategy: `ddp` or `fsdp`, for several devices; `ddp` by default.
        watch: called with the run before its first step, every `WINDOW` steps or every second where steps are slow, at
            its last step, and after each point of the learning curve.

    Raises:
        AssayError: a method refuses the task or the devices, or the machine cannot run the recipe.
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
        devices: int = 1,
        strategy: str | None = None,
        watch: Callable[["Run"], None] | None = None,
    ) -> None:
        self.task, self.recipe, self.seed = task, recipe or task.recipe, seed
        self.budget = Budget.parse(budget if budget is not None else task.budget)
        self.vary = tuple(sorted(set(vary)))
        if not set(self.vary) <= task.varies:
            cannot = ", ".join(sorted(set(self.vary) - task.varies))
            raise AssayError(f"task {task.name!r} cannot vary {cannot}; it can vary {', '.join(sorted(task.varies))}")
        if accelerator not in ("cpu", "cuda", "auto"):
            raise AssayError(f"accelerator must be cpu, cuda or auto, got {accelerator!r}")
        if accelerator == "cuda" and not torch.cuda.is_available():
            raise AssayError("accelerator cuda was asked for, but torch finds no such device; give cpu or auto")
        self.accelerator = "cuda" if accelerator != "cpu" and torch.cuda.is_available() else "cpu"
        if self.recipe.precision == "16-mixed" and self.accelerator == "cpu":
            raise AssayError("precision 16-mixed needs a GPU; on a CPU give bf16-mixed")
        for method in self.recipe.methods:
            method.check(task, self.recipe)
        self.devices = devices
        self.strategy = sharing.check(task, self.recipe, devices, strategy, self.accelerator)
        self.folder, self.checkpoint_every, self.test, self.watch = folder, checkpoint_every, test, watch
        self.evaluations = evaluations
        self._asked = self._stop = False

    # Identity and chance ------------------------------------------------------------------------------------------

    def identity(self) -> dict[str, Any]:
        """All that the run's figures depend on, JSON-able."""
        shared = {"devices": self.devices, "strategy": self.strategy} if self.devices > 1 else {}
        return self._identity() | shared

    def _identity(self) -> dict[str, Any]:
        own = {"task": self.task.source or own_code(self.task)}
        own |= {f"method {method.name}": own_code(method) for method in self.recipe.methods}
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
            "code": code_version() | {name: digest for name, digest in own.items() if digest},
        }

    @cached_property
    def key(self) -> str:
        """The run's content address; it holds the number of threads at the time it is first asked for."""
        return run_key(self.identity())

    @cached_property
    def _state_key(self) -> str:
        """What names the run's checkpoints, with which it may go on on another number of devices."""
        return run_key(self._identity())

    def seed_for(self, purpose: str) -> int:
        """The seed of one source of chance: a function of the run's seed where it varies, else of 0."""
        source = {"augment": "order", "order": "order", "split": "split"}.get(purpose, "init")
        return chance.seed_of(purpose, self.seed if source in self.vary else 0)

    # Building -----------------------------------------------------------------------------------------------------

    def build(self) -> None:
        """Make data, network, methods, optimizers and schedules, all anew: `train` begins with it. It leaves the global
        generators seeded for the first step."""
        self.ranks = sharing.join(self.devices, self.strategy, self.accelerator)
        self.device = self.ranks.device
        self._memory = PeakMemory(self.device)
        self.arithmetic = Arithmetic(self.recipe.precision, self.accelerator)
        self.clip_norm = self.recipe.clip_norm
        self.seconds, self.flops, self._spent = 0.0, 0.0, 0.0
        self._weight = 1.0  # of this rank's loss in that of the batch
        self._held_by = [f"{self.devices} ({self.strategy})" if self.strategy else "1"]
        self.curve: list[dict[str, float]] = []
        self._losses: list[Tensor] = []
        self.loss_sum, self.loss_count, self._ticked, self._epochs_ended = 0.0, 0, 0, 0
        self._diverged_at: int | None = None
        self._flops_of: dict[tuple[torch.Size, ...], float] = {}
        self._earlier_wall, self._earlier_peak = 0.0, 0

        self.splits: Splits = self.task.splits(self.seed_for("split"))
        chance.seed_all(self.seed_for("init"))
        self.model = self.task.model().to(self.device).train()
        self.loss = self.task.loss
        self.make_stream: Callable[[], Stream] = lambda: self.task.stream(self)
        self._mark = self._now()
        self._set_up(self.recipe.methods, self._charge)
        self._lap()
        named = self.task.parameters(self.model)
        self.optimizers = {name: self.make_optimizer(parameters) for name, parameters in named.items()}
        self.stream = self.make_stream()
        self._shared = sharing.share(self.stream, self.ranks, self.task.name) if self.ranks.size > 1 else None
        self.total_steps = self._total_steps()
        made = {name: self.make_schedule(o, self.total_steps or TICKS) for name, o in self.optimizers.items()}
        self.schedules = {name: schedule for name, schedule in made.items() if schedule is not None}
        chance.seed_all(self.ranks.seed(self.seed_for("noise")))

    def _wire(self) -> None:
        super()._wire()
        self._judged = self.forward_module
        self.forward_module = self.forward = self.ranks.distribute(self.model, self.forward_module)

    def _total_steps(self) -> int | None:
        """The run's length in steps where the budget fixes it (and, for epochs, batches keep their size)."""
        per_epoch, amount = self.stream.steps_per_epoch, self.budget.amount
        if self.budget.unit == "steps":
            return int(amount)
        if self.budget.unit != "epochs":
            return None
        if per_epoch is None:
            raise AssayError(
                f"task {self.task.name!r} has no epochs; give its budget in steps, samples, seconds or flops"
            )
        return max(math.ceil(round(amount * per_epoch, 6)), 1)

    def recount(self) -> None:
        """Say that a step's FLOPs have changed though its batch has not (pruning, a growing network)."""
        self._flops_of = {}

    # The loop -----------------------------------------------------------------------------------------------------

    @property
    def epochs(self) -> float:
        return self.stream.epoch if self.stream.steps_per_epoch is not None else 0.0

    @property
    def progress(self) -> float:
        """Share of the budget that is spent, in [0, 1]."""
        share = float(getattr(self, self.budget.unit) / self.budget.amount)
        return share if share < 1 - 1e-12 else 1.0  # parts of an epoch may add up to a rounding less than it

    def train(self) -> Record:
        """Run to the end of the budget, from the newest usable checkpoint if there is one.

        Returns:
            the record, on several devices the same in each of their processes; a run whose loss stopped being finite is
            `diverged` in it.

        Raises:
            Interrupted: it was asked to stop (Ctrl-C, SIGTERM); a checkpoint was left if there is a folder.
            AssayError: the budget is impossible here, or a checkpoint cannot be written.
        """
        with chance.kept(), stoppable(self.stop):
            self._began = time.perf_counter()
            self.build()
            self._resume()
            self._tell()
            found: dict[str, Evaluation] = {}
            try:
                self._loop()
                if self._diverged_at is None:
                    found = self._judge()
            except AssayError:
                raise
            except Exception as error:
                self._blame(error)
            else:
                self._earlier_peak = self.ranks.most(self._peak)
                self._now()
            self._heed()
            return self._record(found)

    def _loop(self) -> None:
        """Steps until the budget is spent, and what falls due between them."""
        self._mark = looked = saved = self._now()
        progress = self.progress
        while progress < 1:
            progress = self.take_step()
            point = self.evaluations and len(self.curve) + 1 <= progress * self.evaluations + 1e-9 and progress < 1
            save = self.folder is not None and (self._mark - saved >= self.checkpoint_every or progress == 1)
            due = point or save or self._stop or progress == 1 or self._mark - looked >= 1
            if not due and len(self._losses) < WINDOW:
                continue
            self._look()
            self._lap()
            looked = self._mark
            if self._diverged_at is not None:
                return
            if progress == 0:
                raise AssayError(f"a step of task {self.task.name!r} spends no {self.budget.unit}: give another budget")
            self._tell()
            if point:
                self._point()
            self._now()  # in the meantime it may have been asked to stop
            if save or self._stop:
                self._save()
                saved = self._now()
            self._heed()
            self._mark = self._now()

    def take_step(self) -> float:
        """Do one step, and what falls due right after it; give the progress that this makes.

        It is for whoever drives a run that is built by hand, to see what a step costs; `train` does all of them.
        """
        whole = self._shared.batch_size if self._shared is not None else None
        batch = to_device(self.stream.next(), self.device)
        samples = whole or batch.ids.shape[0]
        self._weight = batch.ids.shape[0] / samples
        loss = self._count(batch).detach()
        self._losses.append(loss if self._weight == 1 else loss * self._weight)
        self.steps += 1
        self.samples += samples
        if self.device.type == "cuda" and self.budget.unit == "seconds":
            torch.cuda.synchronize(self.device)
        self._lap()
        while self._on_epoch and self._epochs_ended + 1 <= self.epochs:
            self._epochs_ended += 1
            self.end_epoch()
            self._lap()
        progress = self.progress
        if self.schedules:
            self._tick(progress)
        return progress

    def end_epoch(self) -> None:
        """What the methods do at an epoch's end."""
        for on_epoch in self._on_epoch:
            self._charge(on_epoch)

    def _count(self, batch: Batch) -> Tensor:
        """One step with the batch hooks; its FLOPs are measured the first time a batch has these shapes."""
        shapes = _shapes(batch.x, batch.y)
        known = self._flops_of
        if shapes in known:
            loss = self._advance(batch)
        else:
            with flop_counter() as counter:
                loss = self._advance(batch)
            known[shapes] = float(counter.get_total_flops())
        self._spent += known[shapes]
        return loss

    def backward(self, loss: Tensor, name: str | None = None) -> None:
        share = self._weight * self.ranks.size  # gradients are averaged over ranks, whose parts may differ in size
        super().backward(loss if share == 1 else loss * share, name)
        if self.steps == 0:
            self.ranks.check_gradients(self.model)

    def _charge(self, hook: Callable[["Run"], None]) -> None:
        """Call a hook that stands outside the steps; its FLOPs are training's all the same."""
        with flop_counter() as counter:
            hook(self)
        self.flops += counter.get_total_flops()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _lap(self) -> None:
        """Count the time since the mark as training, and set the mark anew."""
        now = self._now()
        self.seconds += now - self._mark
        self._mark = now

    def _now(self) -> float:
        """The time; with it all ranks learn what they have spent, and whether any was asked to stop."""
        now, self._stop, spent = self.ranks.agree(time.perf_counter(), self._asked, self._spent)
        self.flops += spent
        self._spent = 0.0
        return now

    def _tick(self, progress: float) -> None:
        due = int(progress * (self.total_steps or TICKS) + 1e-6)
        # a task's first steps may update nothing (they fill a memory), of which torch warns
        with warnings.catch_warnings() if self._ticked == 0 else nullcontext():
            if self._ticked == 0:
                warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step", UserWarning)
            for _ in range(due - self._ticked):
                for schedule in self.schedules.values():
                    schedule.step()
        self._ticked = due

    def _look(self) -> None:
        """Read the losses of the steps since the last look; the first that is not finite ends the run."""
        self._read(self.ranks.total(torch.stack(self._losses)).tolist() if self._losses else [])

    def _read(self, values: list[float]) -> None:
        self._losses.clear()
        for i, value in enumerate(values):
            if not math.isfinite(value):
                self._diverged_at = self.steps - len(values) + i + 1
                return
            self.loss_sum += value
        self.loss_count += len(values)

    def _blame(self, error: Exception) -> None:
        """Let an exception count as divergence if a loss or a weight was not finite before it: the run had ended there,
        and what came after is no part of it. Any other is a bug and goes on its way."""
        self._read([float(loss) for loss in self._losses])  # of this rank: the others may be waiting elsewhere
        if self._diverged_at is None:
            if all(bool(sharing.local(p).isfinite().all()) for p in self.model.parameters()):
                raise error
            self._diverged_at = max(self.steps, 1)
        said = f"{type(error).__name__}: {error}"
        warnings.warn(f"the run diverged at step {self._diverged_at}, upon which came {said}", stacklevel=3)

    def _point(self) -> Evaluation:
        """A point of the learning curve."""
        found = self.evaluate(self.splits.valid)
        point = {name: float(getattr(self, name)) for name in ("steps", "epochs", "samples", "seconds", "flops")}
        if self.loss_count:
            point["train_loss"] = self.loss_sum / self.loss_count
        self.loss_sum, self.loss_count = 0.0, 0
        self.curve.append(point | {f"valid/{name}": value for name, value in found.metrics.items()})
        self._tell()
        return found

    def _tell(self) -> None:
        if self.watch is not None:
            self.watch(self)

    def evaluate(self, examples: Any) -> Evaluation:
        """Judge the model as it is now; training goes on as if nothing had happened."""
        modes = [(module, module.training) for module in self.model.modules()]
        training, self.forward_module = self.forward_module, self._judged
        self.ranks.same_buffers(self.model)
        self.model.eval()
        with torch.no_grad(), chance.kept(self.seed_for("evaluation")):
            self.begin_evaluation()
            found = self.task.evaluate(self, examples, self.evaluation_batch_size)
        for module, mode in modes:
            module.training = mode
        self.forward_module = training
        return Evaluation({name: float(value) for name, value in found.metrics.items()}, found.outcomes)

    def divided(self, judge: Callable[[Item], Found], items: Sequence[Item]) -> list[Found]:
        """What `judge` gives for each of `items`, in their order: for evaluations, which several devices share, unless
        a method adapts to what was judged before."""
        return [judge(item) for item in items] if self._on_evaluation else self.ranks.divided(judge, items)

    def finish(self) -> None:
        """What the methods do after training, on several devices each of these for itself."""
        self._mark = self._now()
        self.ranks.same_buffers(self.model)
        self.forward_module = self.forward = self._judged
        for method in self._overriding("finish"):
            self._charge(method.finish)
        super()._wire()
        self._judged = self.forward_module
        self._lap()

    def _judge(self) -> dict[str, Evaluation]:
        """Finish and evaluate; a figure that is not finite makes the run a diverged one."""
        self.finish()
        found = {"valid": self._point()}
        if self.test:
            found["test"] = self.evaluate(self.splits.test)
        if all(math.isfinite(value) for part in found.values() for value in part.metrics.values()):
            return found
        self._diverged_at = self.steps
        return {}

    def _record(self, found: dict[str, Evaluation]) -> Record:
        identity = self.identity()
        outcomes = {f"{part}/{name}": v for part, judged in found.items() for name, v in judged.outcomes.items()}
        return Record(
            **{name: identity[name] for name in ("task", "recipe", "seed", "vary", "budget", "code")},
            status="finished" if self._diverged_at is None else "diverged",
            diverged_at=self._diverged_at,
            **{name: getattr(self, name) for name in ("steps", "epochs", "samples", "seconds", "flops")},
            wall_seconds=self._wall,
            metrics={part: dict(judged.metrics) for part, judged in found.items()},
            curve=[point for point in self.curve if all(map(math.isfinite, point.values()))],
            extras={name: value for name, value in self.extras.items() if math.isfinite(value)},
            series={name: [p for p in course if math.isfinite(p[1])] for name, course in self.series.items()},
            peak_memory=self._peak,
            parameters=sum(p.numel() for p in self.model.parameters()),
            trainable=sum(p.numel() for p in self.model.parameters() if p.requires_grad),
            environment=environment(self.device) | ({} if self._held_by == ["1"] else {"devices": self._held_by}),
            outcomes={name: np.asarray(values, np.float32) for name, values in outcomes.items()},
        )

    # Stopping and going on ----------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Ask the run to checkpoint and raise `Interrupted` after the present step."""
        self._asked = True

    def _heed(self) -> None:
        if self._stop:
            self._asked = self._stop = False
            where = f"; it continues from {self.folder}" if self.folder is not None else ""
            raise Interrupted(f"run stopped after {self.steps} steps{where}")

    @property
    def _wall(self) -> float:
        return self._earlier_wall + time.perf_counter() - self._began

    @property
    def _peak(self) -> int:
        return max(self._earlier_peak, self._memory.bytes())

    def _save(self) -> None:
        if self.folder is None:
            return
        left = {name: p.grad for name, p in self.model.named_parameters() if p.grad is not None}
        own = {
            "stream": self.stream.state_dict(),
            "generators": {name: generator.get_state() for name, generator in self._generators.items()},
            "chance": chance.state(),
        }
        state = {
            "methods": [method.state_dict() for method in self.methods],
            "model": self.ranks.whole(self.model.state_dict()),
            "gradients": self.ranks.whole(left),  # not used yet, as when a step adds up several batches'
            "optimizers": {name: self.ranks.whole(made.state_dict()) for name, made in self.optimizers.items()},
            "schedules": {name: schedule.state_dict() for name, schedule in self.schedules.items()},
            "arithmetic": self.arithmetic.state_dict(),
            "ranks": self.ranks.each(own),
            "counters": {name: getattr(self, name) for name in COUNTERS},
            "wall": self._wall,
            "peak": self.ranks.most(self._peak),
        }
        if self.ranks.rank == 0:
            checkpoint.save(self.folder, self._state_key, self.steps, state)

    def _resume(self) -> None:
        if self.folder is None:
            return
        state, problems = checkpoint.latest(self.folder, self._state_key)
        sharing.check_same(self.ranks, state["counters"]["steps"] if state is not None else 0)
        instead = "the one before it is used" if state is not None else "the run starts from its beginning"
        for problem in problems:
            warnings.warn(f"{problem}; {instead}", stacklevel=3)
        if state is None:
            return
        try:
            self._restore(state)
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
            raise BadCheckpoint(
                f"the checkpoint in {self.folder} does not fit the run that wrote it: {said}"
            ) from error

    def _restore(self, state: dict[str, Any]) -> None:
        for method, saved in zip(self.methods, state["methods"], strict=True):
            method.load_state_dict(saved)
        self.ranks.load(self.model, state["model"])
        parameters = dict(self.model.named_parameters())
        for name, gradient in state["gradients"].items():
            parameters[name].grad = self.ranks.like(gradient.to(parameters[name].device), parameters[name])
        for name, saved in state["optimizers"].items():
            self.ranks.load_optimizer(self.optimizers[name], saved)
        for name, saved in state["schedules"].items():
            self.schedules[name].load_state_dict(saved)
        self.arithmetic.load_state_dict(state["arithmetic"])
        held_by = self._held_by
        for name in COUNTERS:
            setattr(self, name, state["counters"][name])
        same = len(state["ranks"]) == self.ranks.size
        own = state["ranks"][self.ranks.rank if same else 0]
        self.stream.load_state_dict(own["stream"])
        for name, saved in own["generators"].items():
            self.generator(name).set_state(saved)
        self._earlier_wall, self._earlier_peak = state["wall"], state["peak"]
        chance.set_state(own["chance"])
        if self._held_by[-1:] != held_by:
            self._held_by += held_by
        if not same:  # what each of other ranks would have drawn next is of no use to these
            sharing.share(self.stream, self.ranks, self.task.name)
            chance.seed_all(self.ranks.seed(self.seed_for("noise"), self.steps))


def _shapes(x: Any, y: Any) -> tuple[torch.Size, ...]:
    if isinstance(x, Tensor) and isinstance(y, Tensor):  # walking a tree costs as much as a small layer
        return x.shape, y.shape
    return tuple(leaf.shape for leaf in tree_leaves((x, y)) if isinstance(leaf, Tensor))
