import numpy as np
import pytest
import torch
from torch import nn

from assay.analysis.relu_activity import relu_frequencies
from assay.models.resnet import cifar_resnet


def test_frequencies_are_the_shares_counted_one_by_one():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 5), nn.ReLU(inplace=True), nn.Linear(5, 4), nn.ReLU()).double()
    with torch.no_grad():
        model[0].bias[2] = -100
    x = torch.randn(20, 3, dtype=torch.float64)
    first, second = relu_frequencies(model, x.split(7))
    weights = [(m.weight.detach().numpy(), m.bias.detach().numpy()) for m in (model[0], model[2])]
    on = [np.zeros(5), np.zeros(4)]
    for row in x.numpy():
        for count, (weight, bias) in zip(on, weights, strict=True):
            row = np.maximum(weight @ row + bias, 0)
            count += row > 0
    np.testing.assert_allclose(first, on[0] / 20)
    np.testing.assert_allclose(second, on[1] / 20)
    assert first[2] == 0


def test_relus_called_as_functions_are_seen_in_the_order_of_the_forward_pass():
    model = cifar_resnet(8, width=4)
    found = relu_frequencies(model, [torch.randn(6, 3, 8, 8)])
    assert [tuple(f.shape) for f in found] == [(4, 8, 8)] * 3 + [(8, 4, 4)] * 2 + [(16, 2, 2)] * 2
    assert all(((f * 6).round() - f * 6).abs().max() < 1e-12 for f in found)
    assert all((f >= 0).all() and (f <= 1).all() for f in found)


def test_a_channel_without_scale_and_with_a_negative_shift_is_always_off():
    model = cifar_resnet(8, width=4)
    with torch.no_grad():
        model.bn.weight[1], model.bn.bias[1] = 0.0, -0.1
        model.bn.weight[2], model.bn.bias[2] = 0.0, 0.1
    stem = relu_frequencies(model, torch.randn(2, 5, 3, 8, 8))[0]
    assert (stem[1] == 0).all()
    assert (stem[2] == 1).all()


def test_the_model_is_judged_in_eval_mode_and_left_as_it_was():
    model = cifar_resnet(8, width=4)
    model.blocks[0].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    relu_frequencies(model, [torch.randn(4, 3, 8, 8)])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training
    assert not model.blocks[0].training


def test_no_batch_and_batches_of_unequal_shapes_are_refused():
    model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU())
    with pytest.raises(ValueError, match="at least one batch"):
        relu_frequencies(model, [])
    with pytest.raises(ValueError, match=r"equal shapes, got \[\(1, 2, 2\)\] after \[\(1, 3, 3\)\]"):
        relu_frequencies(model, [torch.randn(2, 1, 3, 3), torch.randn(2, 1, 2, 2)])
    assert relu_frequencies(nn.Linear(2, 2), [torch.randn(3, 2)]) == []
