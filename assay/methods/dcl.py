"""Decoupled contrastive learning as a method of a run."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

from torch import Tensor

from assay.engine import Method
from assay.errors import AssayError, UnknownName
from assay.losses.contrast import TwoViewLoss, per_picture
from assay.losses.decoupled_contrastive import DecoupledContrastiveLoss, WeightedDecoupledContrastiveLoss
from assay.losses.info_nce import InfoNCELoss

if TYPE_CHECKING:
    from assay.engine import Run

Form = Literal["dcl", "dclw", "info-nce"]


@dataclass
class DCL(Method):
    """The loss of a contrastive task is DCL, DCLW or, so that it may be tuned alike, InfoNCE.

    Args:
        temperature: tau > 0.
        form: `dcl`, `dclw` or `info-nce`.
        sigma: concentration of DCLW's weights.

    Raises:
        AssayError: a setting is out of its range.
    """

    name: ClassVar[str] = "dcl"
    requires: ClassVar[frozenset[str]] = frozenset({"contrastive"})
    needs: ClassVar[frozenset[str]] = frozenset({"loss"})

    temperature: float = 0.1
    form: Form = "dcl"
    sigma: float = 0.5

    def __post_init__(self) -> None:
        if self.form not in get_args(Form):
            raise UnknownName("form", self.form, get_args(Form))
        try:
            self._made()
        except ValueError as error:
            raise AssayError(str(error)) from None

    def _made(self) -> TwoViewLoss:
        if self.form == "dclw":
            return WeightedDecoupledContrastiveLoss(self.temperature, self.sigma, reduction="none")
        kind = DecoupledContrastiveLoss if self.form == "dcl" else InfoNCELoss
        return kind(self.temperature, reduction="none")

    def setup(self, run: "Run") -> None:
        criterion = self._made()

        def loss(outputs: Tensor, targets: Any, reduction: str = "mean") -> Tensor:
            return per_picture(criterion(*outputs.unbind(1)), reduction)

        run.loss = loss
