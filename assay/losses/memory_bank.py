"""A memory bank: the last embedding of every training example, as the keys that a contrastive loss compares with.

    v_p <- normalise(m v_p + (1 - m) normalise(x))

Source: Wu et al., "Unsupervised feature learning via non-parametric instance discrimination" (2018), section 3.3; as
used by Wang, Liu, "Understanding the behaviour of contrastive loss" (2021).
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from assay.losses.contrast import Contrast


class MemoryBank(nn.Module):
    """Unit vectors v, one an example; they begin as random directions and are part of the state dict.

    Args:
        num_points: training examples.
        dim: of an embedding.
        momentum: m in [0, 1), the share of the old vector that an update keeps.
        generator: of the first vectors; torch's default one otherwise.

    Raises:
        ValueError: a number is out of its range.

    Source: Wu et al. 2018, section 3.3. The authors' code of Wang and Liu leaves the first vectors at the length they
    are drawn with, which is about 1 too.
    """

    points: Tensor

    def __init__(
        self, num_points: int, dim: int = 128, *, momentum: float = 0.5, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        if num_points < 2 or dim < 1:
            raise ValueError(f"a bank must have at least two points and one dimension, got {num_points} and {dim}")
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must lie in [0, 1), got {momentum}")
        self.momentum = momentum
        self.register_buffer("points", F.normalize(torch.rand(num_points, dim, generator=generator) * 2 - 1))

    def contrast(self, x: Float[Tensor, "batch dim"], index: Int64[Tensor, " batch"]) -> Contrast:
        """Embeddings against the whole bank: each one's positive is its own vector, all others are negatives.

        Args:
            x: embeddings, of any length; gradients flow through them alone.
            index: which example each is of.

        Raises:
            ValueError: shapes that do not fit the bank.
        """
        self._check(x, index)
        anchors = F.normalize(x.to(self.points.dtype))
        # a copy, as `update` may come before backward
        keys = self.points.clone()
        return Contrast(anchors, keys.index_select(0, index), keys, positive=index)

    @torch.no_grad()
    def update(self, x: Float[Tensor, "batch dim"], index: Int64[Tensor, " batch"]) -> None:
        """Move the vectors of these examples; of an example that comes twice, any one of the two counts.

        Arguments and errors as of `contrast`. Each process of a parallel run moves its own bank alone.
        """
        self._check(x, index)
        old = self.points.index_select(0, index)
        new = self.momentum * old + (1 - self.momentum) * F.normalize(x.to(old.dtype))
        self.points.index_copy_(0, index, F.normalize(new))

    def extra_repr(self) -> str:
        return f"{len(self.points)}, {self.points.shape[1]}, momentum={self.momentum}"

    def _check(self, x: Tensor, index: Tensor) -> None:
        if x.ndim != 2 or x.shape[1] != self.points.shape[1]:
            raise ValueError(f"x must have shape [batch, {self.points.shape[1]}], got {list(x.shape)}")
        if index.shape != x.shape[:1] or index.dtype != torch.int64:
            raise ValueError(f"index must be int64 [{len(x)}], got {index.dtype} {list(index.shape)}")
