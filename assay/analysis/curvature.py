"""Products with the Hessian or the generalised Gauss-Newton matrix of a network's mean loss, without the matrix.

    H v = d(g . v)/dw                 g = dL/dw
    G v = J^T (d2L/dz2) J v           z = f(w, x),  J = dz/dw,  J v = d(J^T u . v)/du

A block of vectors goes through one backward pass. Where the data are a single batch its graph is kept, so that further
products cost that pass alone.

Sources: Pearlmutter, "Fast exact multiplication by the Hessian" (1994); Schraudolph, "Fast curvature matrix-vector
products for second-order gradient descent" (2002).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_leaves

Batches = Sequence[tuple[Any, Any]]
Block = list[Tensor]  # [vectors, *shape] of each parameter
Product = Callable[[Block], Block]


class Curvature:
    """The matrix of a mean loss over `data` at the parameters' present values, as a map of vectors to products.

    Dropout is off and the network is left as it was, in training mode or not, its buffers untouched. Parameters that
    need no gradient are left out, tied ones count once, and autocast is off inside. Change a parameter, and products of
    kept graphs are refused by autograd: make a new one.

    Args:
        model: a network, float32 or float64, whose call takes a batch's inputs.
        loss: `(outputs, targets)` to the mean over the batch, a scalar.
        data: batches (inputs, targets), each weighted by its samples; they are read again for every product unless
            there is only one.
        matrix: `hessian`, or `ggn`, the generalised Gauss-Newton matrix, positive semidefinite for a convex loss; its
            model must give a tensor.
        batch_norm: normalise by the statistics of each `batch`, as in training, or by the `running` ones.

    Attributes:
        parameters: those that the matrix is of, in its order.
        size: P, their entries.

    Raises:
        ValueError: there are no data, no parameter needs a gradient, or one has another precision.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Callable[[Any, Any], Tensor],
        data: Batches,
        *,
        matrix: Literal["hessian", "ggn"] = "hessian",
        batch_norm: Literal["batch", "running"] = "batch",
    ) -> None:
        if matrix not in ("hessian", "ggn") or batch_norm not in ("batch", "running"):
            raise ValueError(
                f"matrix must be hessian or ggn and batch_norm batch or running, got {matrix!r}, {batch_norm!r}"
            )
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        if not self.parameters:
            raise ValueError("model must have a parameter that requires a gradient, got none")
        kinds = {p.dtype for p in self.parameters}
        if len(kinds) > 1 or not kinds <= {torch.float32, torch.float64}:
            raise ValueError(f"parameters must be all float32 or all float64, got {sorted(map(str, kinds))}")
        samples = [batch_samples(x) for x, _ in data]
        if not sum(samples):
            raise ValueError("data must hold at least one sample, got none")
        self.size = sum(p.numel() for p in self.parameters)
        self._model, self._loss, self._data, self._batch_norm = model, loss, data, batch_norm
        self._shares = [n / sum(samples) for n in samples]
        self._prepare = self._hessian if matrix == "hessian" else self._gauss_newton
        self._kept = self._prepare(*data[0]) if len(data) == 1 else None

    def __call__(self, vectors: Float[Tensor, "vectors size"]) -> Float[Tensor, "vectors size"]:
        """The products of a block of vectors, a row each.

        Raises:
            ValueError: the vectors are not [vectors, size].
        """
        if vectors.ndim != 2 or vectors.shape[1] != self.size:
            raise ValueError(f"vectors must be [vectors, {self.size}], got {list(vectors.shape)}")
        parts = torch.split(vectors, [p.numel() for p in self.parameters], dim=1)
        block = [v.reshape(-1, *p.shape) for v, p in zip(parts, self.parameters, strict=True)]
        with self._float():
            if self._kept is not None:
                return _flat(self._kept(block))
            total = torch.zeros_like(vectors)
            for (x, y), share in zip(self._data, self._shares, strict=True):
                total.add_(_flat(self._prepare(x, y)(block)), alpha=share)
        return total

    def _hessian(self, x: Any, y: Any) -> Product:
        with self._differentiable():
            loss = _scalar(self._loss(self._outputs(x), y))
            gradient = torch.autograd.grad(loss, self.parameters, create_graph=True, materialize_grads=True)
        return lambda block: _pulled(gradient, self.parameters, block)

    def _gauss_newton(self, x: Any, y: Any) -> Product:
        with self._differentiable():
            z = self._outputs(x)
            if not isinstance(z, Tensor):
                raise ValueError(f"the Gauss-Newton matrix needs a model that gives a tensor, got {type(z).__name__}")
            leaf = z.detach().requires_grad_()
            (slope,) = torch.autograd.grad(_scalar(self._loss(leaf, y)), leaf, create_graph=True)
            u = torch.zeros_like(z, requires_grad=True)
            pulled = torch.autograd.grad(z, self.parameters, u, create_graph=True, materialize_grads=True)

        def product(block: Block) -> Block:
            (pushed,) = _pulled(pulled, [u], block)
            (curved,) = _pulled([slope], [leaf], [pushed])
            return _pulled([z], self.parameters, [curved])

        return product

    def _outputs(self, x: Any) -> Any:
        buffers = {name: buffer.clone() for name, buffer in self._model.named_buffers()}
        return functional_call(self._model, buffers, (x,))

    @contextmanager
    def _differentiable(self) -> Iterator[None]:
        modes = [(module, module.training) for module in self._model.modules()]
        self._model.eval()
        for module, _ in modes:
            if self._batch_norm == "batch" and isinstance(module, _BatchNorm):
                module.train()
        try:
            with (
                torch.enable_grad(),
                self._float(),
                sdpa_kernel(SDPBackend.MATH),
            ):  # the other kernels have no second derivative
                yield
        finally:
            for module, mode in modes:
                module.training = mode

    def _float(self) -> torch.autocast:
        return torch.autocast(self.parameters[0].device.type, enabled=False)


def batch_samples(x: Any) -> int:
    """Samples of a batch of inputs, a tensor or any nesting of them."""
    return len(tree_leaves(x)[0])


def _scalar(loss: Tensor) -> Tensor:
    if loss.ndim:
        raise ValueError(f"loss must be a scalar, the mean over the batch, got shape {list(loss.shape)}")
    return loss


def _pulled(outputs: Sequence[Tensor], inputs: Sequence[Tensor], block: Block) -> Block:
    """The vector-Jacobian products of a block, zeros where nothing depends."""
    dependent = [(o, v) for o, v in zip(outputs, block, strict=True) if o.requires_grad]
    count = len(block[0])
    if not dependent:
        return [i.new_zeros(count, *i.shape) for i in inputs]
    reached, vectors = zip(*dependent, strict=True)
    batched = count > 1
    found = torch.autograd.grad(
        reached,
        inputs,
        vectors if batched else [v[0] for v in vectors],
        retain_graph=True,
        is_grads_batched=batched,
        allow_unused=True,
    )
    blocks = [None if f is None else f if batched else f[None] for f in found]
    return [i.new_zeros(count, *i.shape) if b is None else b for b, i in zip(blocks, inputs, strict=True)]


def _flat(block: Block) -> Tensor:
    return torch.cat([part.reshape(len(part), -1) for part in block], dim=1)
