"""Cosine annealing: the learning rate falls along half a cosine to zero at the end of the budget.

    lr(t) = lr / 2 * (1 + cos(pi t / T))

Source: Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts" (2017), eq. 5, one cycle.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from assay.engine import Method, Recipe, Task
from assay.engine.recipe import make_schedule
from assay.errors import CannotTreat

if TYPE_CHECKING:
    from assay.engine import Run


@dataclass
class Cosine(Method):
    """Put a cosine schedule over the whole budget in place of the recipe's own; the recipe's warm-up is kept."""

    name: ClassVar[str] = "cosine"
    strategies: ClassVar[frozenset[str]] = frozenset({"ddp", "fsdp"})

    def check(self, task: Task, recipe: Recipe) -> None:
        super().check(task, recipe)
        if recipe.schedule == "cosine":
            raise CannotTreat(
                f"method 'cosine' changes nothing on task {task.name!r}: its schedule is cosine already; "
                "try --set schedule=constant"
            )

    def setup(self, run: "Run") -> None:
        recipe = replace(run.recipe, schedule="cosine")
        run.make_schedule = lambda optimizer, total: make_schedule(recipe, optimizer, total)
