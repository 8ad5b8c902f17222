import copy

import numpy as np
import pytest
import torch
from ranks import on_two_ranks
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from assay.nn.layer_norm import layer_norm
from assay.nn.layer_norm_rnn import (
    LayerNormGRU,
    LayerNormGRUCell,
    LayerNormLSTM,
    LayerNormLSTMCell,
    LayerNormRNN,
    LayerNormRNNCell,
)

D = torch.float64
LAYERS = [LayerNormRNN, LayerNormLSTM, LayerNormGRU]
CELLS = {LayerNormRNN: LayerNormRNNCell, LayerNormLSTM: LayerNormLSTMCell, LayerNormGRU: LayerNormGRUCell}
CHECKED = hasattr(layer_norm, "__wrapped__")  # whether shapes are checked as tests run
VARIANTS = [  # of which there is a scan
    (LayerNormRNN, {}),
    (LayerNormRNN, {"nonlinearity": "relu"}),
    (LayerNormRNN, {"bias": False}),
    (LayerNormLSTM, {}),
    (LayerNormLSTM, {"reference": "theano"}),
    (LayerNormLSTM, {"bias": False}),
    (LayerNormGRU, {}),
    (LayerNormGRU, {"reference": "theano"}),
    (LayerNormGRU, {"bias": False}),
]
UNFUSED = [
    (LayerNormLSTM, {"reference": "lua"}),
    (LayerNormLSTM, {"joint": False}),
    (LayerNormLSTM, {"normalize_cell": False}),
    (LayerNormGRU, {"joint": False}),
]


def draw(*shape, seed=0, dtype=D):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=D).to(dtype)


def make(kind, inputs=3, width=4, dtype=D, **settings):
    """A layer or cell with every parameter drawn, so that none is 0 or 1 by chance."""
    made = kind(inputs, width, dtype=dtype, **settings)
    with torch.no_grad():
        for seed, parameter in enumerate(made.parameters()):
            parameter.copy_(draw(*parameter.shape, seed=seed + 10))
    return made


def states_of(last):
    return last if isinstance(last, tuple) else (last,)


def first_states(kind, layers, batch, width=4, seed=5):
    parts = [draw(layers, batch, width, seed=seed + i) for i in range(2 if kind is LayerNormLSTM else 1)]
    return tuple(parts) if kind is LayerNormLSTM else parts[0]


def everything(layer, x, hx=None, mask=None, create_graph=False):
    """Outputs, last states, and the gradients of a scalar that all of them enter."""
    y, last = layer(x, hx, mask)
    found = (y, *states_of(last))
    total = sum((part * draw(*part.shape, seed=i + 30)).sum() for i, part in enumerate(found))
    inputs = [x, *layer.parameters(), *(states_of(hx) if hx is not None else ())]
    return *found, *torch.autograd.grad(total, inputs, create_graph=create_graph)


# The definition ---------------------------------------------------------------------------------------------------


def sigmoid(v):
    return 1 / (1 + np.exp(-v))


def norm_by_hand(v, norm, parts=1, eps_on="variance"):
    """Layer normalisation of a vector, in `parts` equal pieces, with the gain and bias of the layer `norm`."""
    pieces = []
    for piece in np.split(v, parts):
        variance = ((piece - piece.mean()) ** 2).mean()
        below = np.sqrt(variance + 1e-5) if eps_on == "variance" else np.sqrt(variance) + 1e-5
        pieces.append((piece - piece.mean()) / below)
    bias = 0 if norm.bias is None else norm.bias.detach().numpy()
    return np.concatenate(pieces) * norm.weight.detach().numpy() + bias


def lstm_by_hand(cell, x, h, c, reference, joint=True, normalize_cell=True):
    w, u = cell.weight_ih.detach().numpy(), cell.weight_hh.detach().numpy()
    b = 0 if cell.bias is None else cell.bias.detach().numpy()
    parts = 1 if joint else 4
    if reference == "lua":
        p = w @ x + u @ h + b
    else:
        inner = w @ x + (b if reference == "theano" else 0)
        p = norm_by_hand(u @ h, cell.norm_hh, parts) + norm_by_hand(inner, cell.norm_ih, parts) + b
    i, f, g, o = np.split(p, 4)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    seen = norm_by_hand(c, cell.norm_c, 1, "deviation" if reference == "lua" else "variance") if normalize_cell else c
    return sigmoid(o) * np.tanh(seen), c


def gru_by_hand(cell, x, h, reference, joint=True):
    d, parts = len(h), 1 if joint else 2
    w, u = cell.weight_ih.detach().numpy(), cell.weight_hh.detach().numpy()
    a = w @ x + (cell.bias.detach().numpy() if reference == "theano" else 0)
    gates = norm_by_hand(u[: 2 * d] @ h, cell.norm_hh, parts) + norm_by_hand(a[: 2 * d], cell.norm_ih, parts)
    r, z = np.split(sigmoid(gates), 2)
    n = np.tanh(norm_by_hand(a[2 * d :], cell.norm_in) + r * norm_by_hand(u[2 * d :] @ h, cell.norm_hn))
    return z * h + (1 - z) * n


@pytest.mark.parametrize(
    "settings",
    [
        {"reference": "paper"}, {"reference": "theano"}, {"reference": "lua"}, {"joint": False},
        {"normalize_cell": False}, {"bias": False},
    ],
)  # fmt: skip
def test_an_lstm_cell_is_its_equations(settings):
    cell, x, h, c = make(LayerNormLSTMCell, **settings), draw(3), draw(4, seed=1), draw(4, seed=2)
    found = cell(x, (h, c))
    options = {"reference": "paper"} | {k: v for k, v in settings.items() if k != "bias"}
    want = lstm_by_hand(cell, x.numpy(), h.numpy(), c.numpy(), **options)
    for got, part in zip(found, want, strict=True):
        torch.testing.assert_close(got.detach(), torch.from_numpy(part), rtol=0, atol=1e-12)


@pytest.mark.parametrize("settings", [{"reference": "paper"}, {"reference": "theano"}, {"joint": False}])
def test_a_gru_cell_is_its_equations(settings):
    cell, x, h = make(LayerNormGRUCell, **settings), draw(3), draw(4, seed=1)
    want = gru_by_hand(cell, x.numpy(), h.numpy(), **{"reference": "paper"} | settings)
    torch.testing.assert_close(cell(x, h).detach(), torch.from_numpy(want), rtol=0, atol=1e-12)


@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
def test_an_rnn_cell_normalises_the_sum(nonlinearity):
    cell, x, h = make(LayerNormRNNCell, nonlinearity=nonlinearity), draw(3), draw(4, seed=1)
    y = norm_by_hand((cell.weight_ih @ x + cell.weight_hh @ h).detach().numpy(), cell.norm)
    want = np.tanh(y) if nonlinearity == "tanh" else np.maximum(y, 0)
    torch.testing.assert_close(cell(x, h).detach(), torch.from_numpy(want), rtol=0, atol=1e-12)


class Shift(nn.Module):
    """A norm without its normalisation."""

    def __init__(self, norm):
        super().__init__()
        self.bias = getattr(norm, "bias", None)

    def forward(self, x):
        return x if self.bias is None else x + self.bias


def unnormalised(layer):
    for cell in layer.cells:
        for name, child in cell.named_children():
            setattr(cell, name, Shift(child))
    return layer


def test_reference_vectors(vectors):
    data = {k: torch.from_numpy(v) for k, v in np.load(vectors / "layernorm.npz").items() if v.dtype == np.float64}
    d, order = 6, torch.tensor([0, 1, 3, 2])  # there i, f, o, g

    def gates(t):
        return t.unflatten(-1, (4, d))[..., order, :].flatten(-2)

    def filled(kind, tensors):
        layer = kind(4, d, reference="theano", dtype=D)
        with torch.no_grad():
            for name, value in tensors.items():
                layer.cells[0].get_parameter(name).copy_(value)
        return layer

    def lstm(p):
        norms = {f"norm_{n}.{k}": gates(p[v]) for n, i in (("ih", 1), ("hh", 2)) if f"s{i}" in p
                 for k, v in (("weight", f"s{i}"), ("bias", f"b{i}"))}  # fmt: skip
        norms |= {"norm_c.weight": p["s3"], "norm_c.bias": p["b3"]} if "s3" in p else {}
        weights = {"weight_ih": gates(p["W"]).T, "weight_hh": gates(p["U"]).T, "bias": gates(p["b"])}
        return filled(LayerNormLSTM, weights | norms)

    def gru(p):
        names = {"ih": 1, "in": 2, "hh": 3, "hn": 4}
        norms = {f"norm_{n}.{k}": p[v] for n, i in names.items() if f"s{i}" in p
                 for k, v in (("weight", f"s{i}"), ("bias", f"b{i}"))}  # fmt: skip
        weights = {
            "weight_ih": torch.cat((p["W"], p["Wx"]), 1).T, "weight_hh": torch.cat((p["U"], p["Ux"]), 1).T,
            "bias": torch.cat((p["b"], p["bx"])),
        }  # fmt: skip
        return filled(LayerNormGRU, weights | norms)

    for name in ("gru", "lngru", "lstm", "lnlstm"):
        layer = {"gru": gru, "lstm": lstm}[name.removeprefix("ln")](
            {k.removeprefix(f"{name}__"): v for k, v in data.items() if k.startswith(f"{name}__")}
        )
        if not name.startswith("ln"):
            layer = unnormalised(layer)
        hx = (data["h0"][None], data["c0"][None]) if "lstm" in name else data["h0"][None]
        for fused in (True, False):
            layer.fused = fused
            for mask, end in ((None, ""), (data["mask"].bool(), "_masked")):
                y, last = layer(data["x"], hx, mask)
                torch.testing.assert_close(y, data[f"{name}{end}_h"], rtol=0, atol=1e-10)
                if "lstm" in name:
                    torch.testing.assert_close(last[1][0], data[f"{name}{end}_c"][-1], rtol=0, atol=1e-10)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("settings", [{}, {"num_layers": 2, "bidirectional": True}])
@pytest.mark.parametrize(("kind", "plain"), [(LayerNormRNN, nn.RNN), (LayerNormLSTM, nn.LSTM), (LayerNormGRU, nn.GRU)])
def test_without_its_norms_a_layer_is_torchs(kind, plain, settings, bias):
    other = plain(3, 4, bias=bias, dtype=D, **settings)
    layer = unnormalised(kind(3, 4, bias=bias, dtype=D, **settings))
    for index, cell in enumerate(layer.cells):
        end = f"_l{index // layer.directions}" + "_reverse" * (index % layer.directions)
        with torch.no_grad():
            for name in ("weight_ih", "weight_hh"):
                getattr(cell, name).copy_(getattr(other, name + end))
            if bias:
                first, second = getattr(other, "bias_ih" + end), getattr(other, "bias_hh" + end)
                if kind is LayerNormRNN:
                    cell.norm.bias.copy_(first + second)
                elif kind is LayerNormLSTM:
                    cell.norm_ih.bias.copy_(first)
                    cell.norm_hh.bias.copy_(second)
                else:
                    for norm, part in ((cell.norm_ih, first[:8]), (cell.norm_in, first[8:]),
                                       (cell.norm_hh, second[:8]), (cell.norm_hn, second[8:])):  # fmt: skip
                        norm.bias.copy_(part)
    x = draw(5, 2, 3)
    hx = first_states(kind, len(layer.cells), 2)
    (y, last), (want, want_last) = layer(x, hx), other(x, hx)
    torch.testing.assert_close(y, want)
    torch.testing.assert_close(last, want_last)


# The scan is the loop ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "settings"), VARIANTS)
@pytest.mark.parametrize("masked", [False, True])
def test_the_scan_gives_outputs_and_gradients_of_the_plain_loop(kind, settings, masked):
    layer = make(kind, num_layers=2, bidirectional=True, **settings)
    x, hx = draw(5, 3, 3).requires_grad_(), first_states(kind, 4, 3)
    for part in states_of(hx):
        part.requires_grad_()
    mask = torch.tensor([[1, 1, 0], [1, 0, 1], [1, 1, 0], [1, 0, 0], [1, 1, 0]], dtype=torch.bool) if masked else None
    assert all(cell.scannable for cell in layer.cells)
    found = everything(layer, x, hx, mask)
    layer.fused = False
    torch.testing.assert_close(found, everything(layer, x, hx, mask), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(("kind", "settings"), UNFUSED)
def test_other_cells_run_in_the_plain_loop(kind, settings):
    layer = make(kind, **settings)
    assert not layer.cells[0].scannable
    assert all(part.isfinite().all() for part in everything(layer, draw(3, 2, 3).requires_grad_()))


@pytest.mark.parametrize(("kind", "settings"), VARIANTS + UNFUSED)
def test_a_layer_is_its_cell_step_by_step(kind, settings):
    layer, x = make(kind, **settings), draw(4, 3, 3)
    y, last = layer(x)
    state, seen = None, []
    for x_t in x:
        state = layer.cells[0](x_t, state)
        seen.append(states_of(state)[0])
    torch.testing.assert_close(y, torch.stack(seen))
    for got, want in zip(states_of(last), states_of(state), strict=True):
        torch.testing.assert_close(got[0], want)


@pytest.mark.parametrize(
    ("kind", "settings"), [*((kind, {}) for kind in LAYERS), (LayerNormRNN, {"nonlinearity": "relu"})]
)
def test_gradients_of_first_and_second_order_through_three_steps(kind, settings):
    layer = make(kind, inputs=2, width=3, **settings)
    parameters = dict(layer.named_parameters())
    mask = torch.tensor([[True], [False], [True]])

    def f(x, *values):
        y, last = torch.func.functional_call(layer, dict(zip(parameters, values, strict=True)), (x, None, mask))
        return y, *states_of(last)

    inputs = (draw(3, 1, 2).requires_grad_(), *parameters.values())
    assert torch.autograd.gradcheck(f, inputs)
    assert torch.autograd.gradgradcheck(f, inputs, fast_mode=True)


@pytest.mark.parametrize("kind", LAYERS)
def test_gradients_of_gradients_are_those_of_the_plain_loop_where_weights_are_tied(kind):
    layer = make(kind, inputs=4)
    layer.cells[0].weight_hh = layer.cells[0].weight_ih
    x, found = draw(3, 2, 4).requires_grad_(), []
    for layer.fused in (True, False):
        first = everything(layer, x, create_graph=True)
        second = torch.autograd.grad(sum(part.square().sum() for part in first), [x, *layer.parameters()])
        found.append((*first, *second))
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", LAYERS)
def test_the_plain_loop_can_be_transformed_by_torch_func(kind):
    layer, x = make(kind, fused=False), draw(3, 2, 3)
    parameters = dict(layer.named_parameters())

    def loss(parameters, x):
        return torch.func.functional_call(layer, parameters, (x[:, None],))[0].sum()

    each = torch.func.vmap(torch.func.grad(loss), (None, 1))(parameters, x)
    layer.fused = True
    for i in range(2):
        want = torch.autograd.grad(layer(x[:, i : i + 1])[0].sum(), list(parameters.values()))
        torch.testing.assert_close([value[i] for value in each.values()], list(want))


# What must hold whatever the form ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", LAYERS)
def test_an_output_depends_on_its_own_example_alone_and_not_on_the_mode(kind):
    layer, x = make(kind, num_layers=2, dropout=0.0), draw(5, 3, 3)
    y, _ = layer(x)
    assert torch.equal(layer.eval()(x)[0], y)
    torch.testing.assert_close(layer(x[:, 1:2])[0], y[:, 1:2])
    changed = x.clone()
    changed[:, 0] += 1
    torch.testing.assert_close(layer(changed)[0][:, 1:], y[:, 1:])


@pytest.mark.parametrize("kind", [LayerNormLSTM, LayerNormGRU])
def test_the_scales_of_the_matrices_do_not_matter(kind):
    layer, x = make(kind, eps=1e-12), draw(5, 3, 3)
    y, _ = layer(x)
    with torch.no_grad():
        layer.cells[0].weight_ih.mul_(3)
        if kind is LayerNormLSTM:
            layer.cells[0].weight_hh.mul_(0.2)
    torch.testing.assert_close(layer(x)[0], y)


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("bidirectional", [True, False])
def test_a_padded_sequence_is_the_shorter_one_and_padding_is_never_seen(kind, fused, bidirectional):
    layer = make(kind, num_layers=2, bidirectional=bidirectional, fused=fused)
    x, lengths = draw(6, 3, 3), [6, 2, 4]
    mask = torch.arange(6)[:, None] < torch.tensor(lengths)
    hx = first_states(kind, len(layer.cells), 3)
    y, last = layer(x, hx, mask)
    poisoned = torch.where(mask[:, :, None], x, 1e6)
    torch.testing.assert_close(layer(poisoned, hx, mask), (y, last))
    for i, length in enumerate(lengths):
        own = tuple(part[:, i : i + 1] for part in states_of(hx))
        want, want_last = layer(x[:length, i : i + 1], own if kind is LayerNormLSTM else own[0])
        torch.testing.assert_close(y[:length, i : i + 1], want)
        for got, part in zip(states_of(last), states_of(want_last), strict=True):
            torch.testing.assert_close(got[:, i : i + 1], part)


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("fused", [True, False])
def test_a_sequence_of_padding_alone_gives_its_first_state(kind, fused):
    layer, hx = make(kind, fused=fused), first_states(kind, 1, 2)
    mask = torch.tensor([[True, False]] * 3)
    y, last = layer(draw(3, 2, 3), hx, mask)
    for got, want in zip(states_of(last), states_of(hx), strict=True):
        assert torch.equal(got[:, 1], want[:, 1])
    assert torch.equal(y[:, 1], states_of(hx)[0][0, 1].expand(3, 4))


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("enforce_sorted", [True, False])
def test_a_packed_sequence_is_each_of_its_sequences(kind, enforce_sorted):
    layer = make(kind, num_layers=2, bidirectional=True)
    lengths = [5, 3, 3, 1] if enforce_sorted else [3, 5, 1, 3]
    x, hx = draw(5, 4, 3), first_states(kind, 4, 4)
    packed = pack_padded_sequence(x, lengths, enforce_sorted=enforce_sorted)
    found, last = layer(packed, hx)
    assert torch.equal(found.batch_sizes, packed.batch_sizes)
    y, _ = pad_packed_sequence(found)
    for i, length in enumerate(lengths):
        own = tuple(part[:, i : i + 1] for part in states_of(hx))
        want, want_last = layer(x[:length, i : i + 1], own if kind is LayerNormLSTM else own[0])
        torch.testing.assert_close(y[:length, i : i + 1], want)
        for got, part in zip(states_of(last), states_of(want_last), strict=True):
            torch.testing.assert_close(got[:, i : i + 1], part)


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("batch_first", [True, False])
def test_axes_are_where_they_are_said_to_be(kind, batch_first):
    layer, x, hx = make(kind, bidirectional=True), draw(5, 3, 3), first_states(kind, 2, 3)
    mask = torch.rand(5, 3, generator=torch.Generator().manual_seed(0)) < 0.7
    y, last = layer(x, hx, mask)
    layer.batch_first = batch_first
    if batch_first:
        got, got_last = layer(x.transpose(0, 1), hx, mask.T)
        assert torch.equal(got, y.transpose(0, 1))
        torch.testing.assert_close(got_last, last)
    one = tuple(part[:, 1] for part in states_of(hx))
    alone, alone_last = layer(x[:, 1], one if kind is LayerNormLSTM else one[0])
    want, want_last = make(kind, bidirectional=True)(x, hx)
    torch.testing.assert_close(alone, want[:, 1])
    torch.testing.assert_close(states_of(alone_last), tuple(part[:, 1] for part in states_of(want_last)))


def test_dropout_acts_between_layers_in_training_alone():
    layer, x = make(LayerNormGRU, num_layers=2, dropout=0.5), draw(5, 3, 3)
    (one, last), (other, other_last) = layer(x), layer(x)
    assert not torch.equal(one, other)
    assert torch.equal(last[0], other_last[0])
    assert not (one == 0).any()
    assert torch.equal(layer.eval()(x)[0], layer(x)[0])
    single = make(LayerNormGRU, dropout=0.5)
    assert torch.equal(single(x)[0], single(x)[0])


def test_starts_as_the_authors_code_does():
    torch.manual_seed(0)
    cell = LayerNormLSTMCell(50, 40)
    for block in cell.weight_hh.split(40):
        torch.testing.assert_close(block @ block.T, torch.eye(40), rtol=0, atol=1e-5)
    assert cell.weight_ih.std().item() == pytest.approx(0.01, rel=0.03)
    for norm in (cell.norm_ih, cell.norm_hh, cell.norm_c):
        assert (norm.weight == 1).all()
        assert (norm.bias == 0).all()
    assert (cell.bias == 0).all()


@pytest.mark.parametrize(("kind", "settings"), VARIANTS + UNFUSED)
def test_state_dict_and_copies_carry_all(kind, settings):
    layer, x = make(kind, num_layers=2, **settings), draw(3, 2, 3)
    other = kind(3, 4, num_layers=2, dtype=D, **settings)
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(x)[0], layer(x)[0])
    assert torch.equal(copy.deepcopy(layer)(x)[0], layer(x)[0])
    if settings.get("bias") is False:
        assert not any("bias" in name for name in layer.state_dict())


# Precision, compilers, processes, devices -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("fused", [True, False])
def test_autocast_keeps_states_and_gradients_in_float32(kind, fused):
    torch.manual_seed(0)
    layer = kind(3, 8, num_layers=2, fused=fused)
    x = draw(4, 3, 3, dtype=torch.float32).requires_grad_()
    want = everything(layer, x)
    with torch.autocast("cpu", torch.bfloat16):
        y, last = layer(x)
        total = sum((p * draw(*p.shape, seed=i + 30)).sum() for i, p in enumerate((y, *states_of(last))))
        found = (y, *states_of(last), *torch.autograd.grad(total, [x, *layer.parameters()]))
    for got, full in zip(found, want, strict=True):
        assert got.dtype == torch.float32
        assert (got - full).norm() < 0.05 * full.norm()  # a dozen times the rounding of bfloat16, 2^-8


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("fused", [True, False])
def test_a_layer_in_bfloat16_stays_so(kind, fused):
    torch.manual_seed(0)
    layer = kind(3, 8, fused=fused).bfloat16()
    x = draw(4, 3, 3, dtype=torch.bfloat16).requires_grad_()
    found = everything(layer, x)
    want = everything(copy.deepcopy(layer).double(), x.detach().double().requires_grad_())
    for got, full in zip(found, want, strict=True):
        assert got.dtype == torch.bfloat16
        assert (got.double() - full).norm() < 0.05 * full.norm()


@pytest.mark.skipif(CHECKED, reason="the checks of shapes break the graph")
@pytest.mark.parametrize("kind", LAYERS)
def test_cells_and_the_plain_loop_compile_without_a_graph_break(kind):
    torch.compiler.reset()
    layer, x = make(kind, fused=False), draw(3, 2, 3)
    cell = layer.cells[0]
    compiled = torch.compile(cell, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x[0]), cell(x[0]))
    unrolled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(unrolled(x), layer(x))


@pytest.mark.skipif(CHECKED, reason="shapes cannot be checked inside a compiler")
@pytest.mark.parametrize("kind", LAYERS)
def test_a_compiled_network_trains_with_the_scan_outside_its_graphs(kind):
    torch.compiler.reset()
    layer, x = make(kind), draw(3, 2, 3).requires_grad_()
    want = everything(layer, x)
    compiled = torch.compile(layer, backend="aot_eager")
    torch.testing.assert_close(everything(compiled, x), want)


def network():
    torch.manual_seed(0)
    return nn.ModuleList([LayerNormLSTM(3, 4, 2, bidirectional=True), LayerNormGRU(8, 5), LayerNormRNN(5, 4)]).double()


class Stacked(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = network()

    def forward(self, x, mask):
        for layer in self.layers:
            x, _ = layer(x, mask=mask)
        return x


def data():
    lengths = torch.tensor([5, 2, 3, 5, 1, 4])
    return draw(5, 6, 3), torch.arange(5)[:, None] < lengths


def _share(rank):
    model, (x, mask) = nn.parallel.DistributedDataParallel(Stacked()), data()
    own = slice(3 * rank, 3 * rank + 3)
    y = model(x[:, own], mask[:, own])
    y.square().mean().backward()
    return {"y": y.detach(), "grads": [p.grad for p in model.parameters()]}


def test_two_processes_give_the_outputs_and_gradients_of_one_on_the_joined_batch(tmp_path):
    found = on_two_ranks(_share, tmp_path)
    model, (x, mask) = Stacked(), data()
    y = model(x, mask)
    y.square().mean().backward()
    torch.testing.assert_close(torch.cat([part["y"] for part in found], 1), y.detach())
    for part in found:
        torch.testing.assert_close(part["grads"], [p.grad for p in model.parameters()])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(("kind", "settings"), VARIANTS)
def test_cuda_equals_the_cpu(kind, settings):
    layer, x = make(kind, num_layers=2, bidirectional=True, **settings), draw(5, 3, 3)
    mask = torch.arange(5)[:, None] < torch.tensor([5, 2, 3])
    want = everything(layer, x.requires_grad_(), None, mask)
    found = copy.deepcopy(layer).cuda()(x.detach().cuda(), None, mask.cuda())
    torch.testing.assert_close(found[0].cpu(), want[0])


# What is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make_it", "message"),
    [
        (lambda: LayerNormLSTM(3, 1), "hidden_size must be at least 2, got 1"),
        (lambda: LayerNormGRUCell(0, 3), "input_size must be positive, got 0"),
        (lambda: LayerNormRNN(3, 4, 0), "num_layers must be positive, got 0"),
        (lambda: LayerNormGRU(3, 4, dropout=1.5), r"dropout must lie in \[0, 1\], got 1.5"),
        (
            lambda: LayerNormLSTMCell(3, 4, reference="lua", normalize_cell=False),
            "normalize_cell must be true for reference='lua'",
        ),
        (lambda: LayerNormGRU(3, 4)(torch.zeros(0, 2, 3)), "at least one step"),
        (lambda: LayerNormGRU(3, 4)(torch.zeros(5, 2, 4)), r"the last of 3, got \[5, 2, 4\]"),
        (lambda: LayerNormGRU(3, 4)(torch.zeros(5, 2, 3), torch.zeros(1, 3, 4)), r"hx must be 1 of shape \[1, 2, 4\]"),
        (
            lambda: LayerNormLSTM(3, 4)(torch.zeros(5, 2, 3), (torch.zeros(1, 2, 4),) * 3),
            r"hx must be 2 of shape \[1, 2, 4\]",
        ),
        (lambda: LayerNormLSTMCell(3, 4)(torch.zeros(5, 2)), r"input must be \[batch, 3\] or \[3\], got \[5, 2\]"),
        (
            lambda: LayerNormLSTMCell(3, 4)(torch.zeros(5, 3), (torch.zeros(5, 4), torch.zeros(2, 4))),
            r"hx must be 2 of shape \[5, 4\]",
        ),
        (
            lambda: LayerNormGRU(3, 4)(torch.zeros(5, 2, 3), mask=torch.ones(2, 5, dtype=torch.bool)),
            r"mask must be bool \[5, 2\]",
        ),
        (lambda: LayerNormGRU(3, 4)(torch.zeros(5, 2, 3), mask=torch.ones(5, 2)), "mask must be bool"),
        (
            lambda: LayerNormGRU(3, 4)(
                pack_padded_sequence(torch.zeros(5, 2, 3), [5, 2]), mask=torch.ones(5, 2, dtype=torch.bool)
            ),
            "mask must not come with a packed sequence",
        ),
        (
            lambda: LayerNormGRU(3, 4)(torch.zeros(5, 3), mask=torch.ones(5, 1, dtype=torch.bool)),
            "mask must come with a batch",
        ),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_by_name(make_it, message):
    with pytest.raises(ValueError, match=message):
        make_it()


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (LayerNormLSTM, {"reference": "code"}),
        (LayerNormGRU, {"reference": "lua"}),
        (LayerNormRNN, {"nonlinearity": "gelu"}),
    ],
)
def test_unknown_forms_are_refused(kind, settings):
    with pytest.raises((ValueError, TypeError), match=next(iter(settings))):
        kind(3, 4, **settings)
