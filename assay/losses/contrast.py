"""Anchors, their positives and what they are compared with, and the two views of a batch as such."""

from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from assay.losses.reduction import check_reduction, reduced


class Contrast(NamedTuple):
    """Anchors, each with a positive, and keys that are compared with all of them. Rows have length 1.

    Attributes:
        anchors: a.
        positives: the positive of each anchor.
        keys: k, the candidates for negatives of every anchor.
        positive: the column of each anchor's positive among the keys; `None` where it is not among them (a queue).
        own: the column of each anchor itself; `None` where it is not among them (a memory bank).
    """

    anchors: Float[Tensor, "anchors dim"]
    positives: Float[Tensor, "anchors dim"]
    keys: Float[Tensor, "keys dim"]
    positive: Int64[Tensor, " anchors"] | None = None
    own: Int64[Tensor, " anchors"] | None = None

    @property
    def negatives(self) -> int:
        """How many keys are negatives of an anchor."""
        return len(self.keys) - (self.positive is not None) - (self.own is not None)


def two_views(
    z1: Float[Tensor, "batch dim"], z2: Float[Tensor, "batch dim"], *, normalize: bool = True, gather: bool = False
) -> Contrast:
    """Every embedding of a batch of pairs as an anchor, with its other view as its positive and all other images' as
    negatives.

    Args:
        z1: embeddings of one view of each image; any floating type, computed in float32 at least.
        z2: of the other view, row by row of the same images.
        normalize: give rows length 1; without it they must have it.
        gather: compare with the embeddings of all processes of torch's default group too, which must give equally many.
            Gradients flow to all of them: a process's loss is then its share of the joined batch's, and their mean over
            processes, as DistributedDataParallel takes it, is that of one process with the joined batch. Where no group
            was made there is nothing to gather.

    Returns:
        anchors in the order of `z1`, then of `z2`; so are the positives of each, in the other view.

    Raises:
        ValueError: shapes that are no two equal batches, or a single image in all, which has no negatives.

    Source: Chen et al., "A simple framework for contrastive learning of visual representations" (2020), section 2.1.
    """
    if z1.ndim != 2 or z1.shape != z2.shape:
        raise ValueError(f"z1 and z2 must have one shape [batch, dim], got {list(z1.shape)} and {list(z2.shape)}")
    batch = len(z1)
    processes = dist.get_world_size() if gather and dist.is_available() and dist.is_initialized() else 1
    if batch * processes < 2:
        raise ValueError(f"z1 and z2 must hold at least two images, or there are no negatives, got {batch}")
    z = torch.cat([z1, z2])
    z = z.to(torch.promote_types(z.dtype, torch.float32))
    if normalize:
        z = F.normalize(z)
    own = torch.arange(2 * batch, device=z.device)
    keys, first = z, 0
    if processes > 1:
        from torch.distributed.nn.functional import all_gather

        gathered = all_gather(z)  # type: ignore[no-untyped-call]
        keys, first = torch.cat(gathered), 2 * batch * dist.get_rank()
    return Contrast(z, z.roll(batch, 0), keys, own.roll(batch) + first, own + first)


def positive_similarity(contrast: Contrast) -> Float[Tensor, " anchors"]:
    """s_i+ = a_i . p_i, the similarity of each anchor to its positive."""
    return (contrast.anchors * contrast.positives).sum(1)


def per_picture(each: Float[Tensor, " anchors"], reduction: str = "none") -> Tensor:
    """The losses of the anchors of both views as one a picture, the mean of its two; their `mean` or `sum` if asked.

    Raises:
        ValueError: `reduction` is neither `mean`, `sum` nor `none`.
    """
    return reduced(each.view(2, -1).mean(0), reduction)


class TwoViewLoss(nn.Module):
    """Base of the losses of a batch of pairs; a subclass gives `each`, the value of every anchor.

    Args:
        normalize: give rows length 1; without it they must have it.
        gather: take negatives from all processes, see `two_views`.
        chunk_size: anchors whose similarities are in memory at a time, for batches whose matrix is too large.
        reduction: `mean` over the anchors of both views, `sum`, or `none`: those of `z1`, then those of `z2`.

    Raises:
        ValueError: `reduction` is none of these, or `chunk_size` is not positive.
    """

    def __init__(
        self, *, normalize: bool = True, gather: bool = False, chunk_size: int | None = None, reduction: str = "mean"
    ) -> None:
        super().__init__()
        check_reduction(reduction)
        if chunk_size is not None and chunk_size < 1:
            raise ValueError(f"chunk_size must be positive, got {chunk_size}")
        self.normalize, self.gather, self.chunk_size, self.reduction = normalize, gather, chunk_size, reduction

    def each(self, contrast: Contrast) -> Float[Tensor, " anchors"]:
        """The loss of every anchor."""
        raise NotImplementedError

    def forward(self, z1: Float[Tensor, "batch dim"], z2: Float[Tensor, "batch dim"]) -> Tensor:
        each = self.each(two_views(z1, z2, normalize=self.normalize, gather=self.gather))
        return reduced(each, self.reduction)
