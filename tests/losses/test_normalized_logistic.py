"""The value is the cross-entropy; the gradient is its gradient over the mean probability of being wrong."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from assay.losses.normalized_logistic import normalized_logistic_loss
from assay.optim.separation import normalized_logistic_gradient, separate


def drawn(batch=7, classes=4, seed=0):
    draw = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(batch, classes, generator=draw, dtype=torch.float64)
    return logits.requires_grad_(), torch.randint(classes, (batch,), generator=draw)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("classes", [2, 4])
def test_the_value_is_the_cross_entropy(reduction, classes):
    logits, y = drawn(classes=classes)
    found = normalized_logistic_loss(logits, y, reduction=reduction)
    torch.testing.assert_close(found, F.cross_entropy(logits, y, reduction=reduction))


@pytest.mark.parametrize("classes", [2, 4])
def test_the_gradient_is_that_of_the_cross_entropy_over_the_mean_of_one_minus_p(classes):
    logits, y = drawn(classes=classes)
    (found,) = torch.autograd.grad(normalized_logistic_loss(logits, y), logits)
    (plain,) = torch.autograd.grad(F.cross_entropy(logits, y), logits)
    wrong = 1 - logits.softmax(1).gather(1, y[:, None]).mean()
    torch.testing.assert_close(found, plain / wrong.detach())
    for reduction, times in (("sum", 7), ("none", 7)):
        (other,) = torch.autograd.grad(normalized_logistic_loss(logits, y, reduction=reduction).sum(), logits)
        torch.testing.assert_close(other, times * found)


def test_gradient_descent_on_it_is_the_normalised_rule():
    draw = torch.Generator().manual_seed(1)
    x, y = torch.rand(20, 3, generator=draw, dtype=torch.float64), torch.arange(20) % 2
    theta = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([theta], lr=5.0)
    for _ in range(9):
        z = x @ theta
        optimizer.zero_grad()
        normalized_logistic_loss(torch.stack([torch.zeros_like(z), z], 1), y).backward()
        np.testing.assert_allclose(theta.grad, normalized_logistic_gradient(theta.detach(), x, y), rtol=1e-10)
        optimizer.step()
    np.testing.assert_allclose(theta.detach(), separate(x, y, lr=5.0, max_iter=9).theta[0], rtol=1e-9)


@pytest.mark.parametrize("scale", [1e4, -1e4])
def test_logits_of_ten_thousand_leave_the_gradient_finite_and_of_full_length(scale):
    logits = torch.tensor([[0.0, scale, -3e4], [0.0, scale, -2e4]], requires_grad=True)
    normalized_logistic_loss(logits, torch.tensor([1, 1])).backward()
    torch.testing.assert_close(logits.grad, torch.tensor([[0.5, -0.5, 0.0]] * 2))


def test_half_precision_is_computed_in_float32():
    logits, y = drawn()
    half = logits.detach().bfloat16().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = normalized_logistic_loss(half, y)
    torch.testing.assert_close(found, F.cross_entropy(half.float(), y))
    found.backward()
    assert half.grad.dtype == torch.bfloat16


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")
def test_a_gpu_finds_the_same():
    logits, y = drawn()
    torch.testing.assert_close(
        normalized_logistic_loss(logits.cuda(), y.cuda()).cpu(), normalized_logistic_loss(logits, y)
    )


@pytest.mark.parametrize(
    ("logits", "target", "message"),
    [
        (torch.zeros(3, 1), torch.zeros(3, dtype=torch.int64), r"at least two classes, got \[3, 1\]"),
        (torch.zeros(3, 2), torch.zeros(2, dtype=torch.int64), r"int64 \[3\], got torch.int64 \[2\]"),
        (torch.zeros(3, 2), torch.zeros(3, 2), r"int64 \[3\], got torch.float32 \[3, 2\]"),
    ],
)
def test_bad_input_is_told_what_it_was(logits, target, message):
    with pytest.raises(ValueError, match=message):
        normalized_logistic_loss(logits, target)


def test_an_unknown_reduction_is_refused():
    with pytest.raises(ValueError, match="reduction must be one of mean, sum, none, got 'max'"):
        normalized_logistic_loss(*drawn(), reduction="max")
