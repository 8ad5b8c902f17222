"""Two small methods that show how one is written, and that a trial can be tried out with."""

from assay.methods.cosine import Cosine
from assay.methods.label_smoothing import LabelSmoothing

__all__ = ["Cosine", "LabelSmoothing"]
