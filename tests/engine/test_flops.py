import pytest
import torch
from torch import nn

from assay.engine.flops import flop_counter


def counted(act):
    with flop_counter() as counter:
        act()
    return counter.get_total_flops()


@pytest.mark.parametrize("settings", [{}, {"num_layers": 2, "bidirectional": True}, {"bias": False}])
def test_an_lstm_costs_its_products_once_forward_and_twice_backward(settings):
    layer, x = nn.LSTM(3, 4, **settings), torch.randn(5, 2, 3, requires_grad=True)
    entries = sum(p.numel() for p in layer.parameters() if p.ndim == 2)
    y = []
    assert counted(lambda: y.append(layer(x)[0])) == 2 * 5 * 2 * entries
    assert counted(lambda: y[0].sum().backward()) == 2 * 2 * 5 * 2 * entries


def test_an_lstm_in_one_call_costs_what_its_cells_cost_one_by_one():
    layer, cell = nn.LSTM(3, 4), nn.LSTMCell(3, 4)
    x = torch.randn(5, 2, 3)

    def loop():
        state = None
        for x_t in x:
            state = cell(x_t, state)

    with torch.no_grad():
        assert counted(lambda: layer(x)) == counted(loop)


def test_cudnns_layers_are_counted_alike():
    x, hidden = torch.empty(5, 2, 3, device="meta"), torch.empty(1, 2, 4, device="meta")
    weights = [torch.empty(shape, device="meta") for shape in ((16, 3), (16, 4), (16,), (16,))]
    found = counted(
        lambda: torch.ops.aten._cudnn_rnn(
            x, weights, 4, None, hidden, hidden, 2, 4, 0, 1, False, 0.0, True, False, [], None
        )
    )
    assert found == 2 * 5 * 2 * (16 * 3 + 16 * 4)


@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("make", [nn.Conv2d, nn.ConvTranspose2d])
def test_a_convolution_costs_twice_as_much_backward_in_groups_or_not(make, groups):
    layer, x = make(6, 12, 3, groups=groups), torch.randn(4, 6, 9, 9, requires_grad=True)
    y = []
    forward = counted(lambda: y.append(layer(x)))
    places = 49 if make is nn.Conv2d else 81
    assert forward == 2 * 4 * places * layer.weight.numel()
    assert counted(lambda: y[0].sum().backward()) == 2 * forward
    layer.weight.requires_grad_(False)
    assert counted(lambda: layer(x).sum().backward()) == 2 * forward


def test_gradients_of_single_samples_cost_what_those_of_the_batch_do():
    from assay.optim import per_sample_gradients

    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten(), nn.Linear(16, 5))
    x, y = torch.randn(7, 3, 6, 6), torch.arange(7) % 5
    batch = counted(lambda: nn.functional.cross_entropy(model(x), y).backward())
    assert counted(lambda: per_sample_gradients(model, nn.functional.cross_entropy, x, y)) == batch
