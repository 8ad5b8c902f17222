"""Many small networks at once on the pictures of another task, judged by how their calibration ranks them.

A stand-in for studies on NATS-Bench: a run draws networks from the space of `assay.models.mlp_space`, trains them side
by side on the same batches, and reports what the measures say of all of them together.
"""

import math
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from assay.analysis.calibration_study import Study
from assay.engine import Batch, Evaluation, Examples, Metric, Recipe, Splits
from assay.engine.task import batches
from assay.errors import AssayError, UnknownName
from assay.metrics.calibration.report import calibration_report
from assay.models.mlp_space import SPACE, draw
from assay.tasks.classification import Classification
from assay.tasks.digits import Digits
from assay.tasks.fashion_mnist import FashionMNIST

if TYPE_CHECKING:
    from assay.engine import Run

BINS = (15, 25, 100, 500)
SIDES = {"fashion-mnist": 28, "digits": 8}  # of the pictures


class NetworkSpace(Classification):
    """Networks drawn from a space of perceptrons, each trained by itself on what all see; the seed draws which.

    Args:
        networks: how many, 2 to 160.
        data: `fashion-mnist` or `digits`.
        train_size: images of Fashion-MNIST to train on, 10 to 55,000; 1000 by default.
        data_dir: the folder of data sets, see `assay.data.locate.data_dir`.

    Raises:
        AssayError: `networks` or `train_size` is out of range, or the latter given for the digits.
    """

    name = "network-space"
    metrics = (
        Metric("agreement", "max", -1.0),
        Metric("ece", "min", 1.0, "%"),
        Metric("accuracy", "max", 0.0, "%"),
    )
    recipe = Recipe(lr=0.05, momentum=0.9, weight_decay=5e-4, schedule="cosine", batch_size=64)
    budget = "20epochs"

    traits = frozenset({"classification", "images"})
    varies = frozenset({"init", "order", "split"})

    def __init__(
        self,
        *,
        networks: int = 50,
        data: Literal["fashion-mnist", "digits"] = "fashion-mnist",
        train_size: int | None = None,
        data_dir: str | None = None,
    ) -> None:
        if data not in SIDES:
            raise UnknownName("data", data, SIDES)
        if data == "digits" and train_size is not None:
            raise AssayError("train_size is of data=fashion-mnist; the digits come in one size")
        self.data: Classification = (
            Digits()
            if data == "digits"
            else FashionMNIST(train_size=1000 if train_size is None else train_size, data_dir=data_dir)
        )
        self.fixed_test = self.data.fixed_test
        if not 2 <= networks <= len(SPACE):
            raise AssayError(f"networks must lie in 2..{len(SPACE)}, got {networks}")
        self.networks = networks

    def settings(self) -> dict[str, Any]:
        return self.data.settings() | {"of": self.data.name, "model": "space of mlps", "networks": self.networks}

    def splits(self, seed: int) -> Splits:
        return self.data.splits(seed)

    def model(self) -> nn.Module:
        drawn = draw(self.networks)
        names = [architecture.name.replace(".", "_") for architecture in drawn]  # torch's modules have no dots
        return nn.ModuleDict(
            {name: a.network(SIDES[self.data.name] ** 2, 10) for name, a in zip(names, drawn, strict=True)}
        )

    def objective(self, run: "Run", batch: Batch) -> Tensor:
        """The sum of their losses: no network's step depends on another."""
        losses = [run.loss(network(batch.x), batch.y) for network in _networks(run.forward_module).values()]
        return torch.stack(losses).sum()

    def evaluate(self, run: "Run", examples: Examples | None, batch_size: int = 500) -> Evaluation:
        """Means over the networks, and Kendall's tau between their ranks by two measures: `agreement`, between the ECE
        of 15 bins and of 500; with `_top`, of the half with the best accuracy; 0 where a measure tells none apart."""
        if examples is None:
            return Evaluation({}, {})
        networks = _networks(run.forward_module)
        found: dict[str, list[Tensor]] = {name: [] for name in networks}
        targets = []
        for batch in batches(examples, batch_size, run.device):
            targets.append(batch.y)
            for name, network in networks.items():
                found[name].append(network(batch.x).float())
        target = torch.cat(targets)
        reports = [calibration_report(torch.cat(logits), target, bins=BINS) for logits in found.values()]
        figures = {key: np.array([report[key] for report in reports]) for key in reports[0]}
        return Evaluation(_summary(Study(list(networks), figures)), {})


def _networks(model: nn.Module) -> dict[str, nn.Module]:
    return dict(model.named_children())


def _summary(study: Study) -> dict[str, float]:
    def tau(one: str, other: str, top: int | None = None) -> float:
        found = study.kendall(one, other, top=top)
        return 0.0 if math.isnan(found) else found

    half = max(len(study.names) // 2, 2)
    return {
        "agreement": tau("ece_15", "ece_500"),
        "agreement_top": tau("ece_15", "ece_500", half),
        "ece": float(study.figures["ece_15"].mean()),
        "accuracy": float(study.figures["accuracy"].mean()),
        "loss": float(study.figures["nll"].mean()),
        "ece_500": float(study.figures["ece_500"].mean()),
        "finer_is_larger": float((study.figures["ece_500"] > study.figures["ece_15"]).mean()),
        "tau_15_25": tau("ece_15", "ece_25"),
        "tau_mce_15_500": tau("mce_15", "mce_500"),
        "tau_ece_accuracy": tau("ece_15", "accuracy"),
        "tau_ece_brier": tau("ece_15", "brier"),
        "tau_ece_equal_mass": tau("ece_15", "ece_em_15"),
    }
