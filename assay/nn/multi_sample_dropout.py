"""Multi-sample dropout: M dropout masks on the same features, one head, the mean of M losses.

    loss = (1/M) sum_{j=1..M} L(h(m_j * z / (1 - p)), y),        m_j ~ Bernoulli(1 - p) independent

The features z are computed once; everything after the dropout runs on M copies with shared weights, as one batch of M N
rows, sample after sample. It is the losses that are averaged, not the logits. Evaluation is ordinary.

Source: Inoue, "Multi-Sample Dropout for Accelerated Training and Better Generalization" (2019), section 3.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Shaped
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.checkpoint import checkpoint

from assay.nn.surgery import replace


class MultiSampleDropout(nn.Module):
    """Dropout that in training gives M independently dropped copies of its input, stacked along the batch axis.

    Put it where the head begins, in place of its first dropout; take the loss with `multi_sample_loss`. In evaluation,
    and with p = 0 (copies that nothing tells apart), it is the identity. With M = 1 it is the dropout itself, to the
    bit. Masks come from torch's default generator, in one draw. It has no parameters, so state dicts stay as they were.

    A BatchNorm after it would take its statistics over all M N rows.

    Args:
        dropout: what makes the copies differ: a dropout of any kind, or another module that acts at random on each row
            by itself, such as `RandomFlip` or `RandomShift`.
        num_samples: M >= 1; 8 is where the paper's gains level off.

    Raises:
        ValueError: `num_samples` is not a positive whole number, or p is 1.

    Source: Inoue 2019, section 3.
    """

    def __init__(self, dropout: nn.Module, num_samples: int = 8) -> None:
        super().__init__()
        _check_samples(num_samples)
        if isinstance(dropout, _DropoutNd) and dropout.p >= 1:
            raise ValueError(f"p must lie in [0, 1), got {dropout.p}")
        self.dropout, self.num_samples = dropout, int(num_samples)

    def forward(self, z: Shaped[Tensor, "batch *features"]) -> Shaped[Tensor, "rows *features"]:
        if not self.training or (isinstance(self.dropout, _DropoutNd) and self.dropout.p == 0):
            return z
        copies: Tensor
        if (
            type(self.dropout) is nn.Dropout and not self.dropout.inplace
        ):  # elementwise, so it may write the copies itself
            copies = self.dropout(z.expand(self.num_samples, *z.shape)).flatten(0, 1)
        else:
            copies = self.dropout(_stacked(z, self.num_samples))
        return copies

    def extra_repr(self) -> str:
        return f"num_samples={self.num_samples}"


def multi_sample_loss(criterion: Callable[..., Tensor], outputs: Any, target: Any, reduction: str = "mean") -> Tensor:
    """(1/M) sum_j L(outputs_j, target), for outputs stacked by `MultiSampleDropout`; M is what the lengths say.

    Args:
        criterion: L, called `criterion(outputs, target, reduction=...)`, such as `F.cross_entropy`.
        outputs: a tensor [M N, ...] or a nesting of such; M = 1 (evaluation) gives the plain loss.
        target: a tensor [N, ...] or a nesting of such; numbers in it stay as they are.
        reduction: as L takes it; the mean over samples is taken of the reduced loss, `"none"` gives [N, ...].

    Raises:
        ValueError: the lengths of outputs and target do not fit.

    Source: Inoue 2019, section 3. Class weights are normalised within each sample's loss, which is the same as over
    the stack.
    """
    rows, batch = (_length(name, tree) for name, tree in (("outputs", outputs), ("target", target)))
    if batch == 0 or rows % batch:
        raise ValueError(f"outputs must have a whole multiple of the target's {batch} rows, got {rows}")
    samples = rows // batch
    if samples == 1:
        return criterion(outputs, target, reduction=reduction)
    repeated = tree_map(lambda t: _stacked(t, samples) if isinstance(t, Tensor) and t.ndim else t, target)
    loss = criterion(outputs, repeated, reduction=reduction)
    if reduction == "none":
        each = loss.view(samples, batch, *loss.shape[1:])
        return each.mean(0, dtype=torch.promote_types(loss.dtype, torch.float32))
    return loss / samples if reduction == "sum" else loss


def multi_sample_dropout_loss(
    z: Shaped[Tensor, "batch *features"],
    target: Any,
    head: nn.Module | Callable[[Tensor], Any],
    *,
    criterion: Callable[..., Tensor] = F.cross_entropy,
    dropout: nn.Module | None = None,
    num_samples: int = 8,
    chunk_size: int | None = None,
    reduction: str = "mean",
) -> Tensor:
    """The whole objective on features that are at hand: dropout, head and averaged loss; for training.

    Args:
        z: features, computed once.
        target: as `criterion` takes it.
        head: from dropped features to what `criterion` takes; dropouts inside draw for each row.
        criterion: called `criterion(outputs, target, reduction=...)`.
        dropout: 0.5 by default; in training mode.
        num_samples: M.
        chunk_size: samples in memory at a time: their activations are dropped and computed anew in backward, at the
            price of a second pass through the head. All M at once by default; the masks drawn are others then.
        reduction: as `criterion` takes it.

    Raises:
        ValueError: `num_samples` or `chunk_size` is not a positive whole number.

    Source: Inoue 2019, section 3.
    """
    _check_samples(num_samples)
    drop = nn.Dropout(0.5) if dropout is None else dropout
    if chunk_size is None:
        return multi_sample_loss(criterion, head(MultiSampleDropout(drop, num_samples)(z)), target, reduction)
    if chunk_size < 1:
        raise ValueError(f"chunk_size must be positive, got {chunk_size}")

    def part(features: Tensor, samples: int) -> Tensor:
        copies = MultiSampleDropout(drop, samples)(features)
        return samples * multi_sample_loss(criterion, head(copies), target, reduction)

    sizes = [min(chunk_size, num_samples - start) for start in range(0, num_samples, chunk_size)]
    losses = [checkpoint(part, z, size, use_reentrant=False) for size in sizes]
    return torch.stack(losses).sum(0) / num_samples


def to_multi_sample_dropout(model: nn.Module, num_samples: int = 8, *, layer: str | None = None) -> nn.Module:
    """Make a model's head multi-sample, in place: its first dropout gives M copies, and all after it runs on them.

    The outputs in training then have M rows a sample; take the loss with `multi_sample_loss`. Doing it again changes M.

    Args:
        model: the network; where it is itself a dropout, use what is returned.
        num_samples: M.
        layer: name of the dropout at which the copies begin. By default the first with p > 0 of the model's tail: the
            run of linear layers, activations, dropouts and the like with which its list of layers ends.

    Returns:
        the model.

    Raises:
        ValueError: there is no such dropout, it stands in several places, or a BatchNorm comes after it, whose
            statistics would be those of all copies.
    """
    _check_samples(num_samples)
    leaves = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, MultiSampleDropout | _DropoutNd) or not any(True for _ in module.children())
    }
    inner = {id(m.dropout) for m in leaves.values() if isinstance(m, MultiSampleDropout)}
    leaves = {name: module for name, module in leaves.items() if id(module) not in inner}
    if layer is None:
        layer = _first_dropout_of_tail(leaves.items())
    if not isinstance(leaves.get(layer), MultiSampleDropout | _DropoutNd):
        dropouts = [name for name, module in leaves.items() if isinstance(module, MultiSampleDropout | _DropoutNd)]
        raise ValueError(f"layer must name a dropout of the model, got {layer!r}; it has {dropouts or 'none'}")
    chosen = leaves[layer]
    places = [name for name, module in model.named_modules(remove_duplicate=False) if module is chosen]
    if len(places) > 1:
        raise ValueError(f"the dropout {layer!r} must stand in one place, got {places}: each would multiply the copies")
    after = list(leaves)[list(leaves).index(layer) + 1 :]
    normed = [name for name in after if isinstance(leaves[name], _BatchNorm)]
    if normed:
        raise ValueError(f"no BatchNorm may come after the dropout {layer!r}, got {normed[0]!r}")

    def rule(name: str, module: nn.Module) -> nn.Module | None:
        if module is not chosen:
            return None
        if isinstance(module, MultiSampleDropout):
            same = module.num_samples == num_samples
            return None if same else MultiSampleDropout(module.dropout, num_samples)
        return MultiSampleDropout(module, num_samples)

    return replace(model, rule).model


def _first_dropout_of_tail(leaves: Iterable[tuple[str, nn.Module]]) -> str:
    first = None
    for name, module in reversed(list(leaves)):
        if isinstance(module, MultiSampleDropout | _DropoutNd):
            first = first if isinstance(module, _DropoutNd) and module.p == 0 else name
        elif not _headlike(module):
            break
    if first is None:
        raise ValueError(
            "model must have a dropout with p > 0 in its tail, got none; name one by layer=, or put one in"
        )
    return first


def _headlike(module: nn.Module) -> bool:
    if isinstance(module, NonDynamicallyQuantizableLinear):  # part of an attention
        return False
    linear = isinstance(module, nn.Linear | nn.Flatten | nn.Identity)
    return linear or type(module).__module__ == "torch.nn.modules.activation"


class RandomFlip(nn.Module):
    """Flips the last axis of each row with probability 1/2 in training: diversity for `MultiSampleDropout`.

    The paper names flips of the feature map as another source of it; the probability is ours.
    """

    def forward(self, z: Shaped[Tensor, "rows *features"]) -> Shaped[Tensor, "rows *features"]:
        if not self.training:
            return z
        flips = torch.rand(len(z), device=z.device) < 0.5
        return torch.where(flips.view(-1, *[1] * (z.ndim - 1)), z.flip(-1), z)


class RandomShift(nn.Module):
    """Shifts the last two axes of each row by up to `reach` in training, zeros moving in: the windows of a pooling that
    follows then lie elsewhere. Diversity for `MultiSampleDropout`.

    The paper names shifted pooling windows and zero padding; that shifts are uniform is ours.

    Args:
        reach: largest shift in either direction, at least 1.
    """

    def __init__(self, reach: int = 1) -> None:
        super().__init__()
        if reach < 1:
            raise ValueError(f"reach must be positive, got {reach}")
        self.reach = reach

    def forward(self, z: Shaped[Tensor, "rows channels height width"]) -> Shaped[Tensor, "rows channels height width"]:
        if not self.training:
            return z
        rows, _, height, width = z.shape
        padded = F.pad(z, [self.reach] * 4)
        top, left = torch.randint(2 * self.reach + 1, (2, rows, 1), device=z.device)
        row, column = top + torch.arange(height, device=z.device), left + torch.arange(width, device=z.device)
        each = torch.arange(rows, device=z.device)[:, None, None]
        return padded.movedim(1, -1)[each, row[:, :, None], column[:, None, :]].movedim(-1, 1)


def _stacked(t: Tensor, samples: int) -> Tensor:
    """`samples` copies of `t`, one after another along the first axis."""
    return t.expand(samples, *t.shape).reshape(samples * len(t), *t.shape[1:])


def _length(name: str, tree: Any) -> int:
    for leaf in tree_leaves(tree):
        if isinstance(leaf, Tensor) and leaf.ndim:
            return len(leaf)
    raise ValueError(f"{name} must hold a tensor with a batch axis, got {type(tree).__name__}")


def _check_samples(num_samples: int) -> None:
    if num_samples < 1 or num_samples != int(num_samples):
        raise ValueError(f"num_samples must be a positive whole number, got {num_samples}")
