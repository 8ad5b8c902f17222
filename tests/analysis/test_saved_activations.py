import copy

import pytest
import torch
from torch import nn

from assay.analysis.saved_activations import SavedActivations, like_cuda


def counted(model, *x):
    with SavedActivations(model) as saved:
        y = model(*x)
    del y
    return saved.bytes


def test_a_linear_layer_keeps_its_input_and_not_its_weight():
    assert counted(nn.Linear(6, 50), torch.randn(4, 6, requires_grad=True)) == 4 * 6 * 4


def test_what_two_layers_keep_counts_once():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(6, 5), nn.Linear(6, 5)

        def forward(self, x):
            return self.a(x) + self.b(x)

    assert counted(Two(), torch.randn(4, 6)) == 4 * 6 * 4


def test_a_view_counts_as_the_memory_that_it_keeps_alive():
    x = torch.randn(4, 12, requires_grad=True)
    assert counted(nn.Linear(6, 5), x[:, :6]) == 4 * 12 * 4


def test_nothing_is_kept_without_gradients():
    model = nn.Linear(6, 5)
    with torch.no_grad():
        assert counted(model, torch.randn(4, 6)) == 0


@pytest.mark.parametrize("eps", [None, 1e-3])
def test_layers_like_cudas_compute_what_torchs_do_and_keep_less(eps):
    plain = nn.Sequential(nn.RMSNorm(16, eps=eps), nn.Dropout(0.25))
    nn.init.uniform_(plain[0].weight)
    light = like_cuda(copy.deepcopy(plain))
    x, found = torch.randn(6, 3, 16, requires_grad=True), []
    for model in (plain, light):
        torch.manual_seed(0)
        y = model(x)
        found.append((y, *torch.autograd.grad(y, (x, *model.parameters()), torch.ones_like(y).cumsum(0))))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b)
    number, byte = 6 * 3 * 16 * 4, 6 * 3 * 16
    assert counted(light, x) == number + 6 * 3 * 4 + byte
    assert counted(plain, x) > counted(light, x)
