"""assay: does this published training method help my model, on my data, at my budget?

The toolboxes (`assay.losses`, `assay.nn`, `assay.optim`, ...) hold the methods as plain PyTorch objects; the engine
and the trials put them to a controlled test. Nothing is imported before it is used.
"""

from importlib import import_module
from types import ModuleType

__version__ = "0.1.0"

_PACKAGES = (
    "analysis", "claims", "compression", "data", "engine", "errors", "integrations", "losses",
    "methods", "metrics", "models", "nn", "optim", "papers", "tasks", "trials",
)  # fmt: skip


def __getattr__(name: str) -> ModuleType:
    if name in _PACKAGES:
        return import_module(f"assay.{name}")
    raise AttributeError(f"module 'assay' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*_PACKAGES, "__version__"]
