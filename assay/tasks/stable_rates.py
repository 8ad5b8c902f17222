"""The largest learning rate that trains, at several batch sizes: does it follow the rule by which rates were scaled?

Many copies of one small perceptron are trained side by side on the digits, one for each batch size B and each multiple
m of the learning rate that B is given. A rule that fits makes the largest multiple that trains the same at every B:

    log2 m_max(B) = slope log2 B + const        misfit = |slope|
"""

import copy
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from assay.analysis.fits import fit_line
from assay.engine import Batch, Evaluation, Examples, Metric, Recipe, Splits, Task
from assay.engine.task import batches
from assay.errors import AssayError
from assay.tasks.digits import Digits

if TYPE_CHECKING:
    from assay.engine import Run

SIZES = (2, 8, 32, 128)  # batches
OCTAVES = 5  # multiples go so far down and up
PER_OCTAVE = 2
GUESS = math.log(10)  # loss of a uniform guess
HIDDEN = 16


class StableRates(Task):
    """Perceptrons 64-16-10 with tanh, without normalisation, which would hide divergence.

    A network trains if its loss on unseen digits ends below that of a guess. The largest multiple of a batch size lies
    between the last that does and the first that does not, from the best one up. `misfit_half` asks for half the loss
    of a guess instead; `censored` is the share of batch sizes for which the edge lies outside the multiples tried.

    Args:
        octaves: the multiples go from 2^-octaves to 2^octaves, two an octave.

    Raises:
        AssayError: `octaves` is not positive.
    """

    name = "stable-rates"
    metrics = (Metric("misfit", "min", 1.0), Metric("misfit_half", "min", 1.0), Metric("censored", "min", 1.0))
    recipe = Recipe(optimizer="sgd", lr=1.0, momentum=0.0, batch_size=max(SIZES))
    budget = "60steps"
    varies = frozenset({"init", "order", "split"})

    def __init__(self, *, octaves: int = OCTAVES) -> None:
        if octaves < 1:
            raise AssayError(f"octaves must be at least 1, got {octaves}")
        self.octaves = octaves
        self.multiples = 2.0 ** (np.arange(-octaves * PER_OCTAVE, octaves * PER_OCTAVE + 1) / PER_OCTAVE)

    def settings(self) -> dict[str, Any]:
        return {"data": Digits().settings()["data"], "octaves": self.octaves, "batch_sizes": list(SIZES)}

    def splits(self, seed: int) -> Splits:
        return Digits().splits(seed)

    def model(self) -> nn.Module:
        first = nn.Sequential(nn.Flatten(), nn.Linear(64, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, 10))
        names = [f"{size}/{k}" for size in SIZES for k in range(len(self.multiples))]
        return nn.ModuleDict({name: copy.deepcopy(first) for name in names})

    def parameters(self, model: nn.Module) -> dict[str, Any]:
        return {
            "main": [{"params": [*n.parameters()], "batch_size": _size(name)} for name, n in model.named_children()]
        }

    def loss(self, outputs: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
        return cross_entropy(outputs, targets, reduction=reduction)

    def step(self, run: "Run", batch: Batch) -> Tensor:
        if len(batch.ids) < max(SIZES) or run.schedules:
            raise AssayError(
                f"task 'stable-rates' needs batch_size of at least {max(SIZES)} and schedule=constant without warm-up"
            )
        networks = dict(run.forward_module.named_children())
        if run.steps == 0:
            for name, group in zip(networks, run.optimizer.param_groups, strict=True):
                group["lr"] *= float(self.multiples[int(name.partition("/")[2])])
        losses = []
        for name, network in networks.items():
            size = _size(name)
            losses.append(run.loss(network(batch.x[:size]), batch.y[:size]))
        alive = [loss for loss in losses if bool(loss.isfinite())]
        if not alive:
            return torch.stack(losses).mean()
        total = torch.stack(alive).sum()
        run.backward(total)
        run.update()
        return total / len(alive)

    def evaluate(self, run: "Run", examples: Examples | None, batch_size: int = 500) -> Evaluation:
        if examples is None:
            return Evaluation({}, {})
        held = list(batches(examples, batch_size, run.device))
        target = torch.cat([batch.y for batch in held])
        found = [
            float(cross_entropy(torch.cat([network(batch.x) for batch in held]).float(), target))
            for network in run.forward_module.children()
        ]
        losses = np.array(found).reshape(len(SIZES), -1)
        slope, censored = self._slope(losses, GUESS)
        half, _ = self._slope(losses, GUESS / 2)
        return Evaluation({"misfit": abs(slope), "misfit_half": abs(half), "censored": censored, "slope": slope}, {})

    def _slope(self, losses: Float[np.ndarray, "sizes multiples"], threshold: float) -> tuple[float, float]:
        """Of log2 of the largest multiple over log2 B, and the share of sizes whose edge is not among the multiples."""
        edges = [last_below(row, threshold) for row in losses]
        octaves = np.log2(self.multiples[0]) + np.array([edge for edge, _ in edges]) / PER_OCTAVE
        return fit_line(np.log2(SIZES), octaves).slope, float(np.mean([not seen for _, seen in edges]))


def last_below(losses: Float[np.ndarray, " rates"], threshold: float) -> tuple[float, bool]:
    """Where, from the least loss up, losses stop being below `threshold`: halfway between two positions.

    Args:
        losses: by rising learning rate; one that is not finite is above any threshold.
        threshold: of a rate that trains.

    Returns:
        the position, and whether it was seen: it is the last one where the losses stay below, and the first where none
        is.
    """
    trains = np.isfinite(losses) & (losses < threshold)
    if not trains.any():
        return 0.0, False
    best = int(np.where(trains, losses, np.inf).argmin())
    failing = np.flatnonzero(~trains[best:])
    return (best + float(failing[0]) - 0.5, True) if len(failing) else (len(losses) - 1.0, False)


def _size(name: str) -> int:
    return int(name.partition("/")[0])
