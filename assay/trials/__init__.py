"""Trials: arms x seeds on one task at an equal budget, ending in paired statistics and a verdict."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from assay.trials.executors import PoolExecutor, SerialExecutor
    from assay.trials.job import Job, Progress
    from assay.trials.on_ray import RayExecutor
    from assay.trials.result import Arm, ArmResult, Comparison, TrialResult
    from assay.trials.store import Store
    from assay.trials.trial import compare

__all__ = [
    "Arm",
    "ArmResult",
    "Comparison",
    "Job",
    "PoolExecutor",
    "Progress",
    "RayExecutor",
    "SerialExecutor",
    "Store",
    "TrialResult",
    "compare",
]  # fmt: skip

_HOMES = {
    "Arm": "result", "ArmResult": "result", "Comparison": "result", "Job": "job", "PoolExecutor": "executors",
    "Progress": "job", "RayExecutor": "on_ray", "SerialExecutor": "executors", "Store": "store",
    "TrialResult": "result", "compare": "trial",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"assay.trials.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'assay.trials' has no attribute {name!r}")
