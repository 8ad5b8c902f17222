"""A study of many networks: every calibration measure of each, before and after temperature scaling, and whether they
rank the networks alike.

Kendall's tau-b of two measures over the networks: 1 where they put them in one order, 0 where one says nothing of the
other. A measure's own tau over two data sets says whether calibration belongs to the architecture.

Source: Tao et al., "A Benchmark Study on Calibration" (ICLR 2024), whose networks are NATS-Bench's.
"""

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float
from torch import Tensor

from assay.data.npz import read_npz
from assay.errors import AssayError
from assay.metrics.calibration.report import BINS, calibration_report
from assay.metrics.calibration.scores import harmonic_calibration_score, ood_auroc
from assay.nn.logit_scaling import TemperatureScaling

PICKLED = (".pkl", ".pickle", ".pth", ".pt", ".pbz2")
ARRAYS = ("valid_logits", "valid_target", "test_logits", "test_target")


@dataclass(frozen=True)
class Predictions:
    """What a study needs of one network.

    Attributes:
        name: of the network, its architecture in words.
        valid_logits, valid_target: float [n, classes] and whole numbers [n], on which the temperature is fitted.
        test_logits, test_target: float [m, classes] and whole numbers [m], on which all is measured.
        outside: logits of foreign data by name, such as `svhn`; each gives an `auc_<name>`.
    """

    name: str
    valid_logits: Tensor
    valid_target: Tensor
    test_logits: Tensor
    test_target: Tensor
    outside: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Study:
    """Measures of networks.

    Attributes:
        names: of the networks.
        figures: by measure, float64 [networks]; those before temperature scaling end in `_pre`, those after in `_post`.
    """

    names: list[str]
    figures: dict[str, Float[np.ndarray, " networks"]]

    def kendall(self, one: str, other: str, *, top: int | None = None) -> float:
        """Kendall's tau-b of two measures.

        Args:
            one, other: names in `figures`.
            top: of the `top` most accurate networks alone.

        Returns:
            in [-1, 1]; NaN where a measure is the same for all.

        Raises:
            ValueError: there is no such measure, or fewer than two networks.
        """
        from scipy.stats import kendalltau

        for name in (one, other):
            if name not in self.figures:
                raise ValueError(f"measure must be one of {', '.join(self.figures)}, got {name!r}")
        chosen = self._most_accurate(top)
        if len(chosen) < 2:
            raise ValueError(f"a rank correlation needs at least two networks, got {len(chosen)}")
        return float(kendalltau(self.figures[one][chosen], self.figures[other][chosen]).statistic)

    def correlations(
        self, measures: Sequence[str] | None = None, *, top: int | None = None
    ) -> Float[np.ndarray, "measures measures"]:
        """Kendall's tau-b of every two of `measures` (all by default); `top` as in `kendall`."""
        names = list(self.figures) if measures is None else list(measures)
        found = np.eye(len(names))
        for i, one in enumerate(names):
            for j in range(i):
                found[i, j] = found[j, i] = self.kendall(one, names[j], top=top)
        return found

    def across(self, other: "Study", measure: str) -> float:
        """Kendall's tau-b of one measure over the networks that both studies have, as of two data sets.

        Raises:
            ValueError: fewer than two networks are in both, or one lacks the measure.
        """
        both = [name for name in self.names if name in set(other.names)]
        rows = {name: i for i, name in enumerate(other.names)}
        mine = [i for i, name in enumerate(self.names) if name in rows]
        for study in (self, other):
            if measure not in study.figures:
                raise ValueError(f"measure must be one of {', '.join(study.figures)}, got {measure!r}")
        theirs = other.figures[measure][[rows[name] for name in both]]
        return Study(both, {"mine": self.figures[measure][mine], "theirs": theirs}).kendall("mine", "theirs")

    def _most_accurate(self, top: int | None) -> np.ndarray:
        if top is None:
            return np.arange(len(self.names))
        if "accuracy" not in self.figures or top < 2:
            raise ValueError(f"top must be at least 2 and accuracies known, got {top}")
        return np.argsort(-self.figures["accuracy"], kind="stable")[:top]

    def to_csv(self, path: Path) -> None:
        """One row a network, one column a measure."""
        with open(path, "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["name", *self.figures])
            for i, name in enumerate(self.names):
                writer.writerow([name, *(repr(float(column[i])) for column in self.figures.values())])


def study(networks: Iterable[Predictions], *, bins: Sequence[int] = BINS) -> Study:
    """Measure every network as it is and with its temperature.

    Args:
        networks: one after another, so that only one need be held.
        bins: numbers of bins.

    Returns:
        every measure of `calibration_report` with `_pre` and `_post`, `hcs_pre` and `hcs_post` by the ECE of 15 bins
        where that is among `bins`, `accuracy`, which a temperature does not change, `temperature`, and `auc_<name>`.

    Raises:
        ValueError: there is no network, two have one name, or they differ in their foreign data.
    """
    names: list[str] = []
    rows: list[dict[str, float]] = []
    for network in networks:
        names.append(network.name)
        rows.append(_row(network, bins))
    if not names or len(set(names)) < len(names):
        raise ValueError(f"networks must be at least one, of different names, got {names}")
    if any(row.keys() != rows[0].keys() for row in rows):
        raise ValueError("all networks must have been judged on the same foreign data")
    return Study(names, {key: np.array([row[key] for row in rows]) for key in rows[0]})


def _row(network: Predictions, bins: Sequence[int]) -> dict[str, float]:
    scaling = TemperatureScaling().fit(network.valid_logits, network.valid_target)
    found: dict[str, float] = {}
    for suffix, logits in (("pre", network.test_logits), ("post", scaling(network.test_logits))):
        report = calibration_report(logits, network.test_target, bins=bins)
        accuracy = report.pop("accuracy")
        if 15 in bins:
            report["hcs"] = float(harmonic_calibration_score(accuracy, report["ece_15"]))
        found |= {f"{key}_{suffix}": value for key, value in report.items()}
    aucs = {f"auc_{key}": float(ood_auroc(network.test_logits, logits)) for key, logits in network.outside.items()}
    return found | {"accuracy": accuracy, "temperature": float(scaling.temperature)} | aucs


def read_predictions(path: Path) -> Predictions:
    """One network's predictions from an `.npz` file, named by the file.

    NATS-Bench's own files are pickles, which run whatever code they hold when they are opened; they are not read. Load
    them where you trust them, compute logits, and write them with `numpy.savez(path, valid_logits=..., ...)`.

    Args:
        path: with the arrays `valid_logits` [n, classes], `valid_target` [n], `test_logits` [m, classes], `test_target`
            [m].

    Raises:
        AssayError: it is a pickle, is damaged or lacks an array.
    """
    import torch

    if path.suffix.lower() in PICKLED:
        raise AssayError(
            f"{path.name} may be a pickle, which can run any code and is not read; where you trust it, load it, "
            f"compute logits, and write {', '.join(ARRAYS)} with numpy.savez"
        )
    valid, valid_target, test, test_target = (torch.from_numpy(array) for array in read_npz(path, ARRAYS))
    return Predictions(path.stem, valid, valid_target, test, test_target)


def read_study(path: Path) -> Study:
    """Measures from a CSV file: a header, then one row a network, its name in the first column, and numbers.

    Args:
        path: as `Study.to_csv` writes it, or any table of that form, such as the published tables of the study.

    Raises:
        AssayError: it is not such a table.
    """
    try:
        with open(path, newline="", encoding="utf-8") as file:
            header, *rows = csv.reader(file)
        names, *columns = zip(*rows, strict=True)
        figures = {key: np.array(column, dtype=np.float64) for key, column in zip(header[1:], columns, strict=True)}
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise AssayError(f"{path} is not a table of a name and numbers: {error}") from None
    return Study(list(names), figures)
