"""LAMB and LARS as a method of a run."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from torch.optim import Optimizer

from assay.engine import Method, Recipe
from assay.engine.recipe import make_schedule
from assay.errors import AssayError, UnknownName
from assay.optim import lamb, lars
from assay.optim.roles import decay_groups

if TYPE_CHECKING:
    from assay.engine import Run

OPTIMIZERS = ("lamb", "lars-2017", "lars-2020")


@dataclass
class LAMB(Method):
    """LAMB, or LARS, in place of the recipe's optimizer; biases and normalisation are neither decayed nor adapted.

    Momentum, second-moment decay and weight decay are the recipe's. A rate that suits SGD or Adam is a poor guess: for
    `lamb` and `lars-2020` it is the share of its norm by which a layer moves in a step. Tune it.

    Args:
        optimizer: `lamb`; `lars-2017`, as in ImageNet recipes; `lars-2020`, as written beside LAMB.
        lr: learning rate; the recipe's by default.

    Raises:
        AssayError: `optimizer` is unknown, or `lr` not positive.
    """

    name: ClassVar[str] = "lamb"
    strategies: ClassVar[frozenset[str]] = frozenset({"ddp", "fsdp"})

    optimizer: Literal["lamb", "lars-2017", "lars-2020"] = "lamb"
    lr: float | None = None

    def __post_init__(self) -> None:
        if self.optimizer not in OPTIMIZERS:
            raise UnknownName("optimizer", self.optimizer, OPTIMIZERS)
        if self.lr is not None and not self.lr > 0:
            raise AssayError(f"lr must be positive, got {self.lr}")

    def setup(self, run: "Run") -> None:
        recipe = run.recipe if self.lr is None else replace(run.recipe, lr=self.lr)

        def optimizer(parameters: Any) -> Optimizer:
            wanted = {id(p) for p in parameters}  # a task with several optimizers names those of each
            groups = decay_groups(run.model)
            mine = [group | {"params": [p for p in group["params"] if id(p) in wanted]} for group in groups]
            return self._make(recipe, [group for group in mine if group["params"]])

        run.make_optimizer = optimizer
        run.make_schedule = lambda made, total: make_schedule(recipe, made, total)

    def _make(self, recipe: Recipe, groups: list[dict[str, Any]]) -> Optimizer:
        if self.optimizer == "lamb":
            betas = (recipe.momentum, recipe.beta2)
            return lamb.LAMB(groups, lr=recipe.lr, betas=betas, weight_decay=recipe.weight_decay)
        variant = self.optimizer.removeprefix("lars-")
        return lars.LARS(groups, recipe.lr, recipe.momentum, recipe.weight_decay, variant=variant)
