"""SGD's learning rate and momentum learned on the fly from the loss's curvature, as a method of a run."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor

from assay.engine import Batch, Method, Recipe, Task
from assay.engine.flops import flop_counter, uncounted
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
        self._resumed: dict[str, Any] | None = None

    def step(self, run: "Run", batch: Batch, proceed: Callable[[Batch], Tensor]) -> Tensor:
        if self._schedule is None:
            self._begin(run)
        return proceed(batch)

    def epoch(self, run: "Run") -> None:
        if run.progress < 1:
            self._measure(run)

    def _begin(self, run: "Run") -> None:
        network = run.forward_module if run.recipe.precision == "64-true" else run.model  # without autocast
        self._schedule = curvature_rate.CurvatureRate(
            run.optimizer,
            network,
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
        if self._resumed is not None:
            self._schedule.load_state_dict(self._resumed)
            return
        with uncounted(), flop_counter() as counter:  # it is no part of every step
            self._measure(run)
        run.flops += counter.get_total_flops()

    def _measure(self, run: "Run") -> None:
        schedule = self._schedule
        assert schedule is not None  # an epoch has steps
        schedule.step(lambda: [self._drawn(run)])
        group = run.optimizer.param_groups[0]
        for name, value in (("largest", schedule.largest), ("smallest", schedule.smallest)):
            if value is not None:
                run.log(name, value)
        run.log("lr", group["lr"])
        run.log("momentum", group["momentum"])

    def _drawn(self, run: "Run") -> tuple[Any, Any]:
        train = run.splits.train
        assert train is not None  # as setup saw to
        samples = self.samples or run.recipe.batch_size
        ids = torch.randperm(len(train), generator=run.generator(self.name))[:samples]
        x, y, _ = to_device(Batch(*train.batch(ids), ids), run.device)
        return x, y

    def state_dict(self) -> dict[str, Any]:
        return self._resumed or {} if self._schedule is None else self._schedule.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._resumed = state or None
