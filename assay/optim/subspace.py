"""Subspaces of a matrix in which an optimizer keeps state, and the way there.

    columns, rows, randk    P(G) = the chosen columns, rows or entries of G
    random, svd             P(G) = G Q        for rows >= columns, Q [columns, r] with orthonormal columns
                            P(G) = Q^T G      else, Q [rows, r]

`randk` chooses entries at random, `random` directions; `svd` takes the r leading singular vectors of the gradient on
its smaller side (GaLore). The authors' `randperm` is columns or rows, their `full` a projection of both sides at once.

Source: Zmushko et al., "FRUGAL: Memory-Efficient Optimization by Reducing State Overhead for Scalable Training" (2025),
section 4; Zhao et al., "GaLore: Memory-Efficient LLM Training by Gradient Low-Rank Projection" (2024), section 4.
"""

import hashlib

import torch
from torch import Tensor, nn

COORDINATES = ("columns", "rows", "randk")
DIRECTIONS = ("random", "svd")


def generator(*seed: int) -> torch.Generator:
    """A generator on the CPU that is a function of the numbers alone, so that every rank draws alike."""
    digest = hashlib.blake2b(repr(seed).encode(), digest_size=7).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big"))


def draw(projection: str, density: int | float, gradient: Tensor, chance: torch.Generator) -> Tensor:
    """Choose a subspace for a matrix.

    Args:
        projection: `columns`, `rows`, `randk`, `random` or `svd`.
        density: share of columns, rows or entries, rounded down; of directions, rounded to the nearest.
        gradient: [rows, columns]; `svd` reads its values.
        chance: draws all but `svd`.

    Returns:
        sorted numbers of columns, rows or entries (row by row), int32 where they fit; or the matrix Q.
    """
    if projection in COORDINATES:
        rows, columns = gradient.shape
        size = {"columns": columns, "rows": rows, "randk": rows * columns}[projection]
        mask = torch.zeros(size, dtype=torch.bool)
        mask[torch.randperm(size, generator=chance)[: int(density * size)]] = True
        chosen = mask.nonzero().flatten()  # sorting takes longer
        return chosen.to(gradient.device, torch.int32 if size < 2**31 else torch.int64)
    side = min(gradient.shape)
    rank = round(density * side)
    if projection == "random":
        q: Tensor = nn.init.orthogonal_(torch.empty(side, rank, dtype=gradient.dtype), generator=chance)
        return q.to(gradient.device)
    # The eigenvectors of the smaller Gram matrix, in float64: not less exact than singular vectors in float32, and
    # faster. A gradient that is not finite has none; it spoils the weights all the same, and need not raise here.
    g = gradient.double().nan_to_num(0.0, 0.0, 0.0)
    gram = g.T @ g if _on_the_right(gradient) else g @ g.T
    vectors: Tensor = torch.linalg.eigh(gram).eigenvectors
    return vectors[:, side - rank :].to(gradient.dtype).contiguous()


def down(projection: str, matrix: Tensor, chosen: Tensor) -> Tensor:
    """P(matrix): a new tensor, [rows, k], [k, columns] or, of entries, [k]."""
    if projection == "columns":
        return matrix.index_select(1, chosen)
    if projection == "rows":
        return matrix.index_select(0, chosen)
    if projection == "randk":
        return matrix.view(-1).index_select(0, chosen)
    return matrix @ chosen if _on_the_right(matrix) else chosen.T @ matrix


def put(projection: str, matrix: Tensor, chosen: Tensor, values: Tensor) -> None:
    """Set the chosen coordinates (int64) of `matrix`, without gaps, to `values`, of the shape that `down` gives."""
    flat = matrix.view(-1) if projection == "randk" else matrix
    flat.index_copy_(int(projection == "columns"), chosen, values)


def add_up(matrix: Tensor, chosen: Tensor, values: Tensor, alpha: int = 1, out: Tensor | None = None) -> Tensor:
    """`matrix + alpha P^-1(values)` along the directions Q; in `out`, which may be `matrix`, if it is given."""
    factors = (values, chosen.T) if _on_the_right(matrix) else (chosen, values)
    return torch.addmm(matrix, *factors, alpha=alpha, out=out)


def rest(matrix: Tensor, chosen: Tensor, low: Tensor) -> Tensor:
    """`matrix - P^-1(low)` along the directions Q, where `low` is P(matrix); 0 where only rounding would be left of it,
    of which a sign would make a whole step."""
    left = add_up(matrix, chosen, low, alpha=-1)
    size = torch.linalg.vector_norm(matrix, dim=1 if _on_the_right(matrix) else 0, keepdim=True)
    return left.masked_fill_(left.abs() <= 16 * torch.finfo(left.dtype).eps * size, 0.0)  # measured: 5 eps at most


def _on_the_right(matrix: Tensor) -> bool:
    return matrix.shape[0] >= matrix.shape[1]
