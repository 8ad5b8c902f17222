"""Linear layers and matrix products that keep a part of their inputs for backward: winner-take-all column-row sampling.

    y = x W^T + b,   dx = g W,   db = sum_i g_i        exact
    dW = g^T x                                         estimated from k of the n rows of x, which alone are kept

    y = a b,         da = g b^T from k columns of b,   db = a^T g from k rows of a

Source: Liu et al., "Winner-Take-All Column Row Sampling for Memory Efficient Adaptation of Language Model" (NeurIPS
2023), section 3.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from assay.nn.column_row_sampling import (
    Estimator,
    Rows,
    check_estimator,
    choose_rows,
    column_row_law,
    estimated_product,
    row_budget,
    take_rows,
)
from assay.nn.gradient_norm_cache import GradientNormCache
from assay.nn.product import Product
from assay.nn.surgery import Selection, replace


class _Sampling(nn.Module):
    """The settings that the layers share, and how they choose; in front of the plain layer among the bases."""

    def __init__(
        self,
        *args: Any,
        ratio: float = 0.3,
        min_rows: int = 10,
        estimator: Estimator = "wta",
        cache: GradientNormCache | None = None,
        key: str = "",
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)  # the plain layer, which refuses what it does not know
        if not 0 < ratio <= 1:
            raise ValueError(f"ratio must lie in (0, 1], got {ratio:g}")
        if min_rows < 1:
            raise ValueError(f"min_rows must be positive, got {min_rows}")
        check_estimator(estimator)
        self.ratio, self.min_rows, self.estimator = ratio, min_rows, estimator
        self.cache, self.key = cache, key

    @property
    def settings(self) -> dict[str, Any]:
        """All that a layer has beside its parameters."""
        return {name: getattr(self, name) for name in ("ratio", "min_rows", "estimator", "cache", "key")}

    @torch.no_grad()
    def _choose(self, x: Float[Tensor, "*batch rows features"], key: str) -> Rows:
        """Which rows to keep for the product with a gradient that has as many rows."""
        shape = x.shape[:-1]
        known = self.cache.known(key, shape.numel(), x.device) if self.cache is not None else None
        p = column_row_law(x, known.view(shape) if known is not None else None)
        k = row_budget(shape[-1], self.ratio, self.min_rows)
        return choose_rows(p, torch.rand(*shape[:-1], k, dtype=p.dtype, device=p.device), self.estimator)

    def extra_repr(self) -> str:
        said = f"ratio={self.ratio}, min_rows={self.min_rows}, estimator={self.estimator!r}"
        return ", ".join(filter(None, [super().extra_repr(), said]))


class WTACRSLinear(_Sampling, nn.Linear):
    """`nn.Linear` that keeps k of the rows of its input for backward instead of all; forward is the same.

    Rows are tokens: an input [batch, tokens, features], with more axes in their midst if need be, is sampled over the
    whole batch. An input of two axes is treated exactly, since its rows are samples, as in a classifier's head. So is
    everything in eval mode, with a frozen weight, without gradients, and where the budget holds all rows.

    Parameters and state dict are those of torch's layer. Draws come from torch's default generator, so that activation
    checkpointing repeats them. Distributed, each process draws its own. The gradient itself cannot be differentiated.

    Args:
        args, kwargs: as `nn.Linear` takes them.
        ratio: k / n, in (0, 1].
        min_rows: k is at least this.
        estimator: as in `assay.nn.column_row_sampling.choose_rows`.
        cache: where norms of gradients are known from; without it rows are taken by their own norms alone.
        key: the layer's name in the cache.

    Raises:
        ValueError: a setting is out of its range.

    Source: Liu et al. 2023, section 3.
    """

    def forward(self, input: Float[Tensor, "*rows features"]) -> Float[Tensor, "*rows out"]:
        training = self.training and torch.is_grad_enabled() and self.weight.requires_grad
        if not training or input.ndim < 3:
            return F.linear(input, self.weight, self.bias)
        n = input.shape[:-1].numel()
        if row_budget(n, self.ratio, self.min_rows) == n:
            return F.linear(input, self.weight, self.bias)
        x, weight, bias = _autocast(input, self.weight, self.bias)
        rows = self._choose(x.detach().reshape(n, -1), self.key)
        keep = self.cache.keeper(self.key, n) if self.cache is not None else None
        y: Tensor = _Linear.apply(x, weight, bias, *rows, keep)  # type: ignore[no-untyped-call]
        return y


class WTACRSProduct(_Sampling, Product):
    """`Product` that keeps k rows of its first factor and k columns of its second for backward: for attention.

    Each matrix of the batch is sampled by itself, with a |C| of its own, which is the best there is; the authors' code
    has one |C| for all of them. Settings are those of `WTACRSLinear`; k is that share of the rows, and of the columns.

    Source: Liu et al. 2023, section 3.
    """

    def forward(self, a: Float[Tensor, "*batch n m"], b: Float[Tensor, "*batch m q"]) -> Float[Tensor, "*batch n q"]:
        training = self.training and torch.is_grad_enabled() and (a.requires_grad or b.requires_grad)
        budgets = [(n, row_budget(n, self.ratio, self.min_rows)) for n in (a.shape[-2], b.shape[-1])]
        if not training or all(n == k for n, k in budgets):
            return a @ b
        if a.shape[:-2] != b.shape[:-2]:
            raise ValueError(f"a and b must agree in all but their last two axes, got {a.shape} and {b.shape}")
        a, b = _autocast(a, b)
        first, second = self._choose(a.detach(), f"{self.key}.rows"), self._choose(b.detach().mT, f"{self.key}.columns")
        keep_rows = keep_columns = None
        if self.cache is not None:
            keep_rows = self.cache.keeper(f"{self.key}.rows", a.shape[:-1].numel())
            keep_columns = self.cache.keeper(f"{self.key}.columns", b.mT.shape[:-1].numel())
        y: Tensor = _Product.apply(a, b, *first, *second, keep_rows, keep_columns)  # type: ignore[no-untyped-call]
        return y


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, index: Tensor, scale: Tensor, keep: Any
    ) -> Any:
        ctx.save_for_backward(take_rows(x.reshape(-1, x.shape[-1]), index), index, scale, weight)
        ctx.keep = keep
        return F.linear(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> Any:
        kept, index, scale, weight = ctx.saved_tensors
        flat = g.reshape(-1, g.shape[-1])
        if ctx.keep is not None:
            ctx.keep(_norms(flat))
        dx = g @ weight if ctx.needs_input_grad[0] else None
        db = flat.sum(0) if ctx.needs_input_grad[2] else None
        return dx, estimated_product(flat, kept, Rows(index, scale)), db, None, None, None


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, i: Tensor, u: Tensor, j: Tensor, v: Tensor, *keep: Any) -> Any:
        ctx.save_for_backward(take_rows(a, i), i, u, take_rows(b.mT, j), j, v)
        ctx.keep = keep
        return a @ b

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> Any:
        rows, i, u, columns, j, v = ctx.saved_tensors
        for keep, along in zip(ctx.keep, (g, g.mT), strict=True):
            if keep is not None:
                keep(_norms(along).flatten())
        da = estimated_product(g.mT, columns, Rows(j, v)) if ctx.needs_input_grad[0] else None
        db = estimated_product(g, rows, Rows(i, u)).mT if ctx.needs_input_grad[1] else None
        return da, db, *[None] * 6


def _norms(g: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(g, dim=-1, dtype=torch.promote_types(g.dtype, torch.float32))
    return norms


def _autocast(*tensors: Tensor | None) -> tuple[Any, ...]:
    """What autocast would hand to torch's own layer, which it does not do for functions of our own."""
    kind = next(t.device.type for t in tensors if t is not None)
    if not torch.is_autocast_enabled(kind):
        return tensors
    dtype = torch.get_autocast_dtype(kind)
    return tuple(t if t is None or t.dtype == torch.float64 else t.to(dtype) for t in tensors)


_SAMPLED: dict[type[nn.Module], type[_Sampling]] = {nn.Linear: WTACRSLinear, Product: WTACRSProduct}


def to_wta_crs(
    model: nn.Module,
    ratio: float = 0.3,
    *,
    min_rows: int = 10,
    estimator: Estimator = "wta",
    cache: GradientNormCache | None = None,
    include: Selection | None = None,
    exclude: Selection | None = None,
) -> nn.Module:
    """Let every linear layer and every `Product` of a model keep a sample of its input, in place.

    Parameters, state dict, hooks and mode stay, so an optimizer made before remains valid. Doing it again changes the
    settings. Frozen layers stay exact, so with low-rank adapters it is their inputs that are sampled. Sampling saves
    nothing where an input is kept by somebody else, such as the output of a ReLU (see `assay.nn.packed_masks`), or one
    input of several layers; there `exclude` helps: the authors leave out the projections to queries, keys and values.

    Args:
        model: the network; where it is itself such a layer, use what is returned.
        ratio: see `WTACRSLinear`; so are `min_rows` and `estimator`.
        cache: which knows layers by their names; none by default.
        include: which layers, as in `assay.nn.surgery.replace`; all by default.
        exclude: which not.

    Returns:
        the model.

    Raises:
        ValueError: there is no such layer, one is of a class of its own, or a setting is out of its range.
    """
    found = 0

    def rule(name: str, layer: nn.Module) -> nn.Module | None:
        nonlocal found
        if not isinstance(layer, nn.Linear | Product):
            return None
        kind = type(layer) if isinstance(layer, _Sampling) else _SAMPLED.get(type(layer))
        if kind is None:
            raise ValueError(f"layer {name!r} is a {type(layer).__name__}, want Linear or Product; exclude it")
        found += 1
        settings: dict[str, Any] = {
            "ratio": ratio,
            "min_rows": min_rows,
            "estimator": estimator,
            "cache": cache,
            "key": name,
        }
        if isinstance(layer, _Sampling) and layer.settings == settings:
            return None
        if not isinstance(layer, nn.Linear):
            return kind(**settings)
        new = kind(layer.in_features, layer.out_features, layer.bias is not None, device="meta", **settings)
        for key, parameter in layer._parameters.items():
            new.register_parameter(key, parameter)
        return new

    surgery = replace(model, rule, include=include, exclude=exclude)
    if not found:
        raise ValueError(f"model must hold a linear layer, got {type(model).__name__} without one")
    return surgery.model
