"""Multi-sample dropout as a method of a run."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from assay.engine import Method
from assay.errors import AssayError, CannotTreat
from assay.nn.multi_sample_dropout import multi_sample_loss, to_multi_sample_dropout

if TYPE_CHECKING:
    from assay.engine import Run


@dataclass
class MultiSampleDropout(Method):
    """The head runs on M dropped copies of the features, and the loss is the mean of theirs; evaluation is ordinary.

    Args:
        num_samples: M.
        layer: name of the dropout at which the copies begin; empty for the first of the model's tail.

    Raises:
        AssayError: `num_samples` is not positive.
    """

    name: ClassVar[str] = "multi-sample-dropout"
    strategies: ClassVar[frozenset[str]] = frozenset({"ddp", "fsdp"})

    num_samples: int = 8
    layer: str = ""

    def __post_init__(self) -> None:
        if self.num_samples < 1:
            raise AssayError(f"num_samples must be positive, got {self.num_samples}")

    def setup(self, run: "Run") -> None:
        try:
            run.model = to_multi_sample_dropout(run.model, self.num_samples, layer=self.layer or None)
        except ValueError as error:
            raise CannotTreat(f"method 'multi-sample-dropout' cannot treat task {run.task.name!r}: {error}") from error
        inner = run.loss

        def loss(outputs: Any, targets: Any, reduction: str = "mean") -> Tensor:
            return multi_sample_loss(inner, outputs, targets, reduction)

        run.loss = loss
