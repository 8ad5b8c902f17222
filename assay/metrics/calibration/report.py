"""Every measure of the calibration study in one pass: one sort of the confidences, one of all classes' probabilities.

Names follow the study's columns: `ece_15`, `ece_em_15` (equal mass), `cwce_15` and `cwce_em_15` (classwise), `mce_15`
for each number of bins; `ksce`, `kdece`, `mmce`, `nll`, `brier`; and `accuracy`.

Source: Tao et al., "A Benchmark Study on Calibration" (ICLR 2024).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from assay.metrics.calibration.bins import Binning, bin_sums, error_of, ks_of, sort_classes, sort_top
from assay.metrics.calibration.kde import kde_of
from assay.metrics.calibration.mmce import mmce_squared
from assay.metrics.calibration.predictions import checked, top_label
from assay.metrics.calibration.scores import brier_of, nll_of

BINS = (5, 10, 15, 20, 25, 50, 100, 200, 500)
BINNINGS: tuple[tuple[str, Binning], ...] = (("", "uniform"), ("em_", "quantile"))


@torch.no_grad()
def calibration_report(
    logits: Tensor, target: Tensor, *, bins: Sequence[int] = BINS, ignore_index: int | None = None
) -> dict[str, float]:
    """All measures of one set of predictions.

    Args:
        logits: float [n, classes, *places].
        target: classes, whole numbers [n, *places].
        bins: numbers of bins, each at least 1.
        ignore_index: class of places that do not count.

    Returns:
        figures by name.

    Raises:
        TypeError, ValueError: as `assay.metrics.calibration.predictions.checked`; or a number of bins is below 1.
    """
    given = checked(logits, target, ignore_index=ignore_index)
    top = top_label(given)
    series = sort_top(top)
    found: dict[str, Tensor] = {}
    rows: dict[str, list[Tensor]] = {}
    for n_bins in bins:
        for name, binning in BINNINGS:
            sums = bin_sums(series, n_bins, binning)
            found[f"ece_{name}{n_bins}"] = error_of(sums, "l1")[0]
            if binning == "uniform":
                found[f"mce_{n_bins}"] = error_of(sums, "max")[0]
    for part in sort_classes(given):
        for n_bins in bins:
            for name, binning in BINNINGS:
                rows.setdefault(f"cwce_{name}{n_bins}", []).append(error_of(bin_sums(part, n_bins, binning), "l1"))
    found |= {name: torch.cat(parts).mean() for name, parts in rows.items()}
    found["ksce"] = ks_of(series)
    found["kdece"] = kde_of(top)
    found["mmce"] = mmce_squared(top).clamp(min=0).sqrt()
    found["nll"] = nll_of(given)
    found["brier"] = brier_of(given)
    found["accuracy"] = top.correct.double().mean()
    values = torch.stack([value.double() for value in found.values()]).tolist()  # one wait for the device
    return dict(zip(found, values, strict=True))
