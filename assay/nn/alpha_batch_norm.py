"""Alpha batch normalisation: stored statistics mixed with those of the test batch.

    mu = alpha mu_s + (1 - alpha) mu_t,    var = alpha var_s + (1 - alpha) var_t
    y = gamma (x - mu) / sqrt(var + eps) + beta

Source (s): the running statistics, which nothing here changes. Target (t): the present batch's, over samples and
positions. alpha = 1 is ordinary evaluation, alpha = 0 pure batch statistics.

Source: You, Li, Zhao, "Test-time batch statistics calibration for covariate shift" (2021), arXiv 2110.04065.
"""

from collections.abc import Mapping
from fnmatch import fnmatchcase

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from assay.nn.ghost_batch_norm import _DIMS, _RANKS, GhostBatchNorm
from assay.nn.surgery import Selection, Surgery, replace


def alpha_batch_norm(
    x: Float[Tensor, "batch channels *positions"],
    running_mean: Float[Tensor, " channels"] | None,
    running_var: Float[Tensor, " channels"] | None,
    weight: Float[Tensor, " channels"] | None,
    bias: Float[Tensor, " channels"] | None,
    alpha: float,
    *,
    eps: float = 1e-5,
    unbiased: bool = False,
) -> Float[Tensor, "batch channels *positions"]:
    """Normalise by a mixture of stored and batch statistics; gradients flow through the latter.

    Args:
        x: any floating type; statistics are taken in float32 at least.
        running_mean: mu_s; none only where `alpha` is 0.
        running_var: var_s; likewise.
        weight: gamma; none for 1.
        bias: beta; none for 0.
        alpha: weight of the stored statistics, in [0, 1]. Some other libraries' parameter is 1 - alpha.
        eps: added to the variance.
        unbiased: take var_t with n - 1 in the denominator, as public code of others does.

    Returns:
        y, in the dtype of `x`.

    Raises:
        ValueError: `alpha` is out of range, stored statistics lack, or the batch has too few values a channel: none, or
            a single one where `alpha` is 0 (its variance is 0) or `unbiased` (it has no variance).

    Source: You et al. 2021, the definition of alpha-BN.
    """
    _check_alpha(alpha)
    if alpha > 0 and (running_mean is None or running_var is None):
        raise ValueError(f"running_mean and running_var must be given for alpha > 0, got None with alpha={alpha}")
    if alpha == 1:
        return F.batch_norm(x, running_mean, running_var, weight, bias, False, 0.0, eps)
    values = x.numel() // x.shape[1]
    if values < (2 if unbiased or alpha == 0 else 1):
        raise ValueError(
            f"x must have more values a channel for alpha={alpha}, unbiased={unbiased}, got {values} in {list(x.shape)}"
        )
    if alpha == 0 and not unbiased:
        return F.batch_norm(x, None, None, weight, bias, True, 0.0, eps)
    mean, var = _statistics(x, unbiased)
    if running_mean is not None and running_var is not None:
        mean, var = mean.lerp(running_mean.to(mean.dtype), alpha), var.lerp(running_var.to(var.dtype), alpha)
    if not torch.is_grad_enabled():
        mean, var = (t if weight is None else t.to(weight.dtype) for t in (mean, var))
        return F.batch_norm(x, mean, var, weight, bias, False, 0.0, eps)
    # torch's kernel takes the statistics it is given for constants
    scale = (var + eps).rsqrt() if weight is None else weight * (var + eps).rsqrt()
    shift = -mean * scale if bias is None else bias - mean * scale
    shape = [-1] + [1] * (x.ndim - 2)
    return torch.addcmul(shift.view(shape), x.to(scale.dtype), scale.view(shape)).to(x.dtype)


def _statistics(x: Tensor, unbiased: bool) -> tuple[Tensor, Tensor]:
    """Mean and variance of each channel, in float32 at least."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    if x.device.type == "cpu" and not torch.is_grad_enabled() and not torch.compiler.is_compiling():
        # the pass that torch's own BatchNorm makes, some three times as fast as var_mean on a CPU; it has no gradient
        mean, var = torch.batch_norm_update_stats(x, None, None, 0.0)
        values = x.numel() // x.shape[1]
        return mean, var * (values / (values - 1)) if unbiased else var
    var, mean = torch.var_mean(x, [axis for axis in range(x.ndim) if axis != 1], correction=int(unbiased))
    return mean, var


def _check_alpha(alpha: float) -> None:
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must lie in [0, 1], got {alpha}")


class AlphaBatchNorm(_BatchNorm):
    """A BatchNorm for test time, which mixes its running statistics with the present batch's; made by `alpha_bn`.

    It has no other way to compute: in training mode it does the same, and never touches its buffers. Parameters,
    buffers and state dict are those of the layer it stands for. What it gives for a sample depends on its batch.

    Under data parallelism each process takes the statistics of its own share, nothing is exchanged, and outputs depend
    on how a batch is shared out, unless alpha is 1.

    Args:
        source: the layer whose parameters and buffers it holds, themselves and not copies.
        alpha: weight of the stored statistics, in [0, 1]; may be set later.
        unbiased: see `alpha_batch_norm`.

    Raises:
        ValueError: `alpha` is out of range or needs running statistics that the layer lacks.
        TypeError: `source` is of a class that may compute something else: lazy, or one's own.

    Source: You, Li, Zhao, "Test-time batch statistics calibration for covariate shift" (2021).
    """

    def __init__(self, source: _BatchNorm, alpha: float = 0.9, *, unbiased: bool = False) -> None:
        _check_alpha(alpha)
        self.ranks = _ranks(source)
        if alpha > 0 and source.running_mean is None:
            raise ValueError(f"alpha must be 0 for a layer without running statistics, got {alpha}")
        super().__init__(
            source.num_features, source.eps, source.momentum, source.affine, source.track_running_stats, device="meta"
        )
        for name, parameter in source._parameters.items():
            self.register_parameter(name, parameter)
        for name, buffer in source._buffers.items():
            self.register_buffer(name, buffer)
        self.alpha, self.unbiased = alpha, unbiased

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim not in self.ranks:
            wants = " or ".join(str(rank) for rank in self.ranks)
            raise ValueError(f"input must have {wants} axes, got {input.ndim}")

    def forward(self, input: Tensor) -> Tensor:
        self._check_input_dim(input)
        return alpha_batch_norm(
            input, self.running_mean, self.running_var, self.weight, self.bias, self.alpha,
            eps=self.eps, unbiased=self.unbiased,
        )  # fmt: skip

    def extra_repr(self) -> str:
        return f"{self.num_features}, alpha={self.alpha}, eps={self.eps}, unbiased={self.unbiased}"


def _ranks(layer: nn.Module) -> tuple[int, ...]:
    """Numbers of axes that `layer` takes."""
    if isinstance(layer, AlphaBatchNorm):
        return layer.ranks
    if type(layer) is nn.SyncBatchNorm:  # synchronised in training alone
        return (2, 3, 4, 5)
    dims = layer.dims if isinstance(layer, GhostBatchNorm) else _DIMS.get(type(layer))
    if dims is None:
        raise TypeError(f"want a BatchNorm1d, 2d or 3d, synchronised or ghost, got {type(layer).__name__}; exclude it")
    return _RANKS[dims]


def alpha_bn(
    model: nn.Module,
    alpha: float | Mapping[str, float] = 0.9,
    *,
    unbiased: bool = False,
    include: Selection | None = None,
    exclude: Selection | None = None,
) -> Surgery:
    """Have every BatchNorm of a trained model mix its statistics with the test batch's, in place.

        with alpha_bn(model.eval(), 0.7) as adapted, torch.no_grad():
            logits = adapted(images)

    Parameters, buffers, hooks and mode stay. Doing it again with another alpha changes that, with the same nothing.
    Layers of other classes are left as they are, frozen ones (torchvision's `FrozenBatchNorm2d`) and fused ones
    (`InPlaceABN`) among them.

    Args:
        model: the network; where it is itself a BatchNorm, use `.model` of the result.
        alpha: weight of the stored statistics, in [0, 1]; or by layer, `{"stem.*": 0.9, "*": 0.5}`: names with shell
            wildcards, the first that fits counts, and a layer that none fits is left as it is.
        unbiased: see `alpha_batch_norm`.
        include: which layers, as in `assay.nn.surgery.replace`.
        exclude: which not.

    Returns:
        the surgery: `.model`, `.undo()`, and as a context manager it gives the model and undoes at exit.

    Raises:
        ValueError: there is no BatchNorm to treat, one that cannot be, `alpha` is out of range, or a name in it fits no
            BatchNorm.
        TypeError: the model is wrapped for distributed training.

    Source: You, Li, Zhao, "Test-time batch statistics calibration for covariate shift" (2021).
    """
    by_name = alpha if isinstance(alpha, Mapping) else {"*": alpha}
    fitting: set[str] = set()
    found = 0

    def rule(name: str, layer: nn.Module) -> nn.Module | None:
        nonlocal found
        if not isinstance(layer, _BatchNorm):
            return None
        found += 1
        fits = [pattern for pattern in by_name if fnmatchcase(name, pattern)]
        fitting.update(fits)
        if not fits:
            return None
        weight = by_name[fits[0]]
        if isinstance(layer, AlphaBatchNorm) and (layer.alpha, layer.unbiased) == (weight, unbiased):
            return None
        try:
            return AlphaBatchNorm(layer, weight, unbiased=unbiased)
        except (ValueError, TypeError) as error:
            raise ValueError(f"layer {name!r}: {error}") from error

    surgery = replace(model, rule, include=include, exclude=exclude)
    if not found:
        raise ValueError(f"model must hold a BatchNorm layer to treat, got {type(model).__name__} without one")
    if unused := [pattern for pattern in by_name if pattern not in fitting]:
        surgery.undo()
        raise ValueError(f"alpha: {unused[0]!r} fits no BatchNorm layer")
    return surgery
