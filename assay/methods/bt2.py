"""Backward-compatible training as a method of a run: BT^2, and BCT as its baseline."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor

from assay.engine import Batch, Method, Run, chance
from assay.engine.flops import uncounted
from assay.engine.task import batches
from assay.errors import AssayError, CannotTreat
from assay.losses.backward_compatible import BCTLoss, BT2Loss, pseudo_classifier
from assay.models.embedder import BT2Embedder, Embedder
from assay.nn.basis_transformation import BT2Head

if TYPE_CHECKING:
    from torch import nn


@dataclass
class BT2(Method):
    """The new embedding holds a part that answers in the old model's space.

    BT^2 needs an independent new model to follow: the same run without methods, which is trained first and whose cost
    counts as this run's.

    Args:
        mode: `bt2`, or `bct`, backward-compatible training: the ordinary network under the influence loss.
        influence: weight of the cross-entropy by the old model's class means; alpha of BCT.
        old: weight of the pull to the old model's features; BCT itself has 0.
        new: weight of the pull to the independent model's features; `bt2` alone.
        added_dim: dimensions of the embedding beside those of the task; under `bct` ordinary ones.
        scale: C of the head; `bt2` alone.

    Raises:
        AssayError: a weight is negative, the scale not positive, or `added_dim` negative.
    """

    name: ClassVar[str] = "bt2"
    requires: ClassVar[frozenset[str]] = frozenset({"retrieval"})
    needs: ClassVar[frozenset[str]] = frozenset({"ids", "splits", "budget"})

    mode: Literal["bt2", "bct"] = "bt2"
    influence: float = 10.0
    old: float = 5.0
    new: float = 1.0
    added_dim: int = 4
    scale: float = 2.0

    def __post_init__(self) -> None:
        for name in ("influence", "old", "new"):
            if not getattr(self, name) >= 0:
                raise AssayError(f"{name} must be at least 0, got {getattr(self, name):g}")
        if not self.scale > 0:
            raise AssayError(f"scale must be positive, got {self.scale:g}")
        if self.added_dim < 0:
            raise AssayError(f"added_dim must be at least 0, got {self.added_dim}")

    def settings(self) -> dict[str, Any]:
        """Those that the mode has a use for."""
        unused = {"new", "scale"} if self.mode == "bct" else set()
        return {name: value for name, value in super().settings().items() if name not in unused}

    def setup(self, run: Run) -> None:
        task, model = run.task, run.model
        if not isinstance(model, Embedder) or run.splits.train is None:
            raise CannotTreat(f"method 'bt2' cannot treat task {task.name!r} after a method that changes its network")
        scale: float = task.logit_scale  # type: ignore[attr-defined]  # the trait `retrieval` has it
        labels, old = _targets(run)
        means = pseudo_classifier(old, labels, model.classes).to(run.device)
        if self.mode == "bct":
            run.model = Embedder(model.backbone, model.width, model.dim + self.added_dim, model.classes)
            bct = BCTLoss(means, alpha=self.influence, lambda_old=self.old, logit_scale=scale)
            self._loss: Callable[[Any, Batch], Tensor] = lambda outputs, batch: bct(*outputs, *batch.y)
            return
        followed = _features(_independent(run), run)
        try:
            head = BT2Head(old.shape[1], model.dim, model.classes, added_dim=self.added_dim, scale=self.scale)
        except ValueError as error:
            raise CannotTreat(f"method 'bt2' cannot treat task {task.name!r}: {error}") from error
        run.model = BT2Embedder(model.backbone, model.width, head)
        bt2 = BT2Loss(
            means, lambda_new=self.new, lambda_influence=self.influence, lambda_old=self.old, logit_scale=scale
        )
        self._loss = lambda outputs, batch: bt2(outputs, *batch.y, followed[batch.ids])

    def objective(self, run: Run, batch: Batch, proceed: Callable[[Batch], Tensor]) -> Tensor:
        return self._loss(run.forward(batch.x), batch)


def _independent(run: Run) -> "nn.Module":
    """The network of the same run without methods, trained."""
    with chance.kept():
        alone = Run(
            run.task,
            run.recipe.with_methods(()),
            run.seed,
            run.budget,
            vary=run.vary,
            evaluations=0,
            test=False,
            accelerator=run.accelerator,
        )
        with uncounted():
            record = alone.train()
    if record.status == "diverged":
        raise AssayError("method 'bt2': the independent model diverged, so there is nothing to follow")
    run.flops += record.flops
    return alone.model


@torch.no_grad()
def _features(model: "nn.Module", run: Run) -> Tensor:
    """[samples, d] of the training split, by id."""
    model.eval()
    found = [model(b.x).embedding for b in batches(run.splits.train, 500, run.device)]  # type: ignore[arg-type]
    return torch.cat(found)


def _targets(run: Run) -> tuple[Tensor, Tensor]:
    """Labels and old features of the training split."""
    found = [b.y for b in batches(run.splits.train, 500, torch.device("cpu"))]  # type: ignore[arg-type]
    labels, old = zip(*found, strict=True)
    return torch.cat(labels), torch.cat(old)
