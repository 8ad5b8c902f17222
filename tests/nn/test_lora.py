"""LoRA's layer against the product of its matrices, and its surgery."""

import copy

import pytest
import torch
from torch import nn

from assay.models.transformer import Transformer
from assay.nn.lora import LoRALinear, to_lora


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).double()


def test_a_layer_is_the_sum_of_its_weight_and_the_scaled_product():
    torch.manual_seed(1)
    plain = nn.Linear(6, 4).double()
    layer = LoRALinear(plain, 2, alpha=6.0).double()
    nn.init.normal_(layer.up)
    x = torch.randn(5, 3, 6, dtype=torch.float64)
    want = x @ (plain.weight + 3.0 * layer.up @ layer.down).T + plain.bias
    torch.testing.assert_close(layer(x), want)


def test_nothing_changes_at_the_start_and_the_weights_never_do():
    model, x = network(), torch.randn(5, 6, dtype=torch.float64)
    before, weights = model(x), [layer.weight.detach().clone() for layer in model if isinstance(layer, nn.Linear)]
    to_lora(model, 2)
    torch.testing.assert_close(model(x), before, rtol=0, atol=0)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1)
    for _ in range(2):
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()
    assert not torch.allclose(model(x), before)
    for layer, weight in zip((model[0], model[2]), weights, strict=True):
        assert torch.equal(layer.weight, weight)
        assert layer.up.any()
        moved = layer.scale * layer.up @ layer.down
        assert torch.linalg.matrix_rank(moved) <= 2


def test_gradients_are_right():
    layer = LoRALinear(nn.Linear(3, 2).double(), 2).double()
    nn.init.normal_(layer.up)
    x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, (x,))


def test_trained_numbers_are_rank_times_both_sides():
    model = Transformer(width=16, depth=1, heads=2, context=8)
    frozen = sum(layer.weight.numel() for layer in model.blocks.modules() if isinstance(layer, nn.Linear))
    sides = sum(sum(layer.weight.shape) for layer in model.blocks.modules() if isinstance(layer, nn.Linear))
    before = sum(p.numel() for p in model.parameters())
    to_lora(model, 4, exclude="readout")
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == before - frozen + 4 * sides


def test_undo_state_dict_and_autocast():
    model, x = network(), torch.randn(5, 6, dtype=torch.float64)
    surgery = to_lora(model, 2)
    nn.init.normal_(model[0].up)
    other = network()
    to_lora(other, 2)
    other.load_state_dict(copy.deepcopy(model.state_dict()))
    torch.testing.assert_close(other(x), model(x), rtol=0, atol=0)
    with torch.autocast("cpu", torch.bfloat16):
        assert model.float()(x.float()).dtype == torch.bfloat16
    surgery.undo()
    assert [type(layer) for layer in model] == [nn.Linear, nn.ReLU, nn.Linear]


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"rank": 0}, "rank must be at least 1, got 0"), ({"alpha": 0.0}, "alpha must be positive, got 0.0")],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        to_lora(network(), **settings)
