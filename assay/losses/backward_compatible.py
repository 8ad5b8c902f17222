"""Losses that keep an embedding comparable with that of an old model.

M has a row a class, the mean of the old model's features of it: a classifier in the old space, with no training. With
the outputs of `assay.nn.basis_transformation.BT2Head` (`compatible` normalised to u, `feature` f)

    L = CE(logits, y) + l_influence CE(u M^T, y) + l_old (1 - mean <phi_old, u>) + l_new (1 - mean <phi_new, f>)

phi_old and phi_new being the features of the old model and of an independent new one, both frozen. Backward-compatible
training (BCT), the baseline, has the first two terms, the second with the embedding as it is.

Sources: Zhou et al., "BT^2: Backward-compatible training with basis transformation" (ICCV 2023); BCT: Shen et al.,
"Towards backward-compatible representation learning" (CVPR 2020).
"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from assay.nn.basis_transformation import BT2Output


def pseudo_classifier(
    features: Float[Tensor, "samples old"], labels: Int64[Tensor, " samples"], classes: int
) -> Float[Tensor, "classes old"]:
    """M: the mean feature of each class, classes that the old model never saw included; not normalised.

    Raises:
        ValueError: a class has no sample, or a label lies outside 0..classes - 1.
    """
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise ValueError(f"labels must lie in 0..{classes - 1}, got {int(labels.min())} to {int(labels.max())}")
    counts = torch.bincount(labels, minlength=classes)
    if not bool(counts.all()):
        raise ValueError(f"class {int((counts == 0).nonzero()[0])} has no sample, so that it has no mean")
    total = features.new_zeros(classes, features.shape[1]).index_add(0, labels, features)
    return total / counts[:, None]


class BT2Loss(nn.Module):
    """The loss of BT^2.

    Args:
        pseudo_classifier: M, [classes, d_old]; a buffer.
        lambda_new, lambda_influence, lambda_old: l_new, l_influence and l_old, each at least 0.
        logit_scale: what both cross-entropies multiply their logits by. The official code has 1; unit features with few
            classes train slowly without more.

    Shape:
        output: of a `BT2Head`; labels: int64 [batch]; old_features: [batch, d_old] and new_features: [batch, d], of
        unit norm.

    Raises:
        ValueError: a weight is negative, or the scale not positive.
    """

    pseudo_classifier: Tensor

    def __init__(
        self,
        pseudo_classifier: Float[Tensor, "classes old"],
        *,
        lambda_new: int | float = 1.0,
        lambda_influence: int | float = 10.0,
        lambda_old: int | float = 5.0,
        logit_scale: int | float = 1.0,
    ) -> None:
        super().__init__()
        _check_weights(logit_scale, lambda_new=lambda_new, lambda_influence=lambda_influence, lambda_old=lambda_old)
        self.register_buffer("pseudo_classifier", pseudo_classifier.detach())
        self.lambda_new, self.lambda_influence, self.lambda_old = lambda_new, lambda_influence, lambda_old
        self.logit_scale = logit_scale

    def forward(
        self,
        output: BT2Output,
        labels: Int64[Tensor, " batch"],
        old_features: Float[Tensor, "batch old"],
        new_features: Float[Tensor, "batch new"],
    ) -> Float[Tensor, ""]:
        u = normalize(output.compatible, dim=1)
        return (
            cross_entropy(self.logit_scale * output.logits, labels)
            + self.lambda_influence * cross_entropy(self.logit_scale * (u @ self.pseudo_classifier.T), labels)
            + self.lambda_old * (1 - (old_features * u).sum(1).mean())
            + self.lambda_new * (1 - (new_features * output.feature).sum(1).mean())
        )


class BCTLoss(nn.Module):
    """The loss of backward-compatible training, CE(logits, y) + alpha CE(e[:d_old] M^T, y), and if wished BT^2's
    pull of that part to the old features.

    Args:
        pseudo_classifier: M, [classes, d_old]; a buffer.
        alpha: weight of the influence loss, at least 0.
        lambda_old: weight of 1 - mean <phi_old, normalise(e[:d_old])>, at least 0; BCT itself has none.
        logit_scale: as in `BT2Loss`.

    Shape:
        logits: [batch, classes]; embedding: [batch, at least d_old]; labels: int64 [batch]; old_features: [batch,
        d_old], needed where `lambda_old` is not 0.

    Raises:
        ValueError: a weight is negative, the scale not positive, or the embedding smaller than M's rows.
    """

    pseudo_classifier: Tensor

    def __init__(
        self,
        pseudo_classifier: Float[Tensor, "classes old"],
        *,
        alpha: int | float = 10.0,
        lambda_old: int | float = 0.0,
        logit_scale: int | float = 1.0,
    ) -> None:
        super().__init__()
        _check_weights(logit_scale, alpha=alpha, lambda_old=lambda_old)
        self.register_buffer("pseudo_classifier", pseudo_classifier.detach())
        self.alpha, self.lambda_old, self.logit_scale = alpha, lambda_old, logit_scale

    def forward(
        self,
        logits: Float[Tensor, "batch classes"],
        embedding: Float[Tensor, "batch embedding"],
        labels: Int64[Tensor, " batch"],
        old_features: Float[Tensor, "batch old"] | None = None,
    ) -> Float[Tensor, ""]:
        size = self.pseudo_classifier.shape[1]
        if embedding.shape[1] < size:
            raise ValueError(
                f"the embedding must have at least the old one's {size} dimensions, got {embedding.shape[1]}"
            )
        part = embedding[:, :size]
        loss = cross_entropy(self.logit_scale * logits, labels)
        loss = loss + self.alpha * cross_entropy(self.logit_scale * (part @ self.pseudo_classifier.T), labels)
        if not self.lambda_old:
            return loss
        if old_features is None:
            raise ValueError("old_features must be given, as lambda_old is not 0")
        return loss + self.lambda_old * (1 - (old_features * normalize(part, dim=1)).sum(1).mean())


def _check_weights(logit_scale: int | float, **weights: int | float) -> None:
    for name, value in weights.items():
        if not value >= 0:
            raise ValueError(f"{name} must be at least 0, got {value}")
    if not logit_scale > 0:
        raise ValueError(f"logit_scale must be positive, got {logit_scale}")
