import pytest
import torch
from torch import nn

from assay.data.adversarial import PGD
from assay.metrics.robust_accuracy import margin, robust


def line(scale=1.0):
    """Two classes, parted at x_0 = 0.5."""
    model = nn.Linear(3, 2).double()
    with torch.no_grad():
        model.weight.copy_(scale * torch.tensor([[-1.0, 0, 0], [1.0, 0, 0]]))
        model.bias.copy_(scale * torch.tensor([0.5, -0.5]))
    return model


@pytest.mark.parametrize("scale", [1.0, 1e4])  # at 1e4 the cross-entropy of a right answer is flat
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_robust_is_what_is_farther_than_epsilon_from_the_boundary(scale, norm):
    x = torch.rand(200, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = (x[:, 0] > 0.5).long()
    y[:20] = 1 - y[:20]  # wrong from the start
    distance = (x[:, 0] - 0.5).abs()
    x, y, distance = (t[(distance - 0.1).abs() > 0.005] for t in (x, y, distance))
    wrong = (x[:, 0] > 0.5).long() != y
    found = robust(line(scale), x, y, PGD(0.1, 20, norm=norm), torch.Generator().manual_seed(0))
    assert torch.equal(found, (distance > 0.1) & ~wrong)


def test_margin_is_positive_where_the_prediction_is_wrong():
    logits = torch.tensor([[1.0, 3.0, 2.0], [1.0, 3.0, 2.0]])
    assert margin(logits, torch.tensor([1, 2])).tolist() == [-1.0, 1.0]
