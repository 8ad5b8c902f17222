"""Learning from aggregate responses as a method of a run: the interpolated loss in place of the bag loss."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from torch import Tensor

from assay.engine import Method
from assay.errors import AssayError
from assay.losses.aggregate import InterpolatedAggregateLoss
from assay.losses.reduction import Reduction

if TYPE_CHECKING:
    from assay.engine import Run


@dataclass
class AggregateResponses(Method):
    """Every prediction is pulled to its bag's mean response with weight `rho`, the bag's mean with the rest.

    For tasks whose batches are whole bags: outputs [bags, size, ...], targets the bags' mean responses. The loss is the
    squared error where the task is a regression, else the cross-entropy of logits.

    Args:
        rho: 0 is the bag loss, 1 the instance loss.

    Raises:
        AssayError: `rho` lies outside [0, 1].
    """

    name: ClassVar[str] = "aggregate-responses"
    requires: ClassVar[frozenset[str]] = frozenset({"bags"})

    rho: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.rho <= 1:
            raise AssayError(f"rho must lie in [0, 1], got {self.rho:g}")

    def setup(self, run: "Run") -> None:
        _train_with(run, self.rho)


@dataclass
class InstanceLoss(Method):
    """`AggregateResponses` at rho = 1, which tuning of the other's `rho` leaves as it is."""

    name: ClassVar[str] = "instance-loss"
    requires: ClassVar[frozenset[str]] = frozenset({"bags"})

    def setup(self, run: "Run") -> None:
        _train_with(run, 1.0)


def _train_with(run: "Run", rho: float) -> None:
    kind: Literal["mse", "ce"] = "mse" if "regression" in run.task.traits else "ce"

    def loss(outputs: Any, targets: Any, reduction: Reduction = "mean") -> Tensor:
        found: Tensor = InterpolatedAggregateLoss(rho, loss=kind, reduction=reduction)(outputs, targets)
        return found

    run.loss = loss
