"""Optimizers, gradient procedures, batch-size and learning-rate rules."""

from assay.optim.adagrad_norm import AdaGradNorm
from assay.optim.adaptive_batch import AdaptiveBatchSize
from assay.optim.agvm import AGVM, gradient_variance, module_param_groups
from assay.optim.frugal import FRUGAL, frugal_groups
from assay.optim.gradient_moments import GradientMoments, per_sample_gradients
from assay.optim.lamb import LAMB
from assay.optim.lamb_schedule import untuned_lamb, warmup_polynomial
from assay.optim.lars import LARS
from assay.optim.roles import Role, decay_groups, parameter_roles, role_groups
from assay.optim.state_bytes import state_bytes

__all__ = [
    "AGVM",
    "FRUGAL",
    "LAMB",
    "LARS",
    "AdaGradNorm",
    "AdaptiveBatchSize",
    "GradientMoments",
    "Role",
    "decay_groups",
    "frugal_groups",
    "gradient_variance",
    "module_param_groups",
    "parameter_roles",
    "per_sample_gradients",
    "role_groups",
    "state_bytes",
    "untuned_lamb",
    "warmup_polynomial",
]
