"""Normalised gradient descent on the logistic loss as a method of a run."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from assay.engine import Method
from assay.errors import CannotTreat
from assay.losses.normalized_logistic import normalized_logistic_loss

if TYPE_CHECKING:
    from assay.engine import Run


@dataclass
class NormalizedGD(Method):
    """Every gradient of the cross-entropy is divided by its batch's mean probability of being wrong.

    The theory is of linear scores of two classes that can be separated, whole batches and plain gradient descent: task
    `separation`. Elsewhere it is a heuristic, and wants other learning rates than the cross-entropy does. Name it
    before methods that change the loss, such as label smoothing: these then act on it.

    Raises:
        CannotTreat: the task's targets are not classes.
    """

    name: ClassVar[str] = "normalized-gd"
    requires: ClassVar[frozenset[str]] = frozenset({"classification"})
    needs: ClassVar[frozenset[str]] = frozenset({"loss"})

    def setup(self, run: "Run") -> None:
        if run.loss != run.task.loss:
            raise CannotTreat(
                "method 'normalized-gd' replaces the loss: name it before the methods that change the loss"
            )

        def loss(outputs: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
            try:
                return normalized_logistic_loss(outputs, targets, reduction=reduction)
            except ValueError as error:
                raise CannotTreat(f"method 'normalized-gd' cannot treat task {run.task.name!r}: {error}") from error

        run.loss = loss
