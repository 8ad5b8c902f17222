"""The family of measures by bins, all of them from one sort.

    ECE = sum_b n_b / n |mean_b a - mean_b c| = 1/n sum_b |D_b|,   D_b = sum_{i in b} (a_i - c_i)
    MCE = max_b |D_b| / n_b,    RMSCE = sqrt(sum_b n_b / n (D_b / n_b)^2)

Bins are (l, u]. With confidences sorted and a - c summed up along them, a bin is two places in the order and D_b the
difference of two sums, whatever the number of bins, of equal width or equal mass. The classwise forms are the mean over
classes k of the same with c = p_k and a = 1[y = k], all classes sorted at once.

Sources: Guo et al., "On Calibration of Modern Neural Networks" (ICML 2017), for ECE and MCE; Nguyen and O'Connor,
"Posterior calibration and exploratory analysis" (EMNLP 2015), for equal mass; Kull et al., "Beyond temperature
scaling" (NeurIPS 2019), for the classwise form; Gupta et al., "Calibration of Neural Networks using Splines" (ICLR
2021), for KS.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from assay.metrics.calibration.predictions import Checked, TopLabel, checked, top_label

CELLS = 2**24  # probabilities sorted at once

Binning = Literal["uniform", "quantile"]
Norm = Literal["l1", "l2", "max"]


class Sorted(NamedTuple):
    """One or several series of confidences in rising order, with what lies before each place.

    Attributes:
        confidence: [rows, n], rising.
        gaps: float64 [rows, n + 1]; the sum of a - c over the examples before a place.
    """

    confidence: Float[Tensor, "rows n"]
    gaps: Float[Tensor, "rows n_plus_1"]


@dataclass(frozen=True)
class BinSums:
    """What of a series falls in each bin.

    Attributes:
        count: examples.
        gap: float64; the sum of a - c.
        examples: of the series, those counted that no bin has.
    """

    count: Int64[Tensor, "rows bins"]
    gap: Float[Tensor, "rows bins"]
    examples: int


def sort_confidences(confidence: Float[Tensor, "rows n"], correct: Bool[Tensor, "rows n"]) -> Sorted:
    """The one sort; sums are in float64, of which differences are taken."""
    c, order = confidence.sort(dim=1)
    gaps = torch.zeros(c.shape[0], c.shape[1] + 1, dtype=torch.float64, device=c.device)
    gaps[:, 1:] = (correct.gather(1, order).double() - c).cumsum(dim=1)
    return Sorted(c, gaps)


def sort_top(top: TopLabel) -> Sorted:
    """The predicted classes' confidences, one row."""
    return sort_confidences(top.confidence[None], top.correct[None])


def sort_classes(given: Checked) -> Iterator[Sorted]:
    """`class_rows`, sorted."""
    for p, hit in class_rows(given):
        yield sort_confidences(p, hit)


def class_rows(given: Checked) -> Iterator[tuple[Float[Tensor, "rows n"], Bool[Tensor, "rows n"]]]:
    """Every class's probabilities, a row each, and where it is the class; as many at a time as fit the memory."""
    n, classes = given.probabilities.shape
    size = max(CELLS // n, 1)
    for start in range(0, classes, size):
        part = torch.arange(start, min(start + size, classes), device=given.target.device)
        p = given.probabilities[:, start : start + size].T.contiguous()
        yield p, part[:, None] == given.target


def bin_edges(confidence: Float[Tensor, "rows n"], n_bins: int, binning: Binning) -> Float[Tensor, "rows bins_plus_1"]:
    """The bins' edges, in the precision of the confidences, so that one that lies on an edge is found there.

    Args:
        confidence: rising along each row.
        n_bins: at least 1.
        binning: `uniform`, equal widths of [0, 1]; `quantile`, places n b / B in the order, interpolated.

    Raises:
        ValueError: `n_bins` or `binning` is out of range.
    """
    if n_bins < 1:
        raise ValueError(f"n_bins must be at least 1, got {n_bins}")
    rows, n = confidence.shape
    if binning == "uniform":
        steps = torch.arange(n_bins + 1, dtype=torch.float64, device=confidence.device)
        edges = steps.div_(n_bins).to(confidence.dtype)[None]
        return edges if rows == 1 else edges.repeat(rows, 1)
    if binning != "quantile":
        raise ValueError(f"binning must be uniform or quantile, got {binning!r}")
    steps = torch.arange(n_bins + 1, device=confidence.device)
    place = (steps * n).div(n_bins, rounding_mode="floor").clamp(max=n - 1)
    share = (steps * n % n_bins).to(confidence.dtype) / n_bins
    c = confidence.detach()
    return torch.lerp(c[:, place], c[:, (place + 1).clamp(max=n - 1)], share)


def bin_sums(series: Sorted, n_bins: int = 15, binning: Binning = "uniform", *, open_lowest: bool = False) -> BinSums:
    """Counts and gaps of each bin; arguments as in `expected_calibration_error`."""
    n = series.confidence.shape[1]
    edges = bin_edges(series.confidence, n_bins, binning)
    ends = torch.searchsorted(series.confidence.detach(), edges, right=True)
    if not open_lowest:
        ends[:, 0] = 0
    ends[:, -1] = n  # no confidence lies above 1, though a sum of float32 may
    return BinSums(ends.diff(dim=1), series.gaps.gather(1, ends).diff(dim=1), n)


def uniform_sums(
    confidence: Float[Tensor, "rows n"], correct: Bool[Tensor, "rows n"], n_bins: int, *, open_lowest: bool = False
) -> BinSums:
    """The same of bins of equal width, without the sort: quicker for one number of bins, slower for several."""
    place = _uniform_places(confidence.detach(), bin_edges(confidence[:1], n_bins, "uniform")[0])
    gap, counted = correct.double() - confidence, torch.ones_like(place)
    if open_lowest:
        counted = (confidence > 0).long()
        gap = gap * counted
    empty = (len(confidence), n_bins)
    return BinSums(
        place.new_zeros(empty).scatter_add_(1, place, counted),
        gap.new_zeros(empty).scatter_add(1, place, gap),
        confidence.shape[1],
    )


def _uniform_places(c: Float[Tensor, "rows n"], edges: Float[Tensor, " bins_plus_1"]) -> Int64[Tensor, "rows n"]:
    """The bin of each confidence: one multiplication, then the two edges that rounding may have mistaken, in half the
    time of a binary search."""
    last, flat = len(edges) - 2, c.flatten()
    place = (flat * (last + 1)).to(torch.int32).clamp_(max=last)
    place = place - (flat <= edges.index_select(0, place)).int()
    place += (flat > edges.index_select(0, place + 1)).int()
    return place.clamp_(0, last).long().view(c.shape)


def error_of(found: BinSums, norm: Norm) -> Float[Tensor, " rows"]:
    """What each row's bins add up to."""
    count = found.count.clamp(min=1)
    if norm == "l1":
        return found.gap.abs().sum(dim=1) / found.examples
    if norm == "l2":
        return ((found.gap.square() / count).sum(dim=1) / found.examples).sqrt()
    if norm == "max":
        return (found.gap.abs() / count).amax(dim=1)
    raise ValueError(f"norm must be l1, l2 or max, got {norm!r}")


def expected_calibration_error(
    predictions: Tensor,
    target: Tensor,
    n_bins: int = 15,
    *,
    binning: Binning = "uniform",
    norm: Norm = "l1",
    probabilities: bool = False,
    ignore_index: int | None = None,
    open_lowest: bool = False,
) -> Float[Tensor, ""]:
    """ECE: by how much confidence and accuracy differ, bin by bin, on average.

    It can be differentiated by the logits wherever no confidence lies on an edge. Of n examples of perfect calibration
    it is about sqrt(n_bins / n), not 0.

    Args:
        predictions: logits, float [n, classes, *places].
        target: classes, whole numbers [n, *places].
        n_bins: at least 1.
        binning: `uniform`, of equal width, or `quantile`, of as many examples each (adaptive ECE, ECE_em).
        norm: of the gaps: `l1`, ECE; `l2`, RMSCE; `max`, MCE.
        probabilities: `predictions` are probabilities.
        ignore_index: class of places that do not count.
        open_lowest: leave a confidence on the lowest edge out, as the study's code does: with equal masses the smallest
            one, and all that equal it.

    Returns:
        the error in [0, 1], float64, a scalar.

    Raises:
        TypeError, ValueError: as `assay.metrics.calibration.predictions.checked`; or a setting is out of range.
    """
    given = checked(predictions, target, probabilities=probabilities, ignore_index=ignore_index)
    confidence, correct = (series[None] for series in top_label(given))
    if binning == "uniform":
        found = uniform_sums(confidence, correct, n_bins, open_lowest=open_lowest)
    else:
        found = bin_sums(sort_confidences(confidence, correct), n_bins, binning, open_lowest=open_lowest)
    return error_of(found, norm)[0]


def max_calibration_error(
    predictions: Tensor,
    target: Tensor,
    n_bins: int = 15,
    *,
    binning: Binning = "uniform",
    probabilities: bool = False,
    ignore_index: int | None = None,
) -> Float[Tensor, ""]:
    """MCE: the largest gap of any bin; arguments as in `expected_calibration_error`."""
    return expected_calibration_error(
        predictions,
        target,
        n_bins,
        binning=binning,
        norm="max",
        probabilities=probabilities,
        ignore_index=ignore_index,
    )


def classwise_calibration_error(
    predictions: Tensor,
    target: Tensor,
    n_bins: int = 15,
    *,
    binning: Binning = "uniform",
    norm: Norm = "l1",
    probabilities: bool = False,
    ignore_index: int | None = None,
    open_lowest: bool = False,
) -> Float[Tensor, ""]:
    """cwCE: the same error for each class's probability and its one-hot label; the mean over classes.

    All classes of the predictions count. The study's code counts those up to the largest label alone.

    Args: as in `expected_calibration_error`. Returns and raises likewise.
    """
    given = checked(predictions, target, probabilities=probabilities, ignore_index=ignore_index)
    if binning == "uniform":
        found = [uniform_sums(p, hit, n_bins, open_lowest=open_lowest) for p, hit in class_rows(given)]
    else:
        found = [bin_sums(series, n_bins, binning, open_lowest=open_lowest) for series in sort_classes(given)]
    return torch.cat([error_of(sums, norm) for sums in found]).mean()


def ks_calibration_error(
    predictions: Tensor, target: Tensor, *, probabilities: bool = False, ignore_index: int | None = None
) -> Float[Tensor, ""]:
    """KSCE, without bins: max_i |sum_{j <= i} (c_j - a_j)| / n, confidences rising.

    Examples of equal confidence are taken together: their order says nothing, and the study's code takes the one that
    the sort gives.

    Args: as in `expected_calibration_error`. Returns and raises likewise.
    """
    given = checked(predictions, target, probabilities=probabilities, ignore_index=ignore_index)
    return ks_of(sort_top(top_label(given)))


def ks_of(series: Sorted) -> Float[Tensor, ""]:
    """KSCE of one sorted series."""
    c = series.confidence[0].detach()
    last = torch.ones_like(c, dtype=torch.bool)
    last[:-1] = c[1:] != c[:-1]
    return series.gaps[0, 1:][last].abs().amax() / len(c)
