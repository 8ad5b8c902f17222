"""Workloads: data, model, objective and metrics."""

from assay.tasks.loading import available, load

__all__ = ["available", "load"]
