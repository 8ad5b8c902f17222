"""A method: one change to how a network is built, trained or used, attached to the hooks of a run."""

from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from assay.engine.task import Batch, Task
from assay.errors import CannotTreat

if TYPE_CHECKING:
    from assay.engine.recipe import Recipe
    from assay.engine.run import Run


class Method:
    """Base of every method: each hook is a no-op until it is overridden, and costs nothing until then.

    A subclass is a dataclass whose fields are its settings (JSON-able values); whatever it needs during a run it makes
    in `setup`. A run works on a copy, so one object may serve many runs. The time and the FLOPs of every hook count as
    the run's; those of a step are measured once a batch shape, see `Run.recount`.

    Attributes:
        name: what reports and the command line call it.
        requires: traits a task must have for the method to make sense on it.
        strategies: ways to share a run among devices (`ddp`, `fsdp`) under which it has been tested to be what it is on
            one, or what its docstring says. Its state and its generators are then the same on all of them.
        needs: what its hooks after `setup` use of a run and other trainers may not have, so that these can refuse it
            beforehand: among `loss`, `ids`, `splits`, `stream`, `evaluate`, `budget`, `seconds` and `flops`.
    """

    name: ClassVar[str] = ""
    requires: ClassVar[frozenset[str]] = frozenset()
    needs: ClassVar[frozenset[str]] = frozenset()
    strategies: ClassVar[frozenset[str]] = frozenset()

    def settings(self) -> dict[str, Any]:
        """The values that distinguish this method from others of its class: part of what identifies a run."""
        return {f.name: getattr(self, f.name) for f in fields(self)} if is_dataclass(self) else {}

    def check(self, task: Task, recipe: "Recipe") -> None:
        """Refuse, before anything is run, what cannot work.

        Raises:
            CannotTreat: the task lacks something the method acts on.
        """
        missing = sorted(self.requires - task.traits)
        if missing:
            has = ", ".join(sorted(task.traits)) or "no traits"
            raise CannotTreat(
                f"method {self.name!r} cannot treat task {task.name!r}: "
                f"it needs {' and '.join(missing)}, the task has {has}"
            )

    def check_devices(self, recipe: "Recipe", devices: int, strategy: str) -> None:
        """Refuse to be shared by several `devices` where it would not be the method that it is on one.

        Raises:
            CannotTreat: it would not, or nobody has tested that it is.
        """
        if strategy not in self.strategies:
            tested = f", only under {' and '.join(sorted(self.strategies))}" if self.strategies else ""
            raise CannotTreat(
                f"method {self.name!r} is not tested on several devices under strategy {strategy}{tested}; give "
                "devices=1, or name the strategy in the method's `strategies` once you have tested it"
            )

    def setup(self, run: "Run") -> None:
        """Before the optimizers exist: model surgery, wrap `run.loss`, replace `run.splits`, or set
        `run.make_optimizer`, `run.make_schedule` and `run.make_stream`."""

    def batch(self, run: "Run", batch: Batch) -> Batch:
        """On the device, before the forward pass."""
        return batch

    def step(self, run: "Run", batch: Batch, proceed: Callable[[Batch], Tensor]) -> Tensor:
        """Around one whole training step."""
        return proceed(batch)

    def objective(self, run: "Run", batch: Batch, proceed: Callable[[Batch], Tensor]) -> Tensor:
        """Around the computation of the scalar loss."""
        return proceed(batch)

    def gradients(self, run: "Run") -> None:
        """After backward (and unscaling), before clipping and the optimizer's step; `run.updating` names it."""

    def updated(self, run: "Run") -> None:
        """After an optimizer's step."""

    def epoch(self, run: "Run") -> None:
        """At an epoch's end."""

    def finish(self, run: "Run") -> None:
        """After training, before the final evaluation: calibrate, fold, quantize. How many examples an evaluation reads
        at a time is `run.evaluation_batch_size`."""

    def evaluation(self, run: "Run") -> None:
        """Before each stretch of examples that an evaluation reads, in the midst of training too: what adapts to the
        data it is judged on starts anew here."""

    def state_dict(self) -> dict[str, Any]:
        """All that an exact resume needs: tensors, numbers, strings and nestings of them."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what `state_dict` gave; the run calls it after `setup`, before it puts the weights back."""
