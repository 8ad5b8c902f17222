"""A learning rate carried over from another batch size by rule.

lr (B / B0)^power        power 1: linear rule; 1/2: square-root rule
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from torch.optim import Optimizer

from assay.engine import Method
from assay.errors import AssayError, UnknownName
from assay.optim.batch_rates import POWERS, scale_learning_rate

if TYPE_CHECKING:
    from assay.engine import Run


@dataclass
class BatchScaling(Method):
    """The recipe's learning rate is that of batches of `base_batch`, and is scaled to the batches there are.

    A task whose parameter groups name a `batch_size` of their own has each scaled to its own.

    Args:
        rule: `linear` or `sqrt`.
        base_batch: samples a step at which the rate was found.

    Raises:
        AssayError: the rule is unknown, or `base_batch` not positive.
    """

    name: ClassVar[str] = "batch-scaling"
    strategies: ClassVar[frozenset[str]] = frozenset({"ddp", "fsdp"})

    rule: Literal["linear", "sqrt"] = "linear"
    base_batch: int = 64

    def __post_init__(self) -> None:
        if self.rule not in POWERS:
            raise UnknownName("rule", self.rule, POWERS)
        if self.base_batch < 1:
            raise AssayError(f"base_batch must be positive, got {self.base_batch}")

    def setup(self, run: "Run") -> None:
        inner = run.make_optimizer

        def make_optimizer(parameters: Any) -> Optimizer:
            made = inner(parameters)
            for group in made.param_groups:
                size = group.get("batch_size", run.recipe.batch_size)
                group["lr"] = scale_learning_rate(group["lr"], self.base_batch, size, self.rule)
            return made

        run.make_optimizer = make_optimizer
