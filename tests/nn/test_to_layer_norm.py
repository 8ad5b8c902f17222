import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from assay.nn.ghost_batch_norm import GhostBatchNorm
from assay.nn.layer_norm import LayerNorm
from assay.nn.layer_norm_rnn import LayerNormGRU, LayerNormLSTM, LayerNormLSTMCell, LayerNormRNN
from assay.nn.to_layer_norm import add_layer_norm, batch_norm_to_layer_norm, to_layer_norm_rnn

KINDS = {nn.RNN: LayerNormRNN, nn.LSTM: LayerNormLSTM, nn.GRU: LayerNormGRU}
SHAPES = [{}, {"num_layers": 2, "bidirectional": True, "batch_first": True, "dropout": 0.3}, {"bias": False}]


class Shift(nn.Module):
    """A norm without its normalisation."""

    def __init__(self, norm):
        super().__init__()
        self.bias = norm.bias

    def forward(self, x):
        return x if self.bias is None else x + self.bias


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("settings", SHAPES)
def test_recurrent_layers_keep_their_shape_matrices_and_the_sum_of_their_biases(kind, settings):
    torch.manual_seed(0)
    plain = kind(3, 4, **settings)
    layer = to_layer_norm_rnn(copy.deepcopy(plain).eval())
    assert type(layer) is KINDS[kind]
    assert not layer.training
    x = torch.randn(5, 2, 3)
    for cell in layer.cells:
        for name, child in cell.named_children():
            assert (child.weight == 1).all()
            setattr(cell, name, Shift(child))
    (y, last), (want, want_last) = layer(x), plain.eval()(x)
    torch.testing.assert_close(y, want)
    torch.testing.assert_close(last, want_last)
    assert (layer.dropout, layer.batch_first) == (plain.dropout, plain.batch_first)


@pytest.mark.parametrize("kind", [nn.RNNCell, nn.LSTMCell, nn.GRUCell])
def test_cells_are_treated_as_layers_are(kind):
    torch.manual_seed(0)
    plain = kind(3, 4)
    cell = to_layer_norm_rnn(copy.deepcopy(plain))
    for name, child in cell.named_children():
        setattr(cell, name, Shift(child))
    x = torch.randn(2, 3)
    torch.testing.assert_close(cell(x), plain(x))


def test_matrices_are_handed_over_and_the_surgery_reaches_inside():
    model = nn.ModuleDict({"in": nn.Embedding(7, 3), "rnn": nn.LSTM(3, 4, num_layers=2), "out": nn.Linear(4, 7)})
    matrices = {id(p) for name, p in model.named_parameters() if "weight" in name}
    forget = [
        (model["rnn"].get_parameter(f"bias_ih_l{i}") + model["rnn"].get_parameter(f"bias_hh_l{i}"))[4:8] for i in (0, 1)
    ]
    assert to_layer_norm_rnn(model) is model
    assert matrices <= {id(p) for p in model.parameters()}
    for cell, want in zip(model["rnn"].cells, forget, strict=True):
        torch.testing.assert_close(cell.bias[4:8], want)
        assert cell.reference == "paper"


def test_references_reach_the_cells():
    assert to_layer_norm_rnn(nn.LSTM(3, 4), reference="lua").cells[0].reference == "lua"
    assert to_layer_norm_rnn(nn.GRU(3, 4), reference="theano").cells[0].bias is not None
    assert isinstance(to_layer_norm_rnn(nn.LSTMCell(3, 4).double(), reference="theano").norm_c.weight, nn.Parameter)
    assert to_layer_norm_rnn(nn.LSTMCell(3, 4).double()).norm_c.weight.dtype == torch.float64


def test_packed_sequences_go_through_a_treated_layer():
    layer = to_layer_norm_rnn(nn.GRU(3, 4))
    packed = nn.utils.rnn.pack_padded_sequence(torch.randn(4, 2, 3), [4, 2])
    assert layer(packed)[0].data.shape == (6, 4)


class Own(nn.GRU):
    def forward(self, x):
        return 2 * super().forward(x)[0]


@pytest.mark.parametrize(
    ("model", "reference", "message"),
    [
        (nn.Linear(2, 2), "paper", "must hold a recurrent layer, got Linear"),
        (nn.Sequential(nn.LSTM(3, 4, proj_size=2)), "paper", "layer '0' must have no projections, got proj_size=2"),
        (nn.Sequential(Own(3, 4)), "paper", "layer '0' is a Own, want torch's RNN"),
        (nn.RNN(3, 4), "theano", "reference must be paper for an RNN"),
        (nn.GRU(3, 4), "lua", "reference must be paper or theano for a GRU"),
        (nn.LSTM(3, 1), "paper", "hidden_size must be at least 2"),
    ],
)
def test_recurrent_layers_that_cannot_be_treated_are_refused(model, reference, message):
    with pytest.raises(ValueError, match=message):
        to_layer_norm_rnn(model, reference=reference)


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 3), (6, 5, 3, 2), (6, 5, 3, 2, 2)])
def test_in_place_of_batch_norm_each_example_is_normalised_over_all_its_neurons(shape):
    plain = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}[len(shape)](5).double()
    nn.init.normal_(plain.weight)
    nn.init.normal_(plain.bias)
    gamma, beta = plain.weight, plain.bias
    model = batch_norm_to_layer_norm(nn.Sequential(plain))
    assert model[0].weight is gamma
    assert model[0].bias is beta
    x = torch.randn(shape, dtype=torch.float64)
    flat = x.flatten(1)
    by_hand = ((flat - flat.mean(1, keepdim=True)) / (flat.var(1, correction=0, keepdim=True) + 1e-5).sqrt()).view(
        shape
    )
    place = (1, 5, *[1] * (len(shape) - 2))
    torch.testing.assert_close(model(x), gamma.view(place) * by_hand + beta.view(place))
    if len(shape) == 2:
        torch.testing.assert_close(model(x), F.layer_norm(x, (5,), gamma, beta))


def test_batch_norm_of_another_kind_or_none_is_refused_and_settings_are_kept():
    with pytest.raises(ValueError, match="layer '0' is a SyncBatchNorm"):
        batch_norm_to_layer_norm(nn.Sequential(nn.SyncBatchNorm(3)))
    with pytest.raises(ValueError, match="layer '0' is a GhostBatchNorm"):
        batch_norm_to_layer_norm(nn.Sequential(GhostBatchNorm(3, 2)))
    with pytest.raises(ValueError, match="must hold a BatchNorm layer to replace, got Linear"):
        batch_norm_to_layer_norm(nn.Linear(2, 2))
    plain = batch_norm_to_layer_norm(nn.BatchNorm2d(4, eps=0.1, affine=False))
    assert (plain.eps, plain.weight, plain.bias) == (0.1, None, None)


def test_hidden_layers_are_normalised_before_their_nonlinearity_and_the_output_is_not():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(4, 6), nn.ReLU(), nn.Dropout(0.1), nn.Sequential(nn.Linear(6, 5, bias=False), nn.Tanh()),
        nn.Linear(5, 3),
    ).double().eval()  # fmt: skip
    w1, b1, w2, w3, b3 = list(model.parameters())
    x = torch.randn(7, 4, dtype=torch.float64)
    h = F.relu(F.layer_norm(x @ w1.T, (6,)) + b1)
    h = torch.tanh(F.layer_norm(h @ w2.T, (5,)))
    want = h @ w3.T + b3
    assert add_layer_norm(model) is model
    torch.testing.assert_close(model(x), want)
    assert {id(p) for p in (w1, b1, w2, w3, b3)} <= {id(p) for p in model.parameters()}
    assert sum(isinstance(m, LayerNorm) for m in model.modules()) == 2
    with pytest.raises(ValueError, match="must hold a linear layer that an activation follows"):
        add_layer_norm(model)  # they are no longer followed by an activation: nothing is normalised twice


def test_layers_can_be_left_out():
    model = nn.Sequential(nn.LSTMCell(3, 4), nn.LSTMCell(4, 4))
    to_layer_norm_rnn(model, exclude="1")
    assert [type(m) for m in model] == [LayerNormLSTMCell, nn.LSTMCell]
