"""Robust accuracy as a figure of a picture task: each picture that is judged is attacked as well.

The attack is projected gradient ascent, 20 steps of an eighth of epsilon from a random start, on the cross-entropy and
then on the margin (`assay.metrics.robust_accuracy`).
"""

from typing import Any, Literal

from assay.data.adversarial import PGD
from assay.engine import Metric
from assay.errors import AssayError
from assay.tasks.classification import Classification

STEPS = 20
Attack = Literal["none", "linf", "l2"]


def expose(task: Classification, attack: Attack, epsilon: float) -> None:
    """Let robust accuracy be the first metric of `task`.

    Args:
        task: of pictures.
        attack: the norm, or `none` to change nothing.
        epsilon: in pixels of [0, 1]; positive.

    Raises:
        AssayError: `epsilon` is not positive, or given without an attack.
    """
    if attack == "none":
        if epsilon:
            raise AssayError(f"epsilon needs attack=linf or attack=l2, got epsilon={epsilon:g} without one")
        return
    if not epsilon > 0:
        raise AssayError(f"attack={attack} needs a positive epsilon, in pixels of [0, 1], got {epsilon:g}")
    mean, std = task.pixels or ((0.0,), (1.0,))
    task.threat = PGD(epsilon, STEPS, norm=attack, mean=mean, std=std)
    task.metrics = (Metric("robust_accuracy", "max", 0.0, "%"), *task.metrics)


def threat_settings(task: Classification) -> dict[str, Any]:
    """What a task adds to its own settings."""
    threat = task.threat
    return {} if threat is None else {"attack": threat.norm, "epsilon": threat.epsilon, "attack_steps": threat.steps}
