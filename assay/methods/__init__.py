"""Methods of a run, one a file; cosine and label smoothing are no paper's here and show how one is written."""

from assay.methods.cosine import Cosine
from assay.methods.label_smoothing import LabelSmoothing

__all__ = ["Cosine", "LabelSmoothing"]
