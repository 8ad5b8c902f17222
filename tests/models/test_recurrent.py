import pytest
import torch
from torch import nn

from assay.models.recurrent import Recurrent


@pytest.mark.parametrize(("kind", "gates"), [("lstm", 4), ("gru", 3)])
def test_recurrent_has_the_parameters_counted_by_hand(kind, gates):
    layer = gates * (2 * 24**2 + 2 * 24)
    found = sum(p.numel() for p in Recurrent(kind, width=24, depth=3).parameters())
    assert found == 256 * 24 + 3 * layer + 24 * 256 + 256


def test_recurrent_reads_one_token_after_another_and_its_forget_gates_start_open():
    torch.manual_seed(0)
    model = Recurrent("lstm", width=8, depth=2).double()
    tokens, cells = torch.randint(256, (2, 4)), [nn.LSTMCell(8, 8).double() for _ in range(2)]
    for i, cell in enumerate(cells):
        cell.load_state_dict({name: getattr(model.layers, f"{name}_l{i}") for name in cell.state_dict()})
        assert (cell.bias_ih + cell.bias_hh)[8:16].tolist() == [1.0] * 8
    states = [None, None]
    for t in range(4):
        x = model.embedding(tokens[:, t])
        for i, cell in enumerate(cells):
            states[i] = cell(x, states[i])
            x = states[i][0]
        torch.testing.assert_close(model(tokens)[:, t], model.readout(x))


def test_an_unknown_kind_is_refused():
    with pytest.raises((ValueError, TypeError), match="kind"):  # TypeError where the tests check types
        Recurrent("rnn")
