"""The distance of the weights from their start, measured along a run: it changes nothing in training."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from torch import Tensor

from assay.analysis import weight_distance
from assay.engine import Batch, Method, Recipe
from assay.errors import CannotTreat

if TYPE_CHECKING:
    from assay.engine import Run

LAWS: tuple[Literal["log", "sqrt", "linear"], ...] = ("log", "sqrt", "linear")


@dataclass
class WeightDistance(Method):
    """Log how well the distance of the weights from their start goes as log t, as sqrt t and as t.

    Measured after each step of the initial phase, until the learning rate falls below half of the highest so far: the
    law is that of a high rate. The record's `extras` get the R^2 of each law, the slope over log t and the steps that
    counted. Name it after the methods that change the network, so that it starts from what they leave.
    """

    name: ClassVar[str] = "weight-distance"
    strategies: ClassVar[frozenset[str]] = frozenset({"ddp"})

    def check_devices(self, recipe: Recipe, devices: int, strategy: str) -> None:
        if strategy == "fsdp":
            raise CannotTreat(
                "method 'weight-distance' measures whole tensors after every step, and under strategy fsdp a "
                "device has parts of them; give strategy ddp"
            )
        super().check_devices(recipe, devices, strategy)

    def setup(self, run: "Run") -> None:
        self._walk = weight_distance.WeightDistance(run.model)
        self._highest = 0.0

    def step(self, run: "Run", batch: Batch, proceed: Callable[[Batch], Tensor]) -> Tensor:
        lr = max(float(group["lr"]) for optimizer in run.optimizers.values() for group in optimizer.param_groups)
        loss = proceed(batch)
        self._highest = max(self._highest, lr)
        if lr < self._highest / 2:
            self._highest = float("inf")  # the phase is over, even if the rate should rise again
        else:
            self._walk.update(run.steps + 1)
        return loss

    def finish(self, run: "Run") -> None:
        if len(self._walk.steps) < 3:  # two points lie on a line of every law
            return
        for law in LAWS:
            run.log(f"weight_distance/r2_{law}", self._walk.fit(law).r2)
        run.log("weight_distance/slope_log", self._walk.fit("log").slope)
        run.log("weight_distance/steps", self._walk.steps[-1])

    def state_dict(self) -> dict[str, Any]:
        return {"walk": self._walk.state_dict(), "highest": self._highest}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._walk.load_state_dict(state["walk"])
        self._highest = state["highest"]
