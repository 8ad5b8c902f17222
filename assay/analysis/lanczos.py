"""Lanczos: a large symmetric matrix, known by its products alone, seen as a small tridiagonal one.

    beta_j q_{j+1} = A q_j - alpha_j q_j - beta_{j-1} q_{j-1}         Q^T A Q = T = tridiag(beta, alpha, beta)

The eigenvalues of T, the Ritz values, converge to those of A from the outside in. With the squared first components of
its eigenvectors as weights they are the Gauss quadrature of A's spectrum as the starting vector sees it. Several
starting vectors go side by side, so that each step is one product with a block.

Sources: Lanczos (1950); Golub and Meurant, "Matrices, Moments and Quadrature with Applications" (2010).
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

Operator = Callable[[Tensor], Tensor]


class Ritz(NamedTuple):
    """What one starting vector found; float64, on the CPU.

    Attributes:
        values: Ritz values, rising; as many as steps were done.
        weights: of the quadrature; they sum to 1.
        errors: for each value, an eigenvalue of A lies no farther from it.
    """

    values: Float[Tensor, " steps"]
    weights: Float[Tensor, " steps"]
    errors: Float[Tensor, " steps"]


def draw_starts(
    count: int,
    size: int,
    *,
    kind: Literal["rademacher", "gaussian"] = "rademacher",
    generator: torch.Generator | None = None,
    like: Tensor | None = None,
) -> Float[Tensor, "count size"]:
    """Random starting vectors.

    Args:
        count: vectors.
        size: P.
        kind: entries of -1 and 1, or normal ones.
        generator: of the draw, on the CPU.
        like: a tensor of the device and the precision that are wanted.

    Raises:
        ValueError: `count` or `size` is not positive, or the kind is unknown.
    """
    if count < 1 or size < 1:
        raise ValueError(f"count and size must be positive, got {count} and {size}")
    if kind not in ("rademacher", "gaussian"):
        raise ValueError(f"kind must be rademacher or gaussian, got {kind!r}")
    if kind == "gaussian":
        drawn = torch.randn(count, size, generator=generator)
    else:
        drawn = torch.randint(2, (count, size), generator=generator).mul_(2).sub_(1).float()
    return drawn if like is None else drawn.to(like)


def lanczos(
    operator: Operator, start: Float[Tensor, "starts size"], steps: int, *, reorthogonalize: bool = True
) -> list[Ritz]:
    """Run Lanczos from each start.

    Args:
        operator: symmetric, [starts, size] to the products of the rows; one row alone is passed as [1, size].
        start: not zero; float32 or float64, in which the whole is computed but for T. The basis takes `steps` as much.
        steps: of each start, at most `size`; it stops earlier where a start lies in an invariant subspace.
        reorthogonalize: against all earlier vectors, without which an eigenvalue that has converged comes again.

    Returns:
        one result a start.

    Raises:
        ValueError: `steps` is not positive, or a start is zero.
        FloatingPointError: a product is not finite.
    """
    if steps < 1:
        raise ValueError(f"steps must be positive, got {steps}")
    length = torch.linalg.vector_norm(start, dim=1, keepdim=True)
    if not bool((length > 0).all()):
        raise ValueError("start must hold no zero vector")
    steps = min(steps, start.shape[1])
    q, last, scale = start / length, torch.zeros_like(start), torch.zeros_like(length)
    basis = start.new_zeros(len(start), steps, start.shape[1])
    alphas, betas = start.new_zeros(steps, len(start)), start.new_zeros(steps, len(start))
    beta = torch.zeros_like(length)
    for j in range(steps):
        basis[:, j] = q
        w = operator(q)
        alpha = torch.linalg.vecdot(w, q)[:, None]
        w = torch.addcmul(torch.addcmul(w, alpha, q, value=-1), beta, last, value=-1)
        before = torch.linalg.vector_norm(w, dim=1, keepdim=True)
        if reorthogonalize:
            w = _orthogonal(w, basis[:, : j + 1])
            beta = torch.linalg.vector_norm(w, dim=1, keepdim=True)
            if bool((beta < before / 2).any()):  # so much cancelled that what is left is not orthogonal yet
                w = _orthogonal(w, basis[:, : j + 1])
                beta = torch.linalg.vector_norm(w, dim=1, keepdim=True)
        else:
            beta = before
        scale = torch.maximum(scale, alpha.abs() + beta)
        beta = torch.where(beta > 10 * torch.finfo(w.dtype).eps * scale, beta, 0)
        alphas[j], betas[j] = alpha[:, 0], beta[:, 0]
        last, q = q, torch.where(beta > 0, w / beta, 0)
        if not bool(beta.any()):  # every start has ended, or is not a number
            break
    return [_ritz(a, b) for a, b in zip(alphas.T.double().cpu(), betas.T.double().cpu(), strict=True)]


def _orthogonal(w: Tensor, basis: Tensor) -> Tensor:
    """`w` without what lies in the span of `basis`, [starts, vectors, size]."""
    if len(w) == 1:  # a batch of one is slower
        return torch.addmv(w[0], basis[0].T, basis[0] @ w[0], alpha=-1)[None]
    return torch.baddbmm(w[:, None], torch.bmm(w[:, None], basis.mT), basis, alpha=-1)[:, 0]


def _ritz(alpha: Tensor, beta: Tensor) -> Ritz:
    ended = torch.nonzero(beta == 0)
    size = int(ended[0]) + 1 if len(ended) else len(alpha)
    alpha, beta = alpha[:size], beta[:size]
    if not bool((alpha.isfinite() & beta.isfinite()).all()):
        raise FloatingPointError("operator gave a product that is not finite")
    t = torch.diag(alpha) + torch.diag(beta[:-1], 1) + torch.diag(beta[:-1], -1)
    values, vectors = torch.linalg.eigh(t)
    return Ritz(values, vectors[0].square(), (beta[-1] * vectors[-1]).abs())
