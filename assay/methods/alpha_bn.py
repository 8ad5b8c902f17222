"""Alpha-BN and Core as a method of a run: the network is trained as ever, and adapts as it is judged."""

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from torch import nn

from assay.engine import Method, Recipe, Task
from assay.errors import AssayError, CannotTreat
from assay.nn.alpha_batch_norm import alpha_bn
from assay.nn.core_adapter import CoreAdapter

if TYPE_CHECKING:
    from assay.engine import Run


@dataclass
class AlphaBN(Method):
    """After training, BatchNorm layers mix their statistics with those of each evaluation batch.

    Evaluation reads its examples in their order, `batch_size` at a time, and figures depend on both. With Core each
    batch is predicted before the step it causes. Every stream of examples, validation before test, starts from the
    trained network; points of the learning curve before the end are of that network alone. On several devices each
    judges all examples.

    Args:
        mode: `alpha`; `target`, the batch's statistics alone, which is alpha 0; `core`, alpha and a step a batch on the
            class correlation; or `entropy`, the same on the entropy, as Tent does.
        alpha: weight of the stored statistics, in [0, 1].
        lr: of Core's steps, by Adam.
        episodic: forget each batch's step before the next batch, which is then predicted after its own step.
        batch_size: examples that are judged, and whose statistics are taken, together.

    Raises:
        AssayError: a setting is out of range.
    """

    name: ClassVar[str] = "alpha-bn"
    strategies: ClassVar[frozenset[str]] = frozenset({"ddp"})

    mode: Literal["alpha", "target", "core", "entropy"] = "alpha"
    alpha: float = 0.9
    lr: float = 1e-3
    episodic: bool = False
    batch_size: int = 200

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise AssayError(f"alpha must lie in [0, 1], got {self.alpha}")
        if not self.lr > 0:
            raise AssayError(f"lr must be positive, got {self.lr}")
        if self.batch_size < 1:
            raise AssayError(f"batch_size must be positive, got {self.batch_size}")

    @property
    def _learns(self) -> bool:
        return self.mode in ("core", "entropy")

    def settings(self) -> dict[str, Any]:
        """Those that the mode has a use for."""
        unused = ({"alpha"} if self.mode == "target" else set()) | (set() if self._learns else {"lr", "episodic"})
        return {name: value for name, value in super().settings().items() if name not in unused}

    def check(self, task: Task, recipe: Recipe) -> None:
        super().check(task, recipe)
        if self._learns and "classification" not in task.traits:
            raise CannotTreat(f"method 'alpha-bn' with mode={self.mode} needs classes, task {task.name!r} has none")

    def check_devices(self, recipe: Recipe, devices: int, strategy: str) -> None:
        if strategy == "fsdp":
            raise CannotTreat(
                "method 'alpha-bn' adapts the whole network as it is judged, and under strategy fsdp no device has "
                "that; give strategy ddp"
            )
        super().check_devices(recipe, devices, strategy)

    def setup(self, run: "Run") -> None:
        self._adapting(copy.deepcopy(run.model), run.task)  # refuses what it cannot treat before anything is trained

    def finish(self, run: "Run") -> None:
        run.model = self._adapting(run.model, run.task)
        run.evaluation_batch_size = self.batch_size

    def evaluation(self, run: "Run") -> None:
        if isinstance(run.model, CoreAdapter):
            run.model.reset()

    def _adapting(self, model: nn.Module, task: Task) -> nn.Module:
        alpha = 0.0 if self.mode == "target" else self.alpha
        try:
            if self.mode == "core" or self.mode == "entropy":
                return CoreAdapter(model, alpha, loss=self.mode, lr=self.lr, episodic=self.episodic, in_place=True)
            return alpha_bn(model, alpha).model
        except ValueError as error:
            raise CannotTreat(f"method 'alpha-bn' cannot treat task {task.name!r}: {error}") from error
