"""Ghost batch normalisation and the square-root learning-rate rule as a method of a run."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from assay.engine import Method, Recipe, Task
from assay.engine.recipe import make_optimizer, make_schedule
from assay.errors import AssayError, CannotTreat
from assay.nn.ghost_batch_norm import Statistics, to_ghost_batch_norm
from assay.optim.large_batch import sqrt_scaled_lr

if TYPE_CHECKING:
    from assay.engine import Run


@dataclass
class GhostBatchNorm(Method):
    """Ghost batch normalisation in place of every BatchNorm, and the square-root learning-rate rule.

    On several devices each divides its own part of the batch into pieces, and the running statistics are those of the
    first device's pieces.

    Regime adaptation is the arm's budget times ceil(batch size / ghost batch size), clipping the recipe's `clip_norm`.

    Args:
        ghost_batch_size: samples a piece, and the batch size at which the recipe's rate was tuned.
        scale_lr: multiply the recipe's rate by sqrt(batch size / ghost batch size).
        statistics: how running statistics move, as in `assay.nn.ghost_batch_norm.GhostBatchNorm`.

    Raises:
        AssayError: `ghost_batch_size` is not positive.
    """

    name: ClassVar[str] = "ghost-batchnorm"
    strategies: ClassVar[frozenset[str]] = frozenset({"ddp", "fsdp"})

    ghost_batch_size: int = 32
    scale_lr: bool = True
    statistics: Statistics = "sequential"

    def __post_init__(self) -> None:
        if self.ghost_batch_size < 1:
            raise AssayError(f"ghost_batch_size must be positive, got {self.ghost_batch_size}")

    def check(self, task: Task, recipe: Recipe) -> None:
        super().check(task, recipe)
        if recipe.batch_size <= self.ghost_batch_size:
            raise CannotTreat(
                f"method 'ghost-batchnorm' changes nothing at a batch size of {recipe.batch_size}: "
                f"it must be above ghost_batch_size={self.ghost_batch_size}"
            )

    def check_devices(self, recipe: Recipe, devices: int, strategy: str) -> None:
        super().check_devices(recipe, devices, strategy)
        if recipe.batch_size % (devices * self.ghost_batch_size):
            raise CannotTreat(
                f"method 'ghost-batchnorm' would not be on {devices} devices what it is on one: each has its part of a "
                f"batch of {recipe.batch_size}, which must be a multiple of ghost_batch_size={self.ghost_batch_size}"
            )

    def setup(self, run: "Run") -> None:
        try:
            run.model = to_ghost_batch_norm(run.model, self.ghost_batch_size, statistics=self.statistics)
        except ValueError as error:
            raise CannotTreat(f"method 'ghost-batchnorm' cannot treat task {run.task.name!r}: {error}") from error
        if self.scale_lr:
            lr = sqrt_scaled_lr(run.recipe.lr, self.ghost_batch_size, run.recipe.batch_size)
            recipe = replace(run.recipe, lr=lr)
            run.make_optimizer = lambda parameters: make_optimizer(recipe, parameters)
            run.make_schedule = lambda optimizer, total: make_schedule(recipe, optimizer, total)
