"""Cross-entropy with its gradient divided by the mean probability of being wrong.

    m_i = f_y - log sum_{k != y} exp f_k,    l_i = log(1 + exp(-m_i)) = -log p_y,    s(-m_i) = 1 - p_y
    gradient = - sum_i w_i dm_i,             w_i = s(-m_i) / sum_j s(-m_j)

The value stays the cross-entropy. With a linear score of two classes and plain gradient descent this is the normalised
logistic rule of `assay.optim.separation`; the theory is of that case alone.

Source: Tyurin, "From Logistic Regression to the Perceptron Algorithm" (2024); the normaliser is a reconstruction.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import one_hot, softplus

from assay.losses.reduction import check_reduction, reduced


def normalized_logistic_loss(
    logits: Float[Tensor, "batch classes"], target: Tensor, *, reduction: str = "mean"
) -> Float[Tensor, "*batch"]:
    """The cross-entropy, whose gradient is that of the mean over the batch divided by the batch's mean of 1 - p_y.

    The gradient does not fade as the samples get right, so a fixed step keeps its length; half precision is computed
    in float32.

    Args:
        logits: f, at least two classes.
        target: y, int64 [batch].
        reduction: `mean`, `sum` or `none`; the gradient of the sum is as many times larger.

    Raises:
        ValueError: shapes do not fit, targets are not classes, or the reduction is unknown.
    """
    check_reduction(reduction)
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise ValueError(f"logits must be [batch, classes] with at least two classes, got {list(logits.shape)}")
    if target.shape != logits.shape[:1] or target.dtype != torch.int64:
        raise ValueError(
            f"target must hold a class a sample, int64 [{len(logits)}], got {target.dtype} {list(target.shape)}"
        )
    f = logits.to(torch.promote_types(logits.dtype, torch.float32))
    own = one_hot(target, f.shape[1]).bool()
    m = f.gather(1, target[:, None])[:, 0] - f.masked_fill(own, -torch.inf).logsumexp(1)
    w = torch.softmax(-softplus(m.detach()), 0)  # log space: both s(-m) and their sum may underflow
    return reduced(softplus(-m.detach()) - len(m) * w * (m - m.detach()), reduction)
