"""Label smoothing: part of each target's mass is spread evenly over the classes.

    q'(k) = (1 - smoothing) q(k) + smoothing / K

Source: Szegedy et al., "Rethinking the Inception Architecture for Computer Vision" (2016), section 7.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from assay.engine import Method
from assay.errors import AssayError

if TYPE_CHECKING:
    from assay.engine import Run


@dataclass
class LabelSmoothing(Method):
    """Train on smoothed targets; evaluation keeps the true ones.

    Args:
        smoothing: share of the mass that is spread, in [0, 1); 0 changes nothing.

    Raises:
        AssayError: `smoothing` lies outside [0, 1).
    """

    name: ClassVar[str] = "label-smoothing"
    strategies: ClassVar[frozenset[str]] = frozenset({"ddp", "fsdp"})
    requires: ClassVar[frozenset[str]] = frozenset({"classification"})

    smoothing: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.smoothing < 1:
            raise AssayError(f"smoothing must lie in [0, 1), got {self.smoothing:g}")

    def setup(self, run: "Run") -> None:
        inner = run.loss

        def loss(outputs: Tensor, targets: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            return inner(outputs, smoothed(targets, outputs, self.smoothing), *args, **kwargs)

        run.loss = loss


def smoothed(targets: Tensor, logits: Tensor, smoothing: float) -> Float[Tensor, "batch classes *rest"]:
    """Smoothed class probabilities.

    Args:
        targets: class indices [batch, *rest] or probabilities [batch, classes, *rest].
        logits: [batch, classes, *rest]; only their shape and dtype are read.
        smoothing: in [0, 1).
    """
    classes = logits.shape[1]
    if not targets.is_floating_point():
        targets = torch.zeros_like(logits).scatter(1, targets.unsqueeze(1), 1)
    return targets.to(logits.dtype) * (1 - smoothing) + smoothing / classes
