"""Measures of many batches together, in one process or in several.

`Accumulated` keeps the predictions and gives any measure exactly. `BinnedCalibration` keeps sums by bin, whose size
does not grow, and gives the measures by equal widths and the proper scores.

    ece = Accumulated(expected_calibration_error)
    for x, y in batches:
        ece.update(model(x), y)
    ece.gathered().compute()
"""

from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import pad

from assay.metrics.calibration.bins import BinSums, class_rows, error_of, uniform_sums
from assay.metrics.calibration.predictions import checked, top_label
from assay.metrics.calibration.scores import brier_of, nll_of

T = TypeVar("T")


class Accumulated(Generic[T]):
    """Any measure, of all the examples that came in.

    Args:
        measure: `(predictions, target) -> value`; one that wants options is given as a `functools.partial` with them.
        device: where predictions are kept; with NCCL, a GPU.
    """

    def __init__(self, measure: Callable[[Tensor, Tensor], T], *, device: str | torch.device = "cpu") -> None:
        self.measure, self.device = measure, torch.device(device)
        self._predictions: list[Tensor] = []
        self._targets: list[Tensor] = []

    def update(self, predictions: Tensor, target: Tensor) -> None:
        """Add a batch; gradients are not kept.

        Args:
            predictions: float [n, classes, *places], as the measure takes it.
            target: whole numbers [n, *places].

        Raises:
            ValueError: their shapes do not fit, or the classes are not as many as before.
        """
        if predictions.ndim < 2 or target.shape != predictions.shape[:1] + predictions.shape[2:]:
            raise ValueError(
                "predictions [n, classes, ...] and target [n, ...] must fit, "
                f"got {list(predictions.shape)} and {list(target.shape)}"
            )
        predictions = predictions.detach().movedim(1, -1).flatten(0, -2)
        if self._predictions and self._predictions[0].shape[1] != predictions.shape[1]:
            raise ValueError(
                f"predictions must have {self._predictions[0].shape[1]} classes as before, got {predictions.shape[1]}"
            )
        dtype = torch.float64 if predictions.dtype == torch.float64 else torch.float32
        self._predictions.append(predictions.to(self.device, dtype, copy=True))
        self._targets.append(target.detach().flatten().to(self.device, torch.long, copy=True))

    def compute(self) -> T:
        """The measure of what this process has seen.

        Raises:
            ValueError: that is nothing.
        """
        if not self._predictions:
            raise ValueError("nothing to compute: give at least one batch to update() first")
        return self.measure(torch.cat(self._predictions), torch.cat(self._targets))

    def gathered(self, group: Any = None) -> "Accumulated[T]":
        """One that has seen what all processes have, in the order of their ranks; every process has to call it."""
        both = Accumulated(self.measure, device=self.device)
        have = bool(self._predictions)
        predictions = torch.cat(self._predictions) if have else torch.zeros(0, 0, device=self.device)
        targets = torch.cat(self._targets) if have else torch.zeros(0, dtype=torch.long, device=self.device)
        double = predictions.dtype == torch.float64
        mine = torch.tensor([*predictions.shape, double], device=self.device)
        sizes = [torch.empty_like(mine) for _ in range(dist.get_world_size(group))]
        dist.all_gather(sizes, mine, group=group)
        counts, classes, doubles = (list(column) for column in zip(*(s.tolist() for s in sizes), strict=True))
        if len({k for k, n in zip(classes, counts, strict=True) if n}) > 1:
            raise ValueError(f"all processes must have as many classes, got {classes}")
        most, width = max(counts), max(classes)
        wide = predictions.to(torch.float64 if any(doubles) else torch.float32)
        wide = pad(wide, (0, width - wide.shape[1], 0, most - len(wide)))
        parts = [torch.empty_like(wide) for _ in counts]
        classes_of = pad(targets, (0, most - len(targets)))
        labels = [torch.empty_like(classes_of) for _ in counts]
        dist.all_gather(parts, wide, group=group)
        dist.all_gather(labels, classes_of, group=group)
        for part, label, count in zip(parts, labels, counts, strict=True):
            if count:
                both.update(part[:count], label[:count])
        return both

    def reset(self) -> None:
        """Forget everything."""
        self._predictions, self._targets = [], []

    def state_dict(self) -> dict[str, Any]:
        """What has been seen."""
        return {"predictions": list(self._predictions), "targets": list(self._targets)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what `state_dict` gave."""
        self._predictions = [p.to(self.device) for p in state["predictions"]]
        self._targets = [t.to(self.device) for t in state["targets"]]


class BinnedCalibration:
    """ECE, MCE and cwCE by bins of equal width, NLL, Brier score and accuracy, from sums of a fixed size.

    Args:
        classes: of the predictions.
        bins: numbers of bins, each at least 1.
        device: where the sums are kept; with NCCL, a GPU.

    Raises:
        ValueError: `classes` or a number of bins is below 1.
    """

    def __init__(self, classes: int, bins: Sequence[int] = (15,), *, device: str | torch.device = "cpu") -> None:
        if min(classes, *bins) < 1 or not bins:
            raise ValueError(f"classes and bins must be at least 1, got {classes} and {list(bins)}")
        self.classes, self.bins, self.device = classes, tuple(bins), torch.device(device)
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        size = (1 + self.classes) * sum(self.bins)  # the predicted class, then every class
        self.totals = torch.zeros(4, dtype=torch.float64, device=self.device)  # examples, hits, NLL, Brier
        self.counts = torch.zeros(size, dtype=torch.long, device=self.device)
        self.gaps = torch.zeros(size, dtype=torch.float64, device=self.device)

    @torch.no_grad()
    def update(self, predictions: Tensor, target: Tensor, *, ignore_index: int | None = None) -> None:
        """Add a batch.

        Args:
            predictions: logits, float [n, classes, *places].
            target: classes, whole numbers [n, *places].
            ignore_index: class of places that do not count.

        Raises:
            TypeError, ValueError: as `assay.metrics.calibration.predictions.checked`; or the classes are not as many.
        """
        given = checked(predictions, target, ignore_index=ignore_index)
        if given.probabilities.shape[1] != self.classes:
            raise ValueError(f"predictions must have {self.classes} classes, got {given.probabilities.shape[1]}")
        n, top = len(given.target), top_label(given)
        series = [(top.confidence[None], top.correct[None]), *class_rows(given)]
        sums = [uniform_sums(c, a, b) for c, a in series for b in self.bins]
        order = sorted(range(len(sums)), key=lambda i: i % len(self.bins))  # all series of the first number of bins ...
        self.counts += torch.cat([sums[i].count.flatten() for i in order]).to(self.device)
        self.gaps += torch.cat([sums[i].gap.flatten() for i in order]).to(self.device)
        scores = [nll_of(given).double() * n, brier_of(given).double() * n]
        self.totals += torch.stack([scores[0].new_tensor(n), top.correct.double().sum(), *scores]).to(self.device)

    def gathered(self, group: Any = None) -> "BinnedCalibration":
        """One that has seen what all processes have; every process has to call it."""
        both = BinnedCalibration(self.classes, self.bins, device=self.device)
        both.load_state_dict(self.state_dict())
        for total in (both.totals, both.counts, both.gaps):
            dist.all_reduce(total, group=group)
        return both

    def compute(self) -> dict[str, float]:
        """Figures by name, as `calibration_report` has them.

        Raises:
            ValueError: nothing has been seen.
        """
        n, hits, nll, brier = self.totals.tolist()
        if not n:
            raise ValueError("nothing to compute: give at least one batch to update() first")
        found = {}
        sizes = [(1 + self.classes) * b for b in self.bins]
        for n_bins, count, gap in zip(
            self.bins, *(torch.split(t, sizes) for t in (self.counts, self.gaps)), strict=True
        ):
            sums = BinSums(count.view(-1, n_bins), gap.view(-1, n_bins), int(n))
            expected = error_of(sums, "l1").tolist()
            found[f"ece_{n_bins}"] = expected[0]
            found[f"mce_{n_bins}"] = float(error_of(sums, "max")[0])
            found[f"cwce_{n_bins}"] = sum(expected[1:]) / self.classes
        return found | {"nll": nll / n, "brier": brier / n, "accuracy": hits / n}

    def state_dict(self) -> dict[str, Tensor]:
        """The sums."""
        return {"totals": self.totals.clone(), "counts": self.counts.clone(), "gaps": self.gaps.clone()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Put back what `state_dict` gave.

        Raises:
            ValueError: it is of other bins or classes.
        """
        if state["counts"].shape != self.counts.shape:
            raise ValueError(f"state must hold {len(self.counts)} sums, got {len(state['counts'])}")
        for name, total in state.items():
            getattr(self, name).copy_(total)
