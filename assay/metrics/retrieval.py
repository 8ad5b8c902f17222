"""How well queries find their own class in a gallery.

The gallery is ranked by 1 - <q, g> over the coordinates that both have: the first min(d_q, d_g), as they are, so that a
new model's larger vectors can be compared with those of an old one. Vectors at equal distance all rank as the last of
them: an embedding that tells nothing apart finds nothing.

    CMC at k            share of queries with a match among the first k ranks
    average precision   mean over a query's matches of (matches so far) / rank; with ties as scikit-learn has it

Source: as used by Zhou et al., "BT^2" (ICCV 2023), who leave ties to their sort.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor


def truncated_distance(
    queries: Float[Tensor, "queries query_dim"], gallery: Float[Tensor, "gallery gallery_dim"]
) -> Float[Tensor, "queries gallery"]:
    """1 - <q, g> over the first min(d_q, d_g) coordinates, not normalised; in float32 at least."""
    size = min(queries.shape[1], gallery.shape[1])
    kind = torch.promote_types(torch.promote_types(queries.dtype, gallery.dtype), torch.float32)
    return 1 - queries[:, :size].to(kind) @ gallery[:, :size].to(kind).T


class Retrieval(NamedTuple):
    """What each query found.

    Attributes:
        first: rank, from 1, of the first match; 0 where there is none.
        precision: average precision; 0 where there is no match.
        matched: which queries have a match at all; means leave the others out.
    """

    first: Int64[Tensor, " queries"]
    precision: Float[Tensor, " queries"]
    matched: Bool[Tensor, " queries"]

    def cmc(self, k: int) -> float:
        """Share of the queries with a match that have one in the first `k` ranks."""
        return float((self.first[self.matched] <= k).double().mean())

    @property
    def mean_average_precision(self) -> float:
        return float(self.precision[self.matched].double().mean())


def retrieval(
    queries: Float[Tensor, "queries query_dim"],
    gallery: Float[Tensor, "gallery gallery_dim"],
    query_labels: Int64[Tensor, " queries"],
    gallery_labels: Int64[Tensor, " gallery"],
    *,
    exclude_self: bool = False,
    chunk: int = 1024,
) -> Retrieval:
    """Rank the gallery for each query.

    Args:
        exclude_self: row i of the gallery is query i itself and is left out of its ranking.
        chunk: queries ranked at a time, which bounds memory at chunk x gallery.

    Raises:
        ValueError: there is no query or no gallery, a value is not finite, sizes differ where each query is in the
            gallery, or no query has a match.
    """
    if not len(queries) or not len(gallery):
        raise ValueError(f"there must be queries and a gallery, got {len(queries)} and {len(gallery)}")
    if not (queries.isfinite().all() and gallery.isfinite().all()):
        raise ValueError("queries and gallery must be finite, got NaN or infinity")
    if exclude_self and len(queries) != len(gallery):
        raise ValueError(f"exclude_self needs as many queries as gallery rows, got {len(queries)} and {len(gallery)}")
    if chunk < 1:
        raise ValueError(f"chunk must be positive, got {chunk}")
    parts = []
    for start in range(0, len(queries), chunk):
        rows = torch.arange(start, min(start + chunk, len(queries)), device=queries.device)
        distance = truncated_distance(queries[rows], gallery)
        match = query_labels[rows, None] == gallery_labels
        if exclude_self:
            distance[rows - start, rows], match[rows - start, rows] = torch.inf, False
        parts.append(_ranked(distance, match))
    found = Retrieval(*(torch.cat(part) for part in zip(*parts, strict=True)))
    if not bool(found.matched.any()):
        raise ValueError("no query has a match in the gallery")
    return found


def _ranked(distance: Tensor, match: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    distance, order = distance.sort(1)
    match = match.gather(1, order)
    end = torch.searchsorted(distance, distance, right=True)  # how many are as near or nearer: the rank, ties last
    so_far = match.cumsum(1).gather(1, end - 1)
    count = match.sum(1)
    matched = count > 0
    first = end.masked_fill(~match, distance.shape[1] + 1).amin(1).masked_fill(~matched, 0)
    precision = (match * (so_far.double() / end)).sum(1) / count.clamp_min(1)
    return first, precision, matched
