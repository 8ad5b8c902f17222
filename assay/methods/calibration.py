"""Post-hoc calibration as a method of a run: the network is trained as ever, and its logits are mapped afterwards."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from assay.engine import Examples, Method, chance
from assay.engine.task import batches
from assay.errors import CannotTreat, UnknownName
from assay.nn.logit_scaling import MatrixScaling, TemperatureScaling, VectorScaling
from assay.nn.probability_maps import HistogramBinning, IsotonicCalibration

if TYPE_CHECKING:
    from assay.engine import Run

How = Literal["temperature", "temperature-ece", "vector", "matrix", "isotonic", "histogram"]
Calibrator = TemperatureScaling | VectorScaling | MatrixScaling | IsotonicCalibration | HistogramBinning


@dataclass
class Calibration(Method):
    """After training, a map of the logits is fitted on the validation split and put behind the network.

    Figures of the validation split are then those of the data it was fitted on; judge by the test split. A task of
    several networks (an `nn.ModuleDict`) gets a map for each.

    Args:
        how: `temperature`, by the NLL; `temperature-ece`, on a grid by the ECE; `vector` or `matrix` scaling;
            `isotonic` regression or `histogram` binning of each class's probability.

    Raises:
        UnknownName: there is no such map.
    """

    name: ClassVar[str] = "calibration"
    requires: ClassVar[frozenset[str]] = frozenset({"classification"})
    needs: ClassVar[frozenset[str]] = frozenset({"splits"})

    how: How = "temperature"

    def __post_init__(self) -> None:
        if self.how not in get_args(How):
            raise UnknownName("how", self.how, get_args(How))

    def setup(self, run: "Run") -> None:
        if run.splits.valid is None or len(run.splits.valid) == 0:
            raise CannotTreat(f"method 'calibration' fits on validation data, and task {run.task.name!r} has none")

    def finish(self, run: "Run") -> None:
        if isinstance(run.model, nn.ModuleDict):
            for name, network in list(run.model.items()):
                run.model[name] = self._calibrated(run, network, getattr(run.forward_module, name), f"_{name}")
        else:
            run.model = self._calibrated(run, run.model, run.forward_module, "")

    def _calibrated(self, run: "Run", network: nn.Module, computing: nn.Module, suffix: str) -> nn.Sequential:
        assert run.splits.valid is not None  # as setup saw to
        logits, target = _held_out(run, run.splits.valid, network, computing)
        calibrator = _make(self.how, logits.shape[1])
        try:
            calibrator.fit(logits, target)
        except (TypeError, ValueError) as error:  # targets or outputs that a classifier would not have
            raise CannotTreat(f"method 'calibration' cannot treat task {run.task.name!r}: {error}") from error
        if isinstance(calibrator, TemperatureScaling):
            run.log(f"calibration/temperature{suffix}", calibrator.temperature)
        return nn.Sequential(network, calibrator.to(run.device))


def _held_out(run: "Run", valid: Examples, network: nn.Module, computing: nn.Module) -> tuple[Tensor, Tensor]:
    """Logits and classes of the validation split, the network in evaluation mode."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    with torch.no_grad(), chance.kept():
        run.begin_evaluation()
        found = [(computing(x), y) for x, y, _ in batches(valid, run.evaluation_batch_size, run.device)]
    for module, training in modes:
        module.training = training
    logits, target = zip(*found, strict=True)
    return torch.cat(logits), torch.cat(target)


def _make(how: How, classes: int) -> Calibrator:
    if how == "temperature":
        return TemperatureScaling()
    if how == "temperature-ece":
        return TemperatureScaling(criterion="ece", search="grid")
    if how == "vector":
        return VectorScaling(classes)
    if how == "matrix":
        return MatrixScaling(classes)
    return IsotonicCalibration() if how == "isotonic" else HistogramBinning()
