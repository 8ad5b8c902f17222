"""The loop: a task, a recipe and a seed make a run, and a run leaves a record."""

from assay.engine.budget import Budget
from assay.engine.method import Method
from assay.engine.recipe import Recipe
from assay.engine.record import Record
from assay.engine.run import Run
from assay.engine.stream import GrowingStream, ShuffledStream, Stream
from assay.engine.task import Batch, Evaluation, Examples, Metric, Splits, Task, TensorExamples

__all__ = [
    "Batch",
    "Budget",
    "Evaluation",
    "Examples",
    "GrowingStream",
    "Method",
    "Metric",
    "Recipe",
    "Record",
    "Run",
    "ShuffledStream",
    "Splits",
    "Stream",
    "Task",
    "TensorExamples",
]  # fmt: skip
