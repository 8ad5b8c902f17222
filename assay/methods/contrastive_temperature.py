"""The contrastive losses of Wang and Liu (2021) as a method of a run."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

from torch import Tensor

from assay.engine import Method
from assay.errors import AssayError, UnknownName
from assay.losses.contrast import per_picture, two_views
from assay.losses.hard_contrastive import ALPHA, hard_contrastive, hard_simple_contrastive, warmed_alpha
from assay.losses.similarity import check_temperature

if TYPE_CHECKING:
    from assay.engine import Run

Form = Literal["contrastive", "hard", "simple", "hard-simple"]


@dataclass
class ContrastiveTemperature(Method):
    """The loss of a contrastive task is the ordinary one at another temperature, or one with a threshold.

    Args:
        form: `contrastive` (InfoNCE), `hard`, `simple` or `hard-simple`.
        temperature: tau > 0; the simple ones have none.
        alpha: share of the negatives that the hard ones keep, in (0, 1].
        warmup: share of the budget over which the choice narrows from all negatives to that share, in [0, 1]: from a
            random start, few negatives may let all embeddings collapse into one.

    Raises:
        AssayError: a setting is out of its range.
    """

    name: ClassVar[str] = "contrastive-temperature"
    requires: ClassVar[frozenset[str]] = frozenset({"contrastive"})
    needs: ClassVar[frozenset[str]] = frozenset({"loss", "budget"})

    form: Form = "hard"
    temperature: float = 1.0
    alpha: float = ALPHA
    warmup: float = 0.2

    def __post_init__(self) -> None:
        if self.form not in get_args(Form):
            raise UnknownName("form", self.form, get_args(Form))
        try:
            check_temperature(self.temperature)
        except ValueError as error:
            raise AssayError(str(error)) from None
        if not 0 < self.alpha <= 1:
            raise AssayError(f"alpha must lie in (0, 1], got {self.alpha}")
        if not 0 <= self.warmup <= 1:
            raise AssayError(f"warmup must lie in [0, 1], got {self.warmup}")

    def setup(self, run: "Run") -> None:
        def loss(outputs: Tensor, targets: Any, reduction: str = "mean") -> Tensor:
            contrast = two_views(*outputs.unbind(1))
            alpha = warmed_alpha(self.alpha, run.progress, self.warmup) if self.form.startswith("hard") else 1.0
            if self.form.endswith("simple"):
                return per_picture(hard_simple_contrastive(contrast, alpha=alpha), reduction)
            return per_picture(hard_contrastive(contrast, self.temperature, alpha), reduction)

        run.loss = loss
