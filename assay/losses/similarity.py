"""What contrastive losses need of the similarities of anchors to their negatives, without keeping them twice.

    s_ij = a_i . k_j,        log sum_{j in N(i)} exp(s_ij / tau)        or        sum_{j in N(i)} s_ij

N(i): the keys that are negatives of anchor i, all or the most similar ones. The matrix s is written once and then made
over, in place, into the weights by which backward needs it, so that one such matrix is alive at any time. With
`chunk_size` it is a strip of as many rows, made a second time in backward. Where derivatives are themselves to be
differentiated, under `torch.compile`, and where the matrix is so small that the calls are what takes the time, the same
is done by plain operations, whose memory is autograd's own affair.
"""

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from assay.losses.contrast import Contrast

SMALL = 128 * 128  # entries up to which plain operations are as fast, see benchmarks/contrastive_losses.py
BLOCK = 256  # rows of the matrix whose largest entries are sought at a time: what that takes stays small beside it


def log_sum_negatives(
    contrast: Contrast, temperature: float, *, num_hard: int | None = None, chunk_size: int | None = None
) -> Float[Tensor, " anchors"]:
    """The log of sum_{j in N(i)} exp(s_ij / tau), of each anchor i.

    Args:
        contrast: anchors and keys.
        temperature: tau > 0.
        num_hard: negatives of each anchor that count, the most similar ones, and what ties with the last of them; all
            by default. There is no gradient through the choice.
        chunk_size: anchors whose similarities are in memory at a time; all by default. It costs a third more products.

    Returns:
        one value an anchor, in float32 at least, autocast or not.

    Raises:
        ValueError: there are no negatives, or a number is not positive.
    """
    check_temperature(temperature)
    return _pool(contrast, contrast.anchors / temperature, num_hard, chunk_size, flat=False)


def sum_negatives(
    contrast: Contrast, *, num_hard: int | None = None, chunk_size: int | None = None
) -> Float[Tensor, " anchors"]:
    """The sum over N(i) of s_ij, of each anchor i; arguments and errors as of `log_sum_negatives`.

    Over all negatives it is the product with the sum of the keys, for which no matrix is needed.
    """
    if num_hard is not None and num_hard < contrast.negatives:
        return _pool(contrast, contrast.anchors, num_hard, chunk_size, flat=True)
    _check_pool(contrast, num_hard, chunk_size)
    rest = contrast.keys.sum(0).expand_as(contrast.anchors)
    for columns in (contrast.positive, contrast.own):
        if columns is not None:
            rest = rest - contrast.keys.index_select(0, columns)
    return (contrast.anchors * rest).sum(1)


def check_temperature(temperature: float) -> None:
    """Refuse a temperature that is not positive and finite."""
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature must be positive and finite, got {temperature}")


def _check_pool(contrast: Contrast, num_hard: int | None, chunk_size: int | None) -> None:
    if contrast.negatives < 1:
        raise ValueError(f"keys must hold a negative of each anchor, got {len(contrast.keys)} keys and none among them")
    for name, value in (("num_hard", num_hard), ("chunk_size", chunk_size)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be positive, got {value}")


def _pool(contrast: Contrast, queries: Tensor, num_hard: int | None, chunk_size: int | None, *, flat: bool) -> Tensor:
    _check_pool(contrast, num_hard, chunk_size)
    excluded = [columns for columns in (contrast.positive, contrast.own) if columns is not None]
    columns = torch.stack(excluded, 1) if excluded else None
    hard = num_hard if num_hard is not None and num_hard < contrast.negatives else None
    chunk = chunk_size if chunk_size is not None and chunk_size < len(queries) else None
    # plain operations would go backward in autocast's precision if backward is called within it
    mixed = torch.is_autocast_enabled(queries.device.type)
    few = chunk is None and not mixed and len(queries) * len(contrast.keys) <= SMALL
    pool = _plain if few or torch.compiler.is_compiling() else _Pool.apply
    pooled: Tensor = pool(queries, contrast.keys, columns, hard, chunk, flat)
    return pooled


def _plain(
    queries: Tensor, keys: Tensor, excluded: Tensor | None, num_hard: int | None, chunk: int | None, flat: bool
) -> Tensor:
    """The pool by differentiable operations, a strip at a time where there is a `chunk`."""
    if chunk is not None:
        strips = zip(torch.split(queries, chunk), _split(excluded, chunk, len(queries)), strict=True)
        values = [
            checkpoint(_plain, rows, keys, columns, num_hard, None, flat, use_reentrant=False)
            for rows, columns in strips
        ]
        return torch.cat(values)
    with _unmixed(queries):
        s = queries @ keys.T
        if excluded is not None:
            s = s.scatter(1, excluded, -math.inf)
        if num_hard is not None:
            least = s.detach().topk(num_hard, sorted=False).values.amin(1, keepdim=True)
            s = s.masked_fill(s < least, -math.inf)
        return s.masked_fill(s == -math.inf, 0.0).sum(1) if flat else s.logsumexp(1)


def _weights(
    queries: Tensor, keys: Tensor, excluded: Tensor | None, num_hard: int | None, flat: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """W, c and the pool's value with d value_i / d s_ij = c_i W_ij; W is the one matrix that is made."""
    s = queries @ keys.T
    if excluded is not None:
        s.scatter_(1, excluded, -math.inf)
    if num_hard is not None:
        for rows in torch.split(s, BLOCK):
            least = rows.topk(num_hard, sorted=False).values.amin(1, keepdim=True)
            rows.masked_fill_(rows < least, -math.inf)
    if flat:
        kept = s.gt_(-math.inf)
        return kept, torch.ones_like(kept[:, 0]), (queries * (kept @ keys)).sum(1)
    top = s.amax(1, keepdim=True)
    exponentials = s.sub_(top).exp_()
    total = exponentials.sum(1)
    return exponentials, 1 / total, top.squeeze(1) + total.log()


class _Pool(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        queries: Tensor,
        keys: Tensor,
        excluded: Tensor | None,
        num_hard: int | None,
        chunk: int | None,
        flat: bool,
    ) -> Tensor:
        ctx.how = num_hard, chunk, flat
        with _unmixed(queries):
            if chunk is None:
                weights, scale, value = _weights(queries, keys, excluded, num_hard, flat)
                ctx.save_for_backward(queries, keys, excluded, weights, scale)
                return value
            ctx.save_for_backward(queries, keys, excluded)
            parts = zip(torch.split(queries, chunk), _split(excluded, chunk, len(queries)), strict=True)
            return torch.cat([_weights(rows, keys, columns, num_hard, flat)[2] for rows, columns in parts])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        queries, keys, excluded, *weights = ctx.saved_tensors
        num_hard, chunk, flat = ctx.how
        if torch.is_grad_enabled():  # by create_graph: the weights are no constants then
            value = _plain(queries, keys, excluded, num_hard, chunk, flat)
            inputs = [t for t, needed in zip((queries, keys), ctx.needs_input_grad[:2], strict=True) if needed]
            made = iter(torch.autograd.grad(value, inputs, grad, create_graph=True))
            return *(next(made) if needed else None for needed in ctx.needs_input_grad[:2]), None, None, None, None
        with _unmixed(grad):
            if chunk is None:
                found = _products(ctx, queries, keys, weights[0], grad * weights[1])
                return *found, None, None, None, None
            to_queries, to_keys = torch.empty_like(queries), torch.zeros_like(keys)
            strips = [torch.split(t, chunk) for t in (queries, grad, to_queries)]
            for rows, g, out, columns in zip(*strips, _split(excluded, chunk, len(queries)), strict=True):
                strip, scale, _ = _weights(rows, keys, columns, num_hard, flat)
                to_rows, more = _products(ctx, rows, keys, strip, g * scale)
                if to_rows is not None:
                    out.copy_(to_rows)
                if more is not None:
                    to_keys += more
            return to_queries, to_keys, None, None, None, None


def _unmixed(like: Tensor) -> AbstractContextManager[object]:
    """Products at the tensors' own precision; entering that context costs as much as a small product does."""
    device = like.device.type
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()


def _products(ctx: Any, queries: Tensor, keys: Tensor, weights: Tensor, g: Tensor) -> tuple[Tensor | None, ...]:
    to_queries = (weights @ keys) * g[:, None] if ctx.needs_input_grad[0] else None
    to_keys = weights.T @ (queries * g[:, None]) if ctx.needs_input_grad[1] else None
    return to_queries, to_keys


def _split(columns: Tensor | None, chunk: int, rows: int) -> list[Tensor | None]:
    return [None] * math.ceil(rows / chunk) if columns is None else list(torch.split(columns, chunk))
