"""SGD whose learning rate and weight decay are constant between epochs fixed beforehand.

    lr(e), weight_decay(e) = those of the last phase that has begun at epoch e

Carried to a larger batch, every rate goes with the root of the batch and, if wished, every epoch with the batch itself:
see `assay.optim.large_batch`.

Source: Hoffer, Hubara, Soudry, "Train longer, generalize better" (NIPS 2017), the regimes of its experiments.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from torch import Tensor
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from assay.optim.large_batch import adapt_regime, sqrt_scaled_lr


class Phase(NamedTuple):
    """What holds from the beginning of `epoch` (0 is the first) until the next phase."""

    epoch: int
    lr: float
    weight_decay: float


@dataclass(frozen=True)
class SGDRegime:
    """How a network is trained: phases, length, and the batch size for which they were found.

    Args:
        phases: in the order of their epochs, the first at 0; rates are positive and may rise. Weight decay is not
            negative, and 0 throughout if it is so in the first phase.
        epochs: length of the training; phases from there on are never reached.
        batch_size: samples a step.
        momentum: SGD's, in [0, 1).

    Raises:
        ValueError: one of them is not so.
    """

    phases: tuple[Phase, ...]
    epochs: int
    batch_size: int = 128
    momentum: float = 0.9

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must lie in [0, 1), got {self.momentum}")
        starts = [phase.epoch for phase in self.phases]
        if starts[:1] != [0] or starts != sorted(set(starts)):
            raise ValueError(f"phases must begin at growing epochs, the first at 0, got {starts}")
        for phase in self.phases:
            if not 0 < phase.lr < math.inf:
                raise ValueError(f"lr must be positive and finite, got {phase.lr} at epoch {phase.epoch}")
            if not 0 <= phase.weight_decay < math.inf:
                raise ValueError(f"weight_decay must be finite and not negative, got {phase.weight_decay}")
            if phase.weight_decay and not self.phases[0].weight_decay:
                # it acts as a factor on each group's own decay
                raise ValueError(f"weight_decay cannot rise from 0, got {phase.weight_decay} at epoch {phase.epoch}")

    def at(self, epoch: int) -> Phase:
        """The phase in force during `epoch`, from 0 on.

        Raises:
            ValueError: `epoch` is negative.
        """
        if epoch < 0:
            raise ValueError(f"epoch must not be negative, got {epoch}")
        return [phase for phase in self.phases if phase.epoch <= epoch][-1]

    def for_batch(self, batch_size: int, *, scale_lr: bool = True, adapt: bool = False) -> "SGDRegime":
        """The regime carried over to another batch size.

        Args:
            batch_size: samples a step now.
            scale_lr: multiply every rate by the root of the ratio of the batch sizes.
            adapt: as many updates as before: multiply every epoch by that ratio, rounded up. Off in the authors' code.

        Raises:
            ValueError: `batch_size` is not positive.
        """
        starts, epochs = tuple(phase.epoch for phase in self.phases), self.epochs
        rates = [sqrt_scaled_lr(phase.lr, self.batch_size, batch_size) for phase in self.phases]
        if adapt:
            epochs, starts = adapt_regime(starts, epochs, self.batch_size, batch_size)
        phases = tuple(
            Phase(start, lr if scale_lr else phase.lr, phase.weight_decay)
            for start, lr, phase in zip(starts, rates, self.phases, strict=True)
        )
        return replace(self, phases=phases, epochs=epochs, batch_size=batch_size)

    def optimizer(self, parameters: Iterable[Tensor] | Iterable[dict[str, Any]]) -> SGD:
        """SGD with the settings of the first phase, over tensors or parameter groups."""
        first = self.phases[0]
        return SGD(parameters, lr=first.lr, momentum=self.momentum, weight_decay=first.weight_decay)

    def schedule(self, optimizer: Optimizer, steps_per_epoch: int = 1) -> "RegimeSchedule":
        """The scheduler that takes `optimizer` through the phases; see `RegimeSchedule`."""
        return RegimeSchedule(optimizer, self, steps_per_epoch)


class RegimeSchedule(LRScheduler):
    """Sets learning rate and weight decay of every group as a regime has them.

    Both are factors on what each group began with, so that a group without decay stays without.

    Args:
        optimizer: its groups have the rate and the decay of the regime's first phase, or their own in its place.
        regime: the phases; its length is its user's to keep.
        steps_per_epoch: calls of `step()` that make an epoch: 1 if it is called after each epoch.

    Raises:
        ValueError: `steps_per_epoch` is not positive, or the optimizer has no weight decay.
    """

    def __init__(self, optimizer: Optimizer, regime: SGDRegime, steps_per_epoch: int = 1) -> None:
        if steps_per_epoch < 1:
            raise ValueError(f"steps_per_epoch must be positive, got {steps_per_epoch}")
        self._regime, self._steps_per_epoch = regime, steps_per_epoch
        for group in optimizer.param_groups:
            if "weight_decay" not in group:
                raise ValueError(f"optimizer must have weight_decay, which {type(optimizer).__name__} lacks")
            group.setdefault("initial_weight_decay", group["weight_decay"])
        super().__init__(optimizer)

    def get_lr(self) -> list[float | Tensor]:
        """The groups' learning rates at this step."""
        factor = self._phase.lr / self._regime.phases[0].lr
        return [base * factor for base in self.base_lrs]

    def step(self, epoch: int | None = None) -> None:
        """Go on by one step.

        Args:
            epoch: torch's deprecated way to jump to a step.
        """
        super().step(epoch)
        first = self._regime.phases[0].weight_decay
        factor = self._phase.weight_decay / first if first else 1.0
        for group in self.optimizer.param_groups:
            group["weight_decay"] = group["initial_weight_decay"] * factor

    @property
    def _phase(self) -> Phase:
        return self._regime.at(self.last_epoch // self._steps_per_epoch)

    def state_dict(self) -> dict[str, Any]:
        """Where it stands, as plain values; the regime is given anew at construction."""
        return {k: v for k, v in super().state_dict().items() if k not in ("_regime", "_steps_per_epoch")}


def _phases(*entries: tuple[int, float], weight_decay: float) -> tuple[Phase, ...]:
    return tuple(Phase(epoch, lr, weight_decay) for epoch, lr in entries)


# The regimes of the paper at batches of 128, by the names that the networks have in `assay.models.large_batch`.
F1 = SGDRegime(_phases((0, 1e-1), (10, 1e-2), (20, 1e-3), (30, 1e-4), weight_decay=1e-4), epochs=50)
RESNET44 = SGDRegime(_phases((0, 1e-1), (81, 1e-2), (122, 1e-3), (164, 1e-4), weight_decay=1e-4), epochs=200)
# The paper's code gives no weight decay of its own here: that of Zagoruyko and Komodakis, whose rates these nearly are.
WRESNET16_4 = SGDRegime(_phases((0, 1e-1), (60, 2e-2), (120, 4e-3), (140, 1e-4), weight_decay=5e-4), epochs=200)
SHALLOW_CIFAR = SGDRegime(_phases((0, 1e-3), (60, 1e-2), (120, 1e-3), (180, 1e-4), weight_decay=5e-4), epochs=200)
# Likewise Krizhevsky's weight decay (2012); and 30 epochs, which leave the last phase as long as those before it.
ALEXNET_BN = SGDRegime(
    (
        *_phases((0, 1e-2), (10, 5e-3), weight_decay=5e-4),
        *_phases((15, 1e-3), (20, 5e-4), (25, 1e-4), weight_decay=0.0),
    ),
    epochs=30,
)
