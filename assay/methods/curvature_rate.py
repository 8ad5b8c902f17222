"""SGD's learning rate and momentum learned on the fly from the loss's curvature, as a method of a run."""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch.optim import Optimizer

from assay.engine import Batch, Method, Recipe, Task
from assay.engine.flops import flop_counter
from assay.engine.task import to_device
from assay.errors import AssayError, CannotTreat
from assay.optim import curvature_rate

if TYPE_CHECKING:
    from assay.engine import Run


@dataclass
class CurvatureRate(Method):
    """Learning rate and momentum are set by the spectrum of the loss, in place of the recipe's and of its schedule.

    Measured before the first step and after every so many epochs, on training samples without augmentation. The
    record's extras have what is in force at the end: `lr`, `momentum`, and the eigenvalues `largest` and `smallest`.

    Args:
        every: epochs between measurements.
        steps: of Lanczos.
        samples: drawn anew for each measurement; as many as a batch by default, since a batch's curvature is what
            stability hangs on.
        lambda_min: what counts as the smallest eigenvalue: the `bulk`, or the `smallest_positive` one found.
        momentum_max: bound of the momentum, in [0, 1).
        average: share of its past in each eigenvalue, in [0, 1).
        fraction: of the optimal rate, in (0, 1]; 1 is the edge of stability.
        matrix: `hessian` or `ggn`.

    Raises:
        AssayError: a setting is out of its range.
    """

    name: ClassVar[str] = "lr-batch-rmt"
    needs: ClassVar[frozenset[str]] = frozenset({"flops", "loss", "splits"})

    every: int = 1
    steps: int = 10
    samples: int | None = None
    lambda_min: Literal["bulk", "smallest_positive"] = "bulk"
    momentum_max: float = 0.99
    average: float = 0.5
    fraction: float = 0.1
    matrix: Literal["hessian", "ggn"] = "hessian"

    def __post_init__(self) -> None:
        if self.samples is not None and self.samples < 1:
            raise AssayError(f"samples must be at least 1, got {self.samples}")
        try:
            curvature_rate.check_settings(
                self.every, self.steps, self.lambda_min, self.momentum_max, self.average, self.fraction, self.matrix
            )
        except ValueError as error:
            raise AssayError(str(error)) from error

    def check(self, task: Task, recipe: Recipe) -> None:
        super().check(task, recipe)
        if recipe.optimizer != "sgd":
            raise CannotTreat(
                f"method 'lr-batch-rmt' sets the rate and the momentum of sgd, and the optimizer is "
                f"{recipe.optimizer}; give --set optimizer=sgd"
            )
        if type(task).objective is not Task.objective:
            raise CannotTreat(
                f"method 'lr-batch-rmt' cannot treat task {task.name!r}: what it minimises is more than a loss of its "
                "network's outputs, so that its curvature is not that of the loss"
            )

    def setup(self, run: "Run") -> None:
        if run.splits.train is None:
            raise CannotTreat(f"method 'lr-batch-rmt' measures on training data, and task {run.task.name!r} has none")
        run.make_schedule = lambda optimizer, total: None
        self._schedule: curvature_rate.CurvatureRate | None = None
        inner = run.make_optimizer

        def make_optimizer(parameters: Any) -> Optimizer:
            if self._schedule is not None:
                raise CannotTreat(f"method 'lr-batch-rmt' cannot treat task {run.task.name!r}: it has two optimizers")
            made = inner(parameters)
            self._begin(run, made)
            return made

        run.make_optimizer = make_optimizer

    def epoch(self, run: "Run") -> None:
        if run.progress < 1:
            self._measure(run)

    def _begin(self, run: "Run", optimizer: Optimizer) -> None:
        """Measure where all methods have set up; it counts as theirs does."""
        began = time.perf_counter()
        self._schedule = curvature_rate.CurvatureRate(
            optimizer,
            run.forward_module if run.recipe.precision == "64-true" else run.model,  # without autocast
            run.loss,
            every=self.every,
            steps=self.steps,
            lambda_min=self.lambda_min,
            momentum_max=self.momentum_max,
            average=self.average,
            fraction=self.fraction,
            matrix=self.matrix,
            generator=run.generator(self.name),
        )
        with flop_counter() as counter:
            self._measure(run)
        run.flops += counter.get_total_flops()
        run.seconds += time.perf_counter() - began

    def _measure(self, run: "Run") -> None:
        schedule = self._schedule
        assert schedule is not None  # the optimizer is there
        schedule.step(lambda: [self._drawn(run)])
        group = schedule.optimizer.param_groups[0]
        for name in ("lr", "momentum"):
            run.log(name, group[name])
        if schedule.largest is not None and schedule.smallest is not None:
            run.log("largest", schedule.largest)
            run.log("smallest", schedule.smallest)

    def _drawn(self, run: "Run") -> tuple[Any, Any]:
        train = run.splits.train
        assert train is not None  # as setup saw to
        samples = self.samples or run.recipe.batch_size
        ids = torch.randperm(len(train), generator=run.generator(self.name))[:samples]
        x, y, _ = to_device(Batch(*train.batch(ids), ids), run.device)
        return x, y

    def state_dict(self) -> dict[str, Any]:
        return self._schedule.state_dict() if self._schedule is not None else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self._schedule is not None:
            self._schedule.load_state_dict(state)
