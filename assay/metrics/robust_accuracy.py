"""Robust accuracy: the share of samples that no attack of a few moves to another class.

Two objectives are made large in turn: the cross-entropy, and the margin max_{k != y} h_k - h_y, whose gradient does not
vanish where a network is certain, so that large scores alone make nobody robust.

Source: the margin is that of Carlini and Wagner, "Towards evaluating the robustness of neural networks" (2017); that
only what still stands is attacked again follows Croce and Hein, "Reliable evaluation" (2020).
"""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from assay.data.adversarial import PGD


def margin(logits: Float[Tensor, "batch classes"], target: Int64[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    """max_{k != y} h_k - h_y: positive where the prediction is wrong."""
    own = target[:, None]
    return logits.scatter(1, own, -torch.inf).amax(1) - logits.gather(1, own)[:, 0]


def cross_entropy(logits: Float[Tensor, "batch classes"], target: Int64[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    """-log p_y of each sample."""
    return F.cross_entropy(logits, target, reduction="none")


def robust(
    model: Callable[[Tensor], Tensor],
    x: Float[Tensor, "batch ..."],
    y: Int64[Tensor, " batch"],
    attack: PGD,
    generator: torch.Generator | None = None,
) -> Bool[Tensor, " batch"]:
    """Which samples are classified rightly, also after `attack` on the cross-entropy and then on the margin.

    Args:
        model: from inputs to logits [batch, classes], at least two.
        x: inputs, normalised as the attack expects them.
        y: classes.
        attack: run once for each objective, each with its restarts.
        generator: of its starts.

    Returns:
        [batch], True where no attack succeeded; their mean is the robust accuracy.
    """
    with attack.in_mode(model), torch.no_grad():
        standing = model(x).argmax(1) == y
        for objective in (cross_entropy, margin):
            left = standing.nonzero()[:, 0]
            if not len(left):
                break
            moved = attack(model, x[left], partial(objective, target=y[left]), generator)
            standing[left] = model(moved).argmax(1) == y[left]
    return standing
