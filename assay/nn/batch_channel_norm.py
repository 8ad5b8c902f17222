"""Batch-channel normalisation: a batch normalisation, then one over groups of channels, each with its affine.

    y = gamma_c (x' - mu_ng) / sqrt(var_ng + eps) + beta_c,        x' = gamma_b (x - mu_b) / sqrt(var_b + eps) + beta_b

mu_ng, var_ng over the channels and positions of group g of sample n; mu_b, var_b by channel: of the batch, or, for
batches too small for that, running estimates,

    var_b <- (1 - a) var_b + a mean (x - mu_b)^2,    mu_b <- (1 - a) mu_b + a mean x        in this order

through which no gradient flows. The batch part keeps channels from being switched off for good by the ReLU that comes
next, the channel part does what group normalisation does.

Source: Qiao, Wang, Liu, Shen, Yuille, "Micro-Batch Training with Batch-Channel Normalization and Weight
Standardization" (2019), section 4 and algorithm 1.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from assay.nn.surgery import Selection, replace

_PLAIN = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


class EstimatedBatchNorm(_NormBase):
    """Normalises by running estimates of the statistics, in training too; a batch of one sample will do.

    In training the estimates first move towards the batch's statistics and are used as they are then; in evaluation
    they stay. State dicts are those of torch's BatchNorm, so checkpoints go both ways.

    Under data parallelism every process moves its own estimates and nothing is reduced; where buffers are broadcast, as
    by `DistributedDataParallel`, rank 0's count. `SyncBatchNorm.convert_sync_batchnorm` leaves the layer alone.

    The estimates begin at mean 0 and variance 1, so that for about 1/a steps activations are normalised little. They
    must move faster than the weights do: raise the rate a, or lower the learning rate, where they lag.

    Args:
        num_features: channels C.
        update_rate: a in [0, 1], weight of a new statistic; kept as `momentum`, torch's name for it. The authors' code
            starts from 0 and leaves it to the user; 0.1 is ours.
        eps: added to the variance.
        affine: learn gamma and beta.

    Raises:
        ValueError: `update_rate` lies outside [0, 1].

    Source: Qiao et al. 2019, algorithm 1; the order of the updates is that of the authors' code.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float

    def __init__(
        self,
        num_features: int,
        update_rate: float = 0.1,
        *,
        eps: float = 1e-5,
        affine: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if not 0 <= update_rate <= 1:
            raise ValueError(f"update_rate must lie in [0, 1], got {update_rate}")
        super().__init__(num_features, eps, update_rate, affine, True, device=device, dtype=dtype)

    def forward(self, x: Float[Tensor, "batch channels *positions"]) -> Float[Tensor, "batch channels *positions"]:
        statistics = self._moved(x) if self.training else (self.running_mean, self.running_var)
        return F.batch_norm(x, *statistics, self.weight, self.bias, False, 0.0, self.eps)

    @torch.no_grad()
    def _moved(self, x: Tensor) -> tuple[Tensor, Tensor]:
        # tensors of their own, since backward needs them as they are now and the buffers move on
        axes = [0, *range(2, x.ndim)]
        old = self.running_mean
        deviation = x.to(old.dtype) - old.view(-1, *[1] * (x.ndim - 2))
        mean = old + self.momentum * deviation.mean(axes)
        var = torch.lerp(self.running_var, deviation.square_().mean(axes), self.momentum)
        self.running_mean.copy_(mean)
        self.running_var.copy_(var)
        self.num_batches_tracked.add_(1)
        return mean, var


class ChannelNorm(nn.Module):
    """Group normalisation whose affine has one gain and one bias a group, not a channel.

    Args:
        num_features: channels C, a multiple of the groups.
        num_groups: G.
        eps: added to the variance.
        per_channel_affine: a gain and a bias a channel, as in `nn.GroupNorm`.

    Raises:
        ValueError: the groups do not divide the channels; in forward: a group has a single value a sample, which would
            always become 0.

    Source: the authors' code of Qiao et al. 2019.
    """

    def __init__(
        self,
        num_features: int,
        num_groups: int,
        *,
        eps: float = 1e-5,
        per_channel_affine: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        _check_groups(num_features, num_groups)
        self.num_features, self.num_groups, self.eps = num_features, num_groups, eps
        self.per_channel_affine = per_channel_affine
        size = num_features if per_channel_affine else num_groups
        self.weight = nn.Parameter(torch.ones(size, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.zeros(size, device=device, dtype=dtype))

    def forward(self, x: Float[Tensor, "batch channels *positions"]) -> Float[Tensor, "batch channels *positions"]:
        if x.shape[1:].numel() == self.num_groups:
            raise ValueError(f"a group must have more than one value a sample, got input of shape {tuple(x.shape)}")
        return F.group_norm(x, self.num_groups, self._by_channel(self.weight), self._by_channel(self.bias), self.eps)

    def _by_channel(self, affine: Tensor) -> Tensor:
        return affine if self.per_channel_affine else affine.repeat_interleave(self.num_features // self.num_groups)

    def extra_repr(self) -> str:
        affine = f"per_channel_affine={self.per_channel_affine}"
        return f"{self.num_features}, num_groups={self.num_groups}, eps={self.eps}, {affine}"


class BatchChannelNorm(nn.Module):
    """Batch normalisation followed by channel normalisation.

    Attributes:
        batch_norm: `nn.BatchNorm{dims}d`, or an `EstimatedBatchNorm`. `SyncBatchNorm.convert_sync_batchnorm` does to
            the former what it is for. Under data parallelism the latter's estimates are each process's own.
        channel_norm: a `ChannelNorm`. Where a residual branch is to begin at zero, the authors zero its `weight`.

    Args:
        num_features: channels C.
        num_groups: of the channel part; must divide C.
        dims: axes of positions, as in `BatchNorm{dims}d`.
        eps: added to the variances of both parts (the authors' constructor gives it to the second alone).
        estimate: running estimates in place of the batch's statistics, for micro-batches.
        update_rate: weight of a new statistic, in the running averages of either kind.
        per_channel_affine: of the channel part, see `ChannelNorm`.

    Raises:
        ValueError: an argument is out of its range.

    Source: Qiao et al. 2019, section 4.
    """

    def __init__(
        self,
        num_features: int,
        num_groups: int = 32,
        *,
        dims: Literal[1, 2, 3] = 2,
        eps: float = 1e-5,
        estimate: bool = False,
        update_rate: float = 0.1,
        per_channel_affine: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if dims not in _PLAIN:
            raise ValueError(f"dims must be 1, 2 or 3, got {dims}")
        if not 0 <= update_rate <= 1:
            raise ValueError(f"update_rate must lie in [0, 1], got {update_rate}")
        self.batch_norm: nn.Module = (
            EstimatedBatchNorm(num_features, update_rate, eps=eps, device=device, dtype=dtype)
            if estimate
            else _PLAIN[dims](num_features, eps, update_rate, device=device, dtype=dtype)
        )
        self.channel_norm = ChannelNorm(
            num_features, num_groups, eps=eps, per_channel_affine=per_channel_affine, device=device, dtype=dtype
        )

    def forward(self, x: Float[Tensor, "batch channels *positions"]) -> Float[Tensor, "batch channels *positions"]:
        y: Tensor = self.channel_norm(self.batch_norm(x))
        return y


def to_batch_channel_norm(
    model: nn.Module,
    num_groups: int = 32,
    *,
    estimate: bool = False,
    update_rate: float | None = None,
    per_channel_affine: bool = False,
    include: Selection | None = None,
    exclude: Selection | None = None,
) -> nn.Module:
    """Make every BatchNorm of a model a batch-channel normalisation, in place.

    The BatchNorm's parameters and buffers become the batch part's, and an optimizer made before remains valid for them;
    the channel part's gains and biases are new, so make the optimizer after, or add them to it. A layer that is a
    `BatchChannelNorm` already is left as it is.

    Args:
        model: the network; where it is itself a BatchNorm, use what is returned.
        num_groups: must divide the channels of each layer.
        estimate: see `BatchChannelNorm`; without it the layer itself, of whatever class, becomes the batch part.
        update_rate: weight of a new statistic; the layer's own momentum by default, for estimates 0.1 where it has
            none.
        per_channel_affine: see `ChannelNorm`.
        include: which layers, as in `assay.nn.surgery.replace`.
        exclude: which not.

    Returns:
        the model.

    Raises:
        ValueError: there is no BatchNorm to treat, or one that cannot be: its channels are no multiple of the groups,
            or it has no running statistics for `estimate` to go on from.
    """
    inside = {m.batch_norm for m in model.modules() if isinstance(m, BatchChannelNorm)}
    found = len(inside)

    def rule(name: str, layer: nn.Module) -> nn.Module | None:
        nonlocal found
        if not isinstance(layer, _BatchNorm) or layer in inside:
            return None
        found += 1
        if estimate and not layer.track_running_stats:
            raise ValueError(f"layer {name!r} has no running statistics to go on from: exclude it")
        rate = layer.momentum if update_rate is None else update_rate
        try:
            new = BatchChannelNorm(
                layer.num_features, num_groups, eps=layer.eps, estimate=estimate,
                update_rate=0.1 if rate is None else rate, per_channel_affine=per_channel_affine,
            )  # fmt: skip
        except ValueError as error:
            raise ValueError(f"layer {name!r}: {error}") from None
        if estimate:
            for key, parameter in layer._parameters.items():
                new.batch_norm.register_parameter(key, parameter)
            for key, buffer in layer._buffers.items():
                new.batch_norm.register_buffer(key, buffer)
        else:
            new.batch_norm = layer
        return new

    surgery = replace(model, rule, include=include, exclude=exclude)
    _refuse_nothing(found, model)
    if update_rate is not None and not estimate:
        for layer in surgery.replaced.values():
            if isinstance(layer, _BatchNorm):
                layer.momentum = update_rate
    return surgery.model


def to_group_norm(
    model: nn.Module,
    num_groups: int = 32,
    *,
    include: Selection | None = None,
    exclude: Selection | None = None,
) -> nn.Module:
    """Make every BatchNorm of a model torch's GroupNorm, in place: what the paper compares with, and pairs with weight
    standardisation.

    Gains and biases stay, so an optimizer made before remains valid; running statistics are dropped.

    Args:
        model: the network; where it is itself a BatchNorm, use what is returned.
        num_groups: must divide the channels of each layer.
        include: which layers, as in `assay.nn.surgery.replace`.
        exclude: which not.

    Returns:
        the model.

    Raises:
        ValueError: there is no BatchNorm to treat, or a layer's channels are no multiple of the groups.
    """
    found = sum(isinstance(layer, nn.GroupNorm) for layer in model.modules())

    def rule(name: str, layer: nn.Module) -> nn.Module | None:
        nonlocal found
        if not isinstance(layer, _BatchNorm):
            return None
        found += 1
        try:
            _check_groups(layer.num_features, num_groups)
        except ValueError as error:
            raise ValueError(f"layer {name!r}: {error}") from None
        new = nn.GroupNorm(num_groups, layer.num_features, layer.eps, layer.affine, device="meta")
        for key, parameter in layer._parameters.items():
            new.register_parameter(key, parameter)
        return new

    surgery = replace(model, rule, include=include, exclude=exclude)
    _refuse_nothing(found, model)
    return surgery.model


def _check_groups(num_features: int, num_groups: int) -> None:
    if num_groups < 1 or num_features % num_groups:
        raise ValueError(f"num_groups must divide the {num_features} channels, got {num_groups}")


def _refuse_nothing(found: int, model: nn.Module) -> None:
    if not found:
        raise ValueError(f"model must hold a BatchNorm layer to treat, got {type(model).__name__} without one")
