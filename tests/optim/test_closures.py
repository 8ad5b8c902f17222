import pytest
import torch
from torch import nn

from assay.optim import FRUGAL, LAMB, LARS, AdaGradNorm


@pytest.mark.parametrize("make", [LAMB, LARS, AdaGradNorm, FRUGAL])
def test_a_closure_is_run_with_gradients_and_its_value_returned(make):
    x = nn.Parameter(torch.tensor([[3.0, 4.0]]))
    optimizer = make([x], lr=0.1)

    def closure():
        optimizer.zero_grad()
        loss = (x**2).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure) == 25.0
    assert (x**2).sum() < 25.0
