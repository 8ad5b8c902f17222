"""LoRA as a method of a run: what memory-efficient optimizers are compared with."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch import nn

from assay.engine import Method
from assay.errors import AssayError, CannotTreat
from assay.nn.lora import to_lora
from assay.optim.state_bytes import state_bytes

if TYPE_CHECKING:
    from assay.engine import Run


@dataclass
class LoRA(Method):
    """Linear layers but the last keep their weights and train a correction of low rank; all else trains as it would.
    The record's extras have `optimizer state (bytes)`.

    Args:
        rank: of each correction, at least 1.

    Raises:
        AssayError: `rank` is not positive.
        CannotTreat: the network has no linear layer beside its last.
    """

    name: ClassVar[str] = "lora"

    rank: int = 8

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise AssayError(f"rank must be at least 1, got {self.rank}")

    def setup(self, run: "Run") -> None:
        linear = [name for name, layer in run.model.named_modules() if type(layer) is nn.Linear]
        surgery = to_lora(run.model, self.rank, exclude=linear[-1:])
        if not surgery.replaced:
            raise CannotTreat(f"method {self.name!r} needs linear layers beside the last, this network has none")
        run.model = surgery.model

    def finish(self, run: "Run") -> None:
        run.log("optimizer state (bytes)", sum(map(state_bytes, run.optimizers.values())))
