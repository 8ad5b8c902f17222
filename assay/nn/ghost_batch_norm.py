"""Ghost batch normalisation: the statistics of each small piece of a large batch, not of the whole.

    y = gamma (x - mu_i) / sqrt(var_i + eps) + beta,        mu_i, var_i over the samples and positions of piece i
    run <- (1 - eta)^K run + sum_{i=1..K} (1 - eta)^(K-i) eta stat_i                      one step of eta a piece

The batch is cut along its first axis into K consecutive pieces of `ghost_batch_size` samples; evaluation is ordinary.

Source: Hoffer, Hubara, Soudry, "Train longer, generalize better" (NIPS 2017), algorithm 1. As printed, the exponents of
the running average decay by the piece's size; read as here, it is K ordinary steps, as in the authors' code.
"""

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from assay.nn.surgery import Selection, replace

Statistics = Literal["sequential", "deviation", "per_step"]
_PLAIN = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
_RANKS = {1: (2, 3), 2: (4,), 3: (5,)}


def ghost_batch_norm(
    x: Float[Tensor, "batch channels *positions"],
    weight: Float[Tensor, " channels"] | None,
    bias: Float[Tensor, " channels"] | None,
    pieces: int,
    *,
    eps: float = 1e-5,
    running: tuple[Float[Tensor, " channels"], Float[Tensor, " channels"]] | None = None,
    momentum: float = 0.1,
    interleaved: bool = False,
) -> Float[Tensor, "batch channels *positions"]:
    """Normalise each of `pieces` parts of a batch by its own statistics.

    Args:
        x: any floating type; statistics are taken in float32 at least.
        weight: gamma, shared by all pieces; none for 1.
        bias: beta, likewise; none for 0.
        pieces: K in 1..batch. Where it does not divide the batch, pieces differ by one sample, larger ones first.
        eps: added to the variance.
        running: mean and unbiased variance, moved in place by one step of `momentum` a piece, in order.
        momentum: eta, weight of a new statistic.
        interleaved: sample i belongs to piece i mod K instead of floor(i K / batch). On a shuffled batch the law is the
            same, and nothing need be copied. Without effect where K does not divide the batch.

    Raises:
        ValueError: there are more pieces than samples, or a piece has a single value a channel.

    Source: Hoffer et al. 2017, algorithm 1.
    """
    batch = len(x)
    if not 1 <= pieces <= batch:
        raise ValueError(f"pieces must lie in 1..{batch} for a batch of {batch}, got {pieces}")
    if batch % pieces == 0 and pieces > 1 and (interleaved or _folding_pays(x, pieces)):
        return _folded(x, weight, bias, pieces, eps, running, momentum, interleaved)
    mean, var = running or (None, None)
    # torch.split, because its backward is one concatenation; tensor_split's is a full-size sum a piece
    parts = torch.split(x, _sizes(batch, pieces))
    return torch.cat([F.batch_norm(part, mean, var, weight, bias, True, momentum, eps) for part in parts])


def _folded(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    pieces: int,
    eps: float,
    running: tuple[Tensor, Tensor] | None,
    momentum: float,
    interleaved: bool,
) -> Tensor:
    """One call, for which each channel of each piece is a channel of its own; K equal pieces."""
    n, channels = len(x) // pieces, x.shape[1]
    gamma = None if weight is None else weight.expand(pieces, channels).reshape(-1)
    beta = None if bias is None else bias.expand(pieces, channels).reshape(-1)
    means = variances = None
    if running is not None:
        means, variances = running[0].new_zeros(pieces * channels), running[1].new_zeros(pieces * channels)

    def normalise(folded: Tensor) -> Tensor:
        return F.batch_norm(folded, means, variances, gamma, beta, True, 1.0, eps)

    if interleaved:
        y = normalise(x.reshape(n, pieces * channels, -1)).reshape(x.shape)
    elif x.numel() == len(x) * channels:  # no positions: whole rows move
        folded = x.reshape(pieces, n, channels).transpose(0, 1).reshape(n, -1)
        y = normalise(folded).reshape(n, pieces, channels).transpose(0, 1).reshape(x.shape)
    else:  # a piece's values of one channel come to lie side by side
        folded = x.reshape(pieces, n, channels, -1).transpose(1, 2).reshape(1, pieces * channels, -1)
        y = normalise(folded).reshape(pieces, channels, n, -1).transpose(1, 2).reshape(x.shape)
    if x.ndim == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last):
        y = y.contiguous(memory_format=torch.channels_last)

    if running is not None and means is not None and variances is not None:
        weights = _weights(momentum, pieces, means)
        for average, found in zip(running, (means, variances), strict=True):
            _advance(average, (1 - momentum) ** pieces, weights, found.view(pieces, channels))
    return y


def _weights(momentum: float, pieces: int, like: Tensor) -> Tensor:
    """(1 - eta)^(K - i) eta for i = 1..K."""
    powers = torch.arange(pieces - 1, -1, -1, dtype=like.dtype, device=like.device)
    return momentum * (1 - momentum) ** powers


@torch.no_grad()
def _advance(average: Tensor, decay: float | Tensor, weights: Tensor, found: Tensor) -> None:
    average.mul_(decay).add_((weights[:, None] * found).sum(0))


def _sizes(batch: int, pieces: int) -> list[int]:
    small, larger = divmod(batch, pieces)
    return [small + 1] * larger + [small] * (pieces - larger)


def _folding_pays(x: Tensor, pieces: int) -> bool:
    """Whether one call over K times the channels beats K calls.

    On a CPU its copies cost more than the calls they save once a piece is large, unless its rows are so short that
    torch's kernel is slow on them. The bounds were measured with benchmarks/ghost_batch_norm.py on one core. Elsewhere
    each call is a launch, and a compiler fuses the copies, so folding is taken to pay; that is not measured.
    """
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return True
    positions = x[0, 0].numel()
    values = x.numel() // pieces
    return values <= 2**13 if positions == 1 else values <= 2**14 or positions <= 4


class GhostBatchNorm(_BatchNorm):
    """`BatchNorm1d`, `2d` or `3d` that in training normalises each ghost batch by itself.

    Parameters, buffers and state dict are those of torch's layer, so that checkpoints go both ways, and evaluation is
    the same. A batch that does not divide evenly is cut into pieces of nearly equal size, none above
    `ghost_batch_size`; one that is no larger is a single piece.

    Under data parallelism each worker cuts its own share: outputs and gradients are those of one process on the joined
    batch where shares are whole pieces, and, as for torch's layer, the running statistics are those that rank 0 saw.
    `SyncBatchNorm.convert_sync_batchnorm` would turn the layer into its opposite.

    Args:
        num_features: channels C.
        ghost_batch_size: samples a piece.
        dims: axes of positions, as in `BatchNorm{dims}d`: 1 takes [N, C] or [N, C, L], 2 [N, C, H, W],
            3 [N, C, D, H, W].
        eps: added to the variance.
        momentum: eta, weight of a new statistic; none for the plain average over all pieces.
        affine: learn gamma and beta.
        track_running_stats: keep running statistics; without them evaluation uses the whole batch's.
        statistics: how they run. `"sequential"`: one step of eta a piece, on its unbiased variance, as if the pieces
            had passed one after another through torch's layer (and as in the authors' code). `"deviation"`: the same,
            but what is averaged is sqrt(biased variance + eps), as printed in algorithm 1; `running_var` holds its
            square less eps, so that any BatchNorm evaluates it. `"per_step"`: eta / K a piece, which moves the
            statistics about as much a step as torch's layer does (other libraries' choice).
        interleaved: cut the batch by stride, which costs no copies; see `ghost_batch_norm`.

    Raises:
        ValueError: an argument is out of its range.

    Source: Hoffer, Hubara, Soudry, "Train longer, generalize better" (NIPS 2017), algorithm 1.
    """

    def __init__(
        self,
        num_features: int,
        ghost_batch_size: int,
        dims: Literal[1, 2, 3] = 2,
        *,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        statistics: Statistics = "sequential",
        interleaved: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if ghost_batch_size < 1 or ghost_batch_size != int(ghost_batch_size):
            raise ValueError(f"ghost_batch_size must be a positive whole number, got {ghost_batch_size}")
        if dims not in _RANKS:
            raise ValueError(f"dims must be 1, 2 or 3, got {dims}")
        if statistics not in get_args(Statistics):
            raise ValueError(f"statistics must be one of {', '.join(get_args(Statistics))}, got {statistics!r}")
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device=device, dtype=dtype)
        self.ghost_batch_size, self.dims = int(ghost_batch_size), dims
        self.statistics, self.interleaved = statistics, interleaved

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim not in _RANKS[self.dims]:
            wants = " or ".join(str(rank) for rank in _RANKS[self.dims])
            raise ValueError(f"input must have {wants} axes for dims={self.dims}, got {input.ndim}")

    def forward(self, input: Tensor) -> Tensor:
        pieces = -(-len(input) // self.ghost_batch_size)
        if not self.training or pieces < 1 or (pieces == 1 and self.statistics != "deviation"):
            return super().forward(input)
        self._check_input_dim(input)
        running = None
        if self.track_running_stats and self.running_mean is not None and self.running_var is not None:
            running = self.running_mean, self.running_var
        momentum = self.momentum or 0.0
        direct = self.statistics != "deviation" and self.momentum is not None
        y = ghost_batch_norm(
            input,
            self.weight,
            self.bias,
            pieces,
            eps=self.eps,
            running=running if direct else None,
            momentum=momentum / pieces if self.statistics == "per_step" else momentum,
            interleaved=self.interleaved,
        )
        if running is not None:
            if not direct:
                self._average(input, pieces, *running)
            if self.num_batches_tracked is not None:
                self.num_batches_tracked.add_(pieces)
        return y

    @torch.no_grad()
    def _average(self, x: Tensor, pieces: int, mean: Tensor, var: Tensor) -> None:
        """The statistics that torch's kernel cannot run: from a pass of their own over the batch."""
        if self.interleaved and len(x) % pieces == 0:
            parts = [x[i::pieces] for i in range(pieces)]
        else:
            parts = list(torch.split(x, _sizes(len(x), pieces)))
        axes = [axis for axis in range(x.ndim) if axis != 1]
        biased = self.statistics == "deviation"
        found = [torch.var_mean(part.to(mean.dtype), axes, correction=0 if biased else 1) for part in parts]
        variances, means = (torch.stack(values) for values in zip(*found, strict=True))
        decay: float | Tensor
        if self.momentum is None:
            seen = 0 if self.num_batches_tracked is None else self.num_batches_tracked
            total = seen + torch.tensor(pieces, dtype=mean.dtype, device=mean.device)
            decay, weights = 1 - pieces / total, (1 / total).expand(pieces)
        else:
            decay, weights = (1 - self.momentum) ** pieces, _weights(self.momentum, pieces, mean)
        _advance(mean, decay, weights, means)
        if biased:
            var.add_(self.eps).sqrt_()
            _advance(var, decay, weights, (variances + self.eps).sqrt())
            var.square_().sub_(self.eps)
        else:
            _advance(var, decay, weights, variances)

    def extra_repr(self) -> str:
        return (
            f"{self.num_features}, ghost_batch_size={self.ghost_batch_size}, dims={self.dims}, eps={self.eps}, "
            f"momentum={self.momentum}, affine={self.affine}, track_running_stats={self.track_running_stats}, "
            f"statistics={self.statistics!r}, interleaved={self.interleaved}"
        )


def to_ghost_batch_norm(
    model: nn.Module,
    ghost_batch_size: int,
    *,
    statistics: Statistics = "sequential",
    interleaved: bool = False,
    include: Selection | None = None,
    exclude: Selection | None = None,
) -> nn.Module:
    """Make every `BatchNorm1d`, `2d` and `3d` of a model a ghost batch normalisation, in place.

    Parameters, buffers, hooks and mode stay, so an optimizer made before remains valid. Doing it again changes the
    settings of the layers, and nothing where they are the same.

    Args:
        model: the network; where it is itself a BatchNorm, use what is returned.
        ghost_batch_size: samples a piece; the batch size at which the model generalises well.
        statistics: see `GhostBatchNorm`.
        interleaved: see `GhostBatchNorm`.
        include: which layers, as in `assay.nn.surgery.replace`.
        exclude: which not.

    Returns:
        the model.

    Raises:
        ValueError: there is no BatchNorm to treat, or one that cannot be: synchronised, lazy, or of a class of its own.
    """
    found = 0

    def rule(name: str, layer: nn.Module) -> nn.Module | None:
        nonlocal found
        if not isinstance(layer, _BatchNorm):
            return None
        found += 1
        dims = layer.dims if isinstance(layer, GhostBatchNorm) else _DIMS.get(type(layer))
        if dims is None:
            raise ValueError(f"layer {name!r} is a {type(layer).__name__}, want BatchNorm1d, 2d or 3d; exclude it")
        settings = (int(ghost_batch_size), statistics, interleaved)
        if isinstance(layer, GhostBatchNorm) and settings == (
            layer.ghost_batch_size, layer.statistics, layer.interleaved
        ):  # fmt: skip
            return None
        ghost = GhostBatchNorm(
            layer.num_features, ghost_batch_size, dims, eps=layer.eps, momentum=layer.momentum, affine=layer.affine,
            track_running_stats=layer.track_running_stats, statistics=statistics, interleaved=interleaved,
            device="meta",
        )  # fmt: skip
        return _hand_over(layer, ghost)

    surgery = replace(model, rule, include=include, exclude=exclude)
    if not found:
        raise ValueError(f"model must hold a BatchNorm layer to treat, got {type(model).__name__} without one")
    return surgery.model


def to_batch_norm(model: nn.Module) -> nn.Module:
    """Make every `GhostBatchNorm` of a model torch's own layer again, in place: for export, or to go on without.

    Args:
        model: the network; where it is itself a `GhostBatchNorm`, use what is returned.

    Returns:
        the model.
    """

    def rule(name: str, layer: nn.Module) -> nn.Module | None:
        if not isinstance(layer, GhostBatchNorm):
            return None
        plain = _PLAIN[layer.dims](
            layer.num_features, layer.eps, layer.momentum, layer.affine, layer.track_running_stats, device="meta"
        )
        return _hand_over(layer, plain)

    return replace(model, rule).model


_DIMS: dict[type, Literal[1, 2, 3]] = {nn.BatchNorm1d: 1, nn.BatchNorm2d: 2, nn.BatchNorm3d: 3}


def _hand_over(source: _BatchNorm, target: _BatchNorm) -> _BatchNorm:
    for name, parameter in source._parameters.items():
        target.register_parameter(name, parameter)
    for name, buffer in source._buffers.items():
        target.register_buffer(name, buffer)
    return target
