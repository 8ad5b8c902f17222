"""Column-row sampling: a product of two matrices estimated from k of its n terms, the likeliest of them always taken.

    G^T X = sum_i G_i (x) X_i                                      over the n rows of both
    p_i = |X_i| s_i / sum_j |X_j| s_j                              s_i: what is known of |G_i| beforehand
    estimate = sum_{c in C} G_c (x) X_c + (1 - P_C) / (k - |C|) sum_{t=1..k-|C|} G_{j_t} (x) X_{j_t} / p_{j_t}

C are the |C| rows with the largest p, P_C their sum; the j_t are drawn with replacement from the others, in proportion
to p. It is unbiased whatever p is, as long as no row with X_i != 0 has p_i = 0. C empty is column-row sampling (CRS);
|C| = k without draws is the biased top k.

Source: Liu et al., "Winner-Take-All Column Row Sampling for Memory Efficient Adaptation of Language Model" (NeurIPS
2023), theorems 1 and 2; Drineas, Kannan, Mahoney (2006) for CRS.
"""

from typing import Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

Estimator = Literal["wta", "crs", "topk"]
_ALL = 1e-12  # what the sum of a law in float64 may lack through rounding


class Rows(NamedTuple):
    """The terms that an estimate is made of.

    Attributes:
        which: of the rows, repeats allowed.
        weight: of each term, 1 for a row that is always taken.
    """

    which: Int[Tensor, "*batch k"]
    weight: Float[Tensor, "*batch k"]


def row_budget(rows: int, ratio: float, min_rows: int = 10) -> int:
    """k: the share `ratio` of the rows, rounded down, but no fewer than `min_rows` as long as there are as many.

    Source: the authors' code.
    """
    return min(max(int(ratio * rows), min_rows), rows)


def column_row_law(
    x: Float[Tensor, "*batch rows features"],
    gradient_norms: Float[Tensor, "*batch rows"] | None = None,
    *,
    floor: float = 1e-3,
) -> Float[Tensor, "*batch rows"]:
    """p, by which rows are taken; it sums to 1, or is 0 throughout where x is.

    Args:
        x: the rows that are to be kept.
        gradient_norms: s, such as |G_i| of the last time; NaN where nothing is known, or infinity where that backward
            overflowed, either of which counts as the mean of what is known. By default p goes by |X_i| alone.
        floor: share of the mean of s that is added to each, so that a row without a gradient the last time is not lost
            for good. The authors add 1e-8 to |X_i| s_i, which is more than all of it once gradients are small.

    Returns:
        float64.
    """
    norms = torch.linalg.vector_norm(x, dim=-1, dtype=torch.promote_types(x.dtype, torch.float32)).double()
    if gradient_norms is not None:
        s = gradient_norms.double()
        s = torch.where(s.isfinite(), s, torch.nan)
        mean = s.nanmean(-1, keepdim=True)
        filled = torch.where(s.isnan(), mean, s) + floor * mean
        norms = norms * torch.where(mean > 0, filled, 1.0)  # a mean of NaN is not above 0 either
    total = norms.sum(-1, keepdim=True)
    p: Tensor = norms / torch.where(total == 0, 1.0, total)
    return p


def best_winners(sorted_p: Float[Tensor, "*batch k"]) -> Int[Tensor, "*batch 1"]:
    """|C| in 0..k that minimises (1 - P_C) / (k - |C|), to which the variance of the draws is in proportion.

    Args:
        sorted_p: the k largest probabilities, in descending order. Where they are all there is, |C| = k.

    Source: Liu et al. 2023, theorem 2.
    """
    k = sorted_p.shape[-1]
    mass = sorted_p.cumsum(-1)
    before = F.pad(mass, (1, 0))[..., :k]
    scores = (1 - before).clamp(min=0) / torch.arange(k, 0, -1, device=mass.device)
    best = scores.argmin(-1, keepdim=True)
    return torch.where(mass[..., -1:] >= 1 - _ALL, k, best)


def choose_rows(
    p: Float[Tensor, "*batch rows"], uniforms: Float[Tensor, "*batch k"], estimator: Estimator = "wta"
) -> Rows:
    """The k rows of an estimate and their weights. Nothing waits for the device: shapes do not depend on |C|.

    Args:
        p: the law, in float64; it sums to 1, see `column_row_law`.
        uniforms: k numbers in [0, 1), float64; what a drawn term is drawn by. k is at most the number of rows.
        estimator: `"wta"`, with the best |C|; `"crs"`, |C| = 0; `"topk"`, |C| = k, which is biased.

    Raises:
        ValueError: the estimator is unknown, or there are more draws than rows.

    Source: Liu et al. 2023, theorem 1. Their code gives drawn rows wrong weights where |C| = 0 and before gradient
    norms are known; here a row is always divided by the probability that it had.
    """
    check_estimator(estimator)
    rows, k = p.shape[-1], uniforms.shape[-1]
    if k > rows:
        raise ValueError(f"uniforms must hold at most one number a row, got {k} for {rows}")
    top, order = p.topk(k, dim=-1)
    winners = best_winners(top) if estimator == "wta" else torch.full_like(order[..., :1], k * (estimator == "topk"))
    place = torch.arange(k, device=p.device)
    wins = place < winners
    others = p.scatter(-1, order, torch.where(wins, 0.0, top)).cumsum(-1)
    drawn = torch.searchsorted(others, uniforms * others[..., -1:], right=True).clamp(max=rows - 1)
    rest = 1 - torch.where(wins, top, 0.0).sum(-1, keepdim=True)
    weight = rest / ((k - winners) * p.gather(-1, drawn))
    weight = torch.where(others[..., -1:] == 0, 0.0, weight)  # nothing to draw from: all other rows are 0
    return Rows(torch.where(wins, order, drawn), torch.where(wins, 1.0, weight))


def take_rows(x: Float[Tensor, "*batch rows features"], which: Int[Tensor, "*batch k"]) -> Tensor:
    """The rows `which` of each matrix, [*batch, k, features]."""
    if x.ndim == 2:
        return x.index_select(0, which)
    return x.gather(-2, which.unsqueeze(-1).expand(*which.shape, x.shape[-1]))


def estimated_product(
    g: Float[Tensor, "*batch rows out"], kept: Float[Tensor, "*batch k features"], rows: Rows
) -> Float[Tensor, "*batch out features"]:
    """The estimate of G^T X.

    Args:
        g: all rows of G.
        kept: the chosen rows of X, `take_rows(x, rows.which)`.
        rows: which these are.
    """
    terms = take_rows(g, rows.which)
    scaled = (terms * rows.weight.to(torch.promote_types(g.dtype, torch.float32)).unsqueeze(-1)).to(g.dtype)
    return scaled.mT @ kept


def check_estimator(estimator: str) -> None:
    """Refuse what is none.

    Raises:
        ValueError: it is not one of `Estimator`.
    """
    if estimator not in get_args(Estimator):
        raise ValueError(f"estimator must be one of {', '.join(get_args(Estimator))}, got {estimator!r}")
