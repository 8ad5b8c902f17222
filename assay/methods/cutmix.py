"""CutMix as a method of a run, with the mixup and cutout that it is compared with."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from torch import Tensor

from assay.data import mixing
from assay.engine import Batch, Method, Recipe
from assay.errors import AssayError, CannotTreat, UnknownName

if TYPE_CHECKING:
    from assay.engine import Run

MODES = {"cutmix": mixing.CutMix, "mixup": mixing.Mixup, "cutout": mixing.Cutout}


@dataclass
class CutMix(Method):
    """Each training batch is cut and mixed, and its loss is that of the mixed labels; evaluation is ordinary.

    On several devices each mixes the samples of its own part of the batch among themselves.

    Args:
        alpha: lam ~ Beta(alpha, alpha).
        prob: of mixing a batch: 1 for ImageNet, 0.5 for CIFAR in the authors' commands.
        mode: `cutmix`, or what the paper compares it with: `mixup` (blend) or `cutout` (a box of zeros).

    Raises:
        AssayError: a setting is out of its range.
    """

    name: ClassVar[str] = "cutmix"
    strategies: ClassVar[frozenset[str]] = frozenset({"ddp", "fsdp"})
    requires: ClassVar[frozenset[str]] = frozenset({"classification", "images"})
    needs: ClassVar[frozenset[str]] = frozenset({"loss"})

    alpha: float = 1.0
    prob: float = 1.0
    mode: Literal["cutmix", "mixup", "cutout"] = "cutmix"

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise UnknownName("mode", self.mode, MODES)
        try:
            MODES[self.mode](self.alpha, self.prob)
        except ValueError as error:
            raise AssayError(str(error)) from error

    def check_devices(self, recipe: Recipe, devices: int, strategy: str) -> None:
        super().check_devices(recipe, devices, strategy)
        if self.mode != "cutout" and recipe.batch_size < 2 * devices:
            raise CannotTreat(
                f"method 'cutmix' has nothing to mix on some of {devices} devices, which share a batch of "
                f"{recipe.batch_size}: raise batch_size"
            )

    def setup(self, run: "Run") -> None:
        self._mix = MODES[self.mode](self.alpha, self.prob, generator=run.generator("cutmix"))

    def batch(self, run: "Run", batch: Batch) -> Batch:
        x, y = self._mix(batch.x, batch.y)
        return Batch(x, y, batch.ids)

    def objective(self, run: "Run", batch: Batch, proceed: Callable[[Batch], Tensor]) -> Tensor:
        # around all that other methods made of the loss, whose targets are then never mixed ones
        inner = run.loss

        def loss(outputs: Any, targets: Any, reduction: str = "mean") -> Tensor:
            return mixing.mixed_loss(inner, outputs, targets, reduction)

        run.loss = loss
        try:
            return proceed(batch)
        finally:
            run.loss = inner
