"""CutMix as the treatment of a run; the transform itself is `assay.data.mixing.CutMix`.

Source: Yun et al., "CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features" (ICCV 2019).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from assay.data import mixing
from assay.engine import Batch, Method
from assay.errors import AssayError

if TYPE_CHECKING:
    from assay.engine import Run


@dataclass
class CutMix(Method):
    """Each training batch is cut and mixed, and its loss is that of the mixed labels; evaluation is ordinary.

    Args:
        alpha: lam ~ Beta(alpha, alpha).
        prob: of mixing a batch: 1 for ImageNet, 0.5 for CIFAR in the authors' commands.

    Raises:
        AssayError: a setting is out of its range.
    """

    name: ClassVar[str] = "cutmix"
    requires: ClassVar[frozenset[str]] = frozenset({"classification", "images"})

    alpha: float = 1.0
    prob: float = 1.0

    def __post_init__(self) -> None:
        try:
            mixing.CutMix(self.alpha, self.prob)
        except ValueError as error:
            raise AssayError(str(error)) from error

    def setup(self, run: "Run") -> None:
        self._mix = mixing.CutMix(self.alpha, self.prob, generator=run.generator("cutmix"))

    def batch(self, run: "Run", batch: Batch) -> Batch:
        return Batch(*self._mix(batch.x, batch.y), batch.ids)

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
