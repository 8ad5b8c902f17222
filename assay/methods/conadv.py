"""Concurrent adversarial learning as a method of a run."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from assay.data.concurrent_adversary import ConcurrentAdversary, concurrent_loss
from assay.engine import Batch, Method, Recipe, Task
from assay.engine.task import to_device
from assay.errors import AssayError, CannotTreat, UnknownName
from assay.methods.adversarial_training import attack_for, check_attackable, classes_of
from assay.nn.split_batch_norm import keep_stream, to_split_batch_norm

if TYPE_CHECKING:
    from assay.engine import Run


@dataclass
class ConAdv(Method):
    """Each step adds the loss of an adversarial batch, made by the weights of some steps before.

    The first `staleness` steps have clean batches alone. Batch norm is split in two while training; what remains is the
    network with the clean half, which evaluations in between use as well. Whether attack and step run at the same time
    changes no figure but seconds.

    Args:
        epsilon: radius of the attack in l-inf, in pixels of [0, 1].
        step_size: of its one step, likewise; epsilon by default.
        staleness: age of the weights in steps; 0 is sequential adversarial training.
        random_start: probability that a batch's attack starts at random in the ball.
        targeted: towards a random wrong class instead of away from the true one.
        adv_weight: of the adversarial loss.
        reduction: `sum` of clean and weighted adversarial loss, or their `mean`, which is it over 1 + adv_weight.
        split_bn: batch norm of their own for adversarial batches, where the network has any.
        concurrent: attack on a second core, or a second CUDA stream; not where every run is to have one core.

    Raises:
        AssayError: a setting is out of range.
    """

    name: ClassVar[str] = "conadv"
    requires: ClassVar[frozenset[str]] = frozenset({"classification", "images"})
    needs: ClassVar[frozenset[str]] = frozenset({"loss", "stream"})

    epsilon: float = 9 / 255
    step_size: float | None = None
    staleness: int = 1
    random_start: float = 0.0
    targeted: bool = False
    adv_weight: float = 1.0
    reduction: Literal["sum", "mean"] = "sum"
    split_bn: bool = True
    concurrent: bool = False

    def __post_init__(self) -> None:
        attack_for(None, self.epsilon, 1, self.step_size, "linf")
        if self.staleness < 0:
            raise AssayError(f"staleness must be at least 0, got {self.staleness}")
        if not 0 <= self.random_start <= 1:
            raise AssayError(f"random_start must lie in [0, 1], got {self.random_start:g}")
        if not self.adv_weight >= 0:
            raise AssayError(f"adv_weight must be at least 0, got {self.adv_weight:g}")
        if self.reduction not in ("sum", "mean"):
            raise UnknownName("reduction", self.reduction, ("sum", "mean"))

    def check(self, task: Task, recipe: Recipe) -> None:
        super().check(task, recipe)
        check_attackable(self, task, recipe)
        others = [m for m in recipe.methods if (type(m).batch, type(m).step) != (Method.batch, Method.step)]
        if others:
            raise CannotTreat(
                f"method 'conadv' cannot be combined with {others[0].name!r}, which changes batches or has a training "
                "step of its own: it attacks batches that are still to come, whole and as they are in the data"
            )

    def setup(self, run: "Run") -> None:
        self._adversary: ConcurrentAdversary | None = None
        self._state: dict[str, Any] = {"waiting": []}
        if self.split_bn and any(isinstance(layer, _BatchNorm) for layer in run.model.modules()):
            run.model = to_split_batch_norm(run.model)

    def objective(self, run: "Run", batch: Batch, proceed: Callable[[Batch], Tensor]) -> Tensor:
        adversary = self._adversary = self._adversary or self._made(run)
        ahead = self._ahead(run) if self.staleness else batch
        moved = adversary.start(ahead.x, classes_of(self, run, ahead))
        if run.steps == self.staleness - 1:
            run.recount()  # the next step is the first with an adversarial batch
        return concurrent_loss(
            run.forward_module, batch.x, batch.y, moved,
            loss=run.loss, adv_weight=self.adv_weight, reduction=self.reduction,
        )  # fmt: skip

    def gradients(self, run: "Run") -> None:
        if self._adversary is not None:
            self._adversary.wait()

    def finish(self, run: "Run") -> None:
        run.model = keep_stream(run.model)

    def state_dict(self) -> dict[str, Any]:
        return self._state if self._adversary is None else self._adversary.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._state = state

    def _made(self, run: "Run") -> ConcurrentAdversary:
        """At the first step, when every method has done its surgery."""
        assert run.task.pixels is not None  # as `check` has seen
        mean, std = run.task.pixels
        made = ConcurrentAdversary(
            run.arithmetic.wrap(run.model), self.epsilon, step_size=self.step_size, staleness=self.staleness,
            random_start=self.random_start, targeted=self.targeted, loss=run.loss, mean=mean, std=std,
            generator=run.generator(self.name), concurrent=self.concurrent,
        )  # fmt: skip
        made.load_state_dict(self._state)
        return made

    def _ahead(self, run: "Run") -> Batch:
        """The batch of `staleness` steps from here; the stream stays where it is."""
        place = run.stream.state_dict()
        for _ in range(self.staleness):
            batch = run.stream.next()
        run.stream.load_state_dict(place)
        return to_device(batch, run.device)
