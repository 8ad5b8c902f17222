"""Features that batch norm has switched off: how many, how deep, and what is lost without them.

    a feature is disabled where |gamma| < threshold, 0.01 in the paper

Source: Frankle, Schwab, Morcos, "Training BatchNorm and Only BatchNorm" (ICLR 2021), section 5. Gammas that start as
U[0, 1] are below 0.01 by chance in 1% of cases: compare with the start.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from assay.nn.affine import Norms, scales


class Disabled(NamedTuple):
    """Counts of one layer: features that are disabled, and all."""

    disabled: int
    features: int

    @property
    def share(self) -> float:
        """In [0, 1]."""
        return self.disabled / self.features


def disabled_features(model: nn.Module, threshold: float = 0.01, *, norms: Norms = "batchnorm") -> dict[str, Disabled]:
    """Count the disabled features of every layer.

    Args:
        model: any network.
        threshold: on |gamma|, positive, compared in gamma's own precision.
        norms: `batchnorm`, or `norm` for every kind of normalisation.

    Returns:
        counts by layer, in the order in which the model registers its layers, which for most is that of depth; nothing
        for a model without such layers.

    Raises:
        ValueError: `threshold` is not positive.
    """
    masks = _masks(model, threshold, norms)
    if not masks:
        return {}
    device = next(iter(masks.values())).device
    counts = torch.stack([mask.sum().to(device) for mask in masks.values()]).tolist()  # one wait for the device
    return {name: Disabled(count, mask.numel()) for (name, mask), count in zip(masks.items(), counts, strict=True)}


def disabled_share(counts: dict[str, Disabled]) -> float:
    """Of all features of all layers, in [0, 1]; NaN where there are none."""
    features = sum(count.features for count in counts.values())
    return sum(count.disabled for count in counts.values()) / features if features else float("nan")


@contextmanager
def zeroed_features(model: nn.Module, threshold: float = 0.01, *, norms: Norms = "batchnorm") -> Iterator[nn.Module]:
    """Set the gammas of disabled features to zero, and keep their betas, for as long as the context lasts.

    Args:
        model: changed in place; at exit the zeroed gammas get their values back, whatever came in between.
        threshold: as in `disabled_features`.
        norms: likewise.

    Raises:
        ValueError: `threshold` is not positive.
    """
    masks, gammas = _masks(model, threshold, norms), scales(model, norms)
    before = {name: gamma.detach()[masks[name]] for name, gamma in gammas.items()}
    with torch.no_grad():
        for name, gamma in gammas.items():
            gamma[masks[name]] = 0.0
    try:
        yield model
    finally:
        with torch.no_grad():
            for name, gamma in gammas.items():
                gamma[masks[name]] = before[name]


def _masks(model: nn.Module, threshold: float, norms: Norms) -> dict[str, Tensor]:
    if not threshold > 0:
        raise ValueError(f"threshold must be positive, got {threshold}")
    return {name: gamma.detach().abs() < threshold for name, gamma in scales(model, norms).items()}
