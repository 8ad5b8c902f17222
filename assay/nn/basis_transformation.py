"""Orthonormal changes of basis that are learnt, and the head of BT^2 that is made of them.

Features v in R^{d + d_old} of a backbone become an embedding of n_add more dimensions than the d of a new model, whose
first d_old coordinates live in the space of an old model while all of them keep the inner products of the new one:

    o   = normalise(W_o relu(v) + b_o)              in R^{d_old}
    f   = normalise(v[:d])                          in R^d, of which the logits are linear
    r   = (normalise(o[:n_add]), P C f)             P in O(d)
    e   = (Q r[:d_old], r[d_old:])                  Q in O(d_old), the embedding; |e|^2 = 1 + C^2

so that <e, e'> = <o_add, o_add'> + C^2 <f, f'>.

Source: Zhou et al., "BT^2: Backward-compatible training with basis transformation" (ICCV 2023). They name bases B_1 to
B_n; this is the form of their code, with two.
"""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import linear, normalize
from torch.nn.utils.parametrizations import orthogonal

OrthogonalMap = Literal["matrix_exp", "cayley", "householder"]


class BasisTransformation(nn.Module):
    """y = x W^T with W orthonormal, now and after every step of an optimizer.

    Computed in float32 at least whatever autocast says, as W would not be orthonormal in fewer bits.

    Args:
        dim: of the space, positive.
        orthogonal_map: how W is parametrised, see `torch.nn.utils.parametrizations.orthogonal`. Making W costs
            O(dim^3) each time; `torch.nn.utils.parametrize.cached` makes it once for several passes.

    Raises:
        ValueError: `dim` is not positive.
    """

    def __init__(self, dim: int, *, orthogonal_map: OrthogonalMap = "matrix_exp") -> None:
        super().__init__()
        if dim < 1:
            raise ValueError(f"dim must be positive, got {dim}")
        self.basis = nn.Linear(dim, dim, bias=False)
        nn.init.orthogonal_(self.basis.weight)
        orthogonal(self.basis, orthogonal_map=orthogonal_map)

    @property
    def weight(self) -> Float[Tensor, "dim dim"]:
        """W; assigning an orthonormal matrix makes it start from there."""
        return self.basis.weight

    @weight.setter
    def weight(self, value: Float[Tensor, "dim dim"]) -> None:
        self.basis.weight = value

    def forward(self, x: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        with torch.autocast(x.device.type, enabled=False):
            weight = self.basis.weight
            return linear(x.to(torch.promote_types(x.dtype, weight.dtype)), weight)


class BT2Output(NamedTuple):
    """What the head makes of a batch.

    Attributes:
        logits: [batch, classes], of `feature`.
        compatible: [batch, d_old], the part for the old space; its norm varies.
        feature: [batch, d], unit norm, the part that follows an independent new model.
        embedding: [batch, d + n_add], what is stored and asked for; it begins with `compatible`.
    """

    logits: Float[Tensor, "batch classes"]
    compatible: Float[Tensor, "batch old"]
    feature: Float[Tensor, "batch new"]
    embedding: Float[Tensor, "batch embedding"]


class BT2Head(nn.Module):
    """From a backbone's features to logits and a backward-compatible embedding.

    Args:
        old_dim: d_old, of the old model's embeddings.
        new_dim: d, of the independent new model's.
        classes: logits.
        added_dim: n_add, dimensions beside those; at most `old_dim`. 0 adds no information, for ablations.
        scale: C, what the new part weighs beside the added one; positive.
        orthogonal_map: as `BasisTransformation` takes it.

    Shape:
        features: [batch, new_dim + old_dim], not normalised.

    Raises:
        ValueError: a size is out of range, or the embedding would be smaller than `old_dim`.
    """

    def __init__(
        self,
        old_dim: int,
        new_dim: int,
        classes: int,
        *,
        added_dim: int = 32,
        scale: float = 2.0,
        orthogonal_map: OrthogonalMap = "matrix_exp",
    ) -> None:
        super().__init__()
        if min(old_dim, new_dim, classes) < 1:
            raise ValueError(f"old_dim, new_dim and classes must be positive, got {old_dim}, {new_dim} and {classes}")
        if not 0 <= added_dim <= old_dim:
            raise ValueError(f"added_dim must lie in 0..{old_dim}, the old model's dimensions, got {added_dim}")
        if new_dim + added_dim < old_dim:
            raise ValueError(
                f"new_dim + added_dim must be at least old_dim, {old_dim}, got {new_dim} + {added_dim}: the embedding "
                "must hold a part as large as the old one"
            )
        if not scale > 0:
            raise ValueError(f"scale must be positive, got {scale}")
        self.old_dim, self.new_dim, self.added_dim, self.scale = old_dim, new_dim, added_dim, scale
        self.old = nn.Linear(new_dim + old_dim, old_dim)
        self.new_basis = BasisTransformation(new_dim, orthogonal_map=orthogonal_map)
        self.old_basis = BasisTransformation(old_dim, orthogonal_map=orthogonal_map)
        self.readout = nn.Linear(new_dim, classes, bias=False)

    def forward(self, features: Float[Tensor, "batch features"]) -> BT2Output:
        # their code takes a unit vector first and the added part's own norm then; the first changes nothing
        added = normalize(_wide(self.old(features.relu())[:, : self.added_dim]), dim=1)
        feature = normalize(_wide(features[:, : self.new_dim]), dim=1)
        r = torch.cat([added, self.new_basis(self.scale * feature)], 1)
        compatible = self.old_basis(r[:, : self.old_dim])
        embedding = torch.cat([compatible, r[:, self.old_dim :]], 1)
        return BT2Output(self.readout(feature), compatible, feature, embedding)


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
