import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from ranks import on_two_ranks
from torch import nn

from assay.nn.weight_standardization import (
    WeightStandardizedConv1d,
    WeightStandardizedConv2d,
    WeightStandardizedConv3d,
    WeightStandardizedLinear,
    fold_weight_standardization,
    to_weight_standardized,
    weight_standardize,
)

VARIANTS = [{"eps_inside_sqrt": inside, "unbiased": unbiased} for inside in (True, False) for unbiased in (True, False)]
CONVOLUTIONS = {
    "1d": (WeightStandardizedConv1d, nn.Conv1d, (4, 6, 3), (2, 4, 9)),
    "2d": (WeightStandardizedConv2d, nn.Conv2d, (4, 6, (3, 2)), (2, 4, 7, 6)),
    "3d": (WeightStandardizedConv3d, nn.Conv3d, (4, 6, 2), (2, 4, 4, 5, 3)),
}
SHAPED = [
    {},
    {"groups": 2},
    {"stride": 2},
    {"dilation": 2},
    {"padding": 1, "padding_mode": "circular"},
    {"bias": False},
]


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype).requires_grad_()


def naive(weight, eps, eps_inside_sqrt, unbiased):
    """The definition, a filter and a number at a time, in float64."""
    rows = weight.detach().double().flatten(1).tolist()
    done = []
    for row in rows:
        n = len(row)
        mean = sum(row) / n
        var = sum((w - mean) ** 2 for w in row) / (n - 1 if unbiased else n)
        divisor = (var + eps) ** 0.5 if eps_inside_sqrt else var**0.5 + eps
        done.append([(w - mean) / divisor for w in row])
    return torch.tensor(done, dtype=torch.float64).view(weight.shape)


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.GroupNorm(4, 8), nn.ReLU(),
        nn.Conv2d(8, 8, 3, 2, groups=2), nn.GroupNorm(2, 8), nn.ReLU(),
        nn.Conv2d(8, 5, 1), nn.Flatten(), nn.Linear(20, 2),
    )  # fmt: skip


def images(n=6):
    return torch.randn(n, 3, 6, 6, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize(
    ("case", "settings"),
    [("ws_var_eps", {"unbiased": True}), ("ws_std_eps", {"unbiased": True, "eps_inside_sqrt": False})],
)
def test_reference_vectors(vectors, case, settings):
    data = np.load(vectors / "ws-bcn.npz", allow_pickle=False)
    kernel, stride, padding, groups = map(int, data["conv_cfg"])
    x = torch.from_numpy(data["x"]).requires_grad_()
    shape = {"stride": stride, "padding": padding, "groups": groups, "dtype": torch.float64}
    layer = WeightStandardizedConv2d(x.shape[1], len(data[f"{case}_w"]), kernel, **shape, **settings)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(data[f"{case}_w"]))
        layer.bias.copy_(torch.from_numpy(data[f"{case}_b"]))
    y = layer(x)
    upstream = torch.arange(y.numel(), dtype=torch.float64).cos().view_as(y)
    dx, dw = torch.autograd.grad(y, (x, layer.weight), upstream)
    for got, name in ((y, "y"), (dx, "dx"), (dw, "dw")):
        torch.testing.assert_close(got.detach(), torch.from_numpy(data[f"{case}_{name}"]), rtol=0, atol=1e-10)


@pytest.mark.parametrize("settings", VARIANTS)
@pytest.mark.parametrize("shape", [(3, 7), (4, 2, 3), (5, 3, 3, 3), (2, 1, 2, 2, 2)])
@pytest.mark.parametrize("eps", [1e-5, 0.3])
def test_weights_are_standardised_as_the_naive_loop_does(settings, shape, eps):
    weight = 3 * draw(*shape) + 1
    torch.testing.assert_close(weight_standardize(weight, eps=eps, **settings), naive(weight, eps, **settings))


@pytest.mark.parametrize("settings", VARIANTS)
def test_each_filter_has_mean_zero_and_variance_one(settings):
    standardised = weight_standardize(draw(5, 3, 3, 3), eps=1e-12, **settings).flatten(1)
    ones, zeros = torch.ones(5, dtype=torch.float64), torch.zeros(5, dtype=torch.float64)
    torch.testing.assert_close(standardised.mean(1), zeros, rtol=0, atol=1e-12)
    torch.testing.assert_close(standardised.var(1, correction=int(settings["unbiased"])), ones)


@pytest.mark.parametrize("settings", VARIANTS)
def test_scaling_or_shifting_a_filter_changes_nothing(settings):
    weight, scale, shift = draw(5, 3, 3, 3), draw(5, 1, 1, 1, seed=1).exp(), draw(5, 1, 1, 1, seed=2)
    got = weight_standardize(scale * weight + shift, eps=1e-12, **settings)
    torch.testing.assert_close(got, weight_standardize(weight, eps=1e-12, **settings))


@pytest.mark.parametrize("settings", VARIANTS)
def test_the_gradient_of_a_filter_sums_to_zero_and_is_orthogonal_to_it(settings):
    weight = draw(5, 3, 3, 3)
    loss = (weight_standardize(weight, eps=1e-12, **settings) * draw(5, 3, 3, 3, seed=1)).sum()
    (gradient,) = torch.autograd.grad(loss, weight)
    assert gradient.abs().max() > 0.1
    zeros = torch.zeros(5, dtype=torch.float64)
    torch.testing.assert_close(gradient.flatten(1).sum(1), zeros, rtol=0, atol=1e-10)
    torch.testing.assert_close((gradient * weight).flatten(1).sum(1), zeros, rtol=0, atol=1e-10)


@pytest.mark.parametrize("settings", VARIANTS)
def test_a_constant_filter_becomes_zero_with_a_finite_gradient(settings):
    weight = torch.full((2, 3, 3, 3), 7.0, requires_grad=True)
    standardised = weight_standardize(weight, **settings)
    (standardised * draw(2, 3, 3, 3, dtype=torch.float32)).sum().backward()
    assert not standardised.any()
    assert weight.grad.isfinite().all()


@pytest.mark.parametrize("settings", VARIANTS)
def test_gradients_of_first_and_second_order(settings):
    weight = draw(3, 2, 2, 2)
    assert torch.autograd.gradcheck(lambda w: weight_standardize(w, **settings), weight)
    assert torch.autograd.gradgradcheck(lambda w: weight_standardize(w, **settings), weight)


@pytest.mark.parametrize("dims", CONVOLUTIONS)
@pytest.mark.parametrize("shaped", SHAPED)
def test_a_layer_is_torchs_layer_with_the_standardised_weight(dims, shaped):
    kind, plain, sizes, x_shape = CONVOLUTIONS[dims]
    torch.manual_seed(0)
    layer, other = kind(*sizes, **shaped, dtype=torch.float64), plain(*sizes, **shaped, dtype=torch.float64)
    with torch.no_grad():
        other.weight.copy_(naive(layer.weight, 1e-5, True, False))
        if layer.bias is not None:
            other.bias.copy_(layer.bias)
    x = draw(*x_shape)
    torch.testing.assert_close(layer(x), other(x))
    assert torch.equal(layer.eval()(x), layer.train()(x))


@pytest.mark.parametrize("shaped", SHAPED)
def test_gradients_through_a_convolution(shaped):
    layer = WeightStandardizedConv2d(2, 2, 2, **shaped, dtype=torch.float64)
    x = draw(1, 2, 3, 3)

    def f(x, *parameters):
        return torch.func.functional_call(layer, dict(zip(dict(layer.named_parameters()), parameters, strict=True)), x)

    assert torch.autograd.gradcheck(f, (x, *layer.parameters()))


def test_a_linear_layers_rows_are_its_filters():
    layer, x = WeightStandardizedLinear(5, 3, dtype=torch.float64), draw(4, 5)
    torch.testing.assert_close(layer(x), x @ naive(layer.weight, 1e-5, True, False).T + layer.bias)


def test_a_layer_starts_as_torchs_layer_does():
    torch.manual_seed(0)
    layer = WeightStandardizedConv2d(3, 4, 3)
    torch.manual_seed(0)
    plain = nn.Conv2d(3, 4, 3)
    assert all(torch.equal(a, b) for a, b in zip(layer.parameters(), plain.parameters(), strict=True))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: WeightStandardizedConv2d(4, 4, 1, groups=4), "at least two weights to be standardised, got 1"),
        (lambda: WeightStandardizedLinear(1, 3), "at least two weights to be standardised, got 1"),
        (lambda: weight_standardize(torch.ones(3, 1)), "at least two weights to be standardised, got 1"),
        (lambda: weight_standardize(torch.ones(3, 4), eps=0.0), "eps must be positive, got 0"),
        (lambda: WeightStandardizedConv2d(4, 4, 3, eps=-1.0), "eps must be positive, got -1"),
        (lambda: to_weight_standardized(nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))), "layer '0': a filter"),
    ],
)
def test_what_cannot_be_standardised_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_an_option_that_torchs_layer_does_not_know_is_refused():
    with pytest.raises(TypeError, match="paddin"):
        WeightStandardizedConv2d(3, 4, 3, paddin=1)


@pytest.mark.parametrize("settings", VARIANTS)
def test_bfloat16_weights_are_standardised_in_float32(settings):
    weight = (draw(6, 8, 3, 3, dtype=torch.float32) + 3).detach().bfloat16()
    got = weight_standardize(weight, **settings)
    assert got.dtype == torch.bfloat16
    want = naive(weight, 1e-5, **settings)
    torch.testing.assert_close(got.double(), want, rtol=2**-7, atol=2**-7)  # a rounding to eight bits, two at most


def test_autocast_standardises_in_float32_and_gives_float32_gradients():
    model, full = to_weight_standardized(network()), to_weight_standardized(network())
    hats = []
    for layer in (model[0], model[3]):
        layer._conv_forward = lambda x, w, b, f=layer._conv_forward: hats.append(w.dtype) or f(x, w, b)
    with torch.autocast("cpu", torch.bfloat16):
        y = model(images())
    assert y.dtype == torch.bfloat16
    assert hats == [torch.float32] * 2
    torch.testing.assert_close(y.float(), full(images()), rtol=0.05, atol=0.05)
    y.float().square().mean().backward()
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.skipif(hasattr(weight_standardize, "__wrapped__"), reason="the checks of shapes break the graph")
@pytest.mark.parametrize("settings", VARIANTS)
def test_compiles_without_a_graph_break(settings):
    model = to_weight_standardized(network(), **settings)
    eager = copy.deepcopy(model)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    y, want = compiled(images()), eager(images())
    torch.testing.assert_close(y, want)
    y.square().sum().backward()
    want.square().sum().backward()
    for p, q in zip(model.parameters(), eager.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("settings", VARIANTS)
def test_cuda_equals_the_cpu(settings):
    weight = draw(6, 8, 3, 3)
    got = weight_standardize(weight.detach().cuda(), **settings)
    torch.testing.assert_close(got.cpu(), weight_standardize(weight.detach(), **settings))


def test_channels_last_stays_so():
    model = to_weight_standardized(network()).to(memory_format=torch.channels_last)
    x = images().contiguous(memory_format=torch.channels_last)
    assert model[0](x).is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(model(x), to_weight_standardized(network())(images()))


# Surgery ------------------------------------------------------------------------------------------------------------


def kinds(model):
    return {name for name, layer in model.named_modules() if type(layer).__name__.startswith("WeightStandardized")}


def test_surgery_keeps_state_parameters_and_optimizer_and_weights_train():
    model = network()
    plain, keys = copy.deepcopy(model), list(model.state_dict())
    parameters = list(model.parameters())
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    assert to_weight_standardized(model) is model
    assert list(model.state_dict()) == keys
    assert all(p is q for p, q in zip(parameters, model.parameters(), strict=True))
    model(images()).square().mean().backward()
    optimizer.step()
    moved = [not torch.equal(p, q) for p, q in zip(model.parameters(), plain.parameters(), strict=True)]
    assert all(moved)
    fresh = network()
    fresh.load_state_dict(model.state_dict())
    torch.testing.assert_close(to_weight_standardized(fresh)(images()), model(images()))
    model.load_state_dict(plain.state_dict())
    torch.testing.assert_close(model(images()), to_weight_standardized(plain)(images()))


def test_a_convolution_that_no_normalisation_follows_stays_plain_unless_it_is_named():
    assert kinds(to_weight_standardized(network())) == {"0", "3"}
    assert kinds(to_weight_standardized(network(), exclude="0")) == {"3"}
    assert kinds(to_weight_standardized(network(), include=["6", "8"])) == {"6", "8"}
    assert kinds(to_weight_standardized(network(), include=(nn.Conv2d, nn.Linear), exclude="8")) == {"0", "3", "6"}
    with pytest.raises(ValueError, match="must hold a convolution before a normalisation layer"):
        to_weight_standardized(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)))
    assert kinds(to_weight_standardized(nn.Linear(3, 3), include="")) == {""}


def test_surgery_again_changes_settings_only():
    model = to_weight_standardized(network())
    layers = list(model.modules())
    assert list(to_weight_standardized(model).modules()) == layers
    assert to_weight_standardized(model, eps=1e-3, unbiased=True)[3].settings == {
        "eps": 1e-3, "eps_inside_sqrt": True, "unbiased": True,
    }  # fmt: skip


def test_a_shared_layer_and_a_shared_weight_stay_shared():
    torch.manual_seed(0)
    shared, other = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3)
    other.weight = shared.weight
    model = nn.Sequential(shared, nn.GroupNorm(2, 4), shared, other, nn.GroupNorm(2, 4))
    to_weight_standardized(model)
    assert model[0] is model[2]
    assert model[0].weight is model[3].weight
    assert kinds(model) == {"0", "3"}
    model(torch.randn(2, 4, 6, 6)).square().sum().backward()
    with pytest.raises(ValueError, match="which other layers share"):
        fold_weight_standardization(model)


class Scaled(nn.Conv2d):
    def forward(self, x):
        return 2 * super().forward(x)


@pytest.mark.parametrize("layer", [Scaled(3, 4, 3), nn.LazyConv2d(4, 3)])
def test_a_convolution_of_a_class_of_its_own_is_refused(layer):
    with pytest.raises(ValueError, match=f"layer '0' is a {type(layer).__name__}"):
        to_weight_standardized(nn.Sequential(layer, nn.BatchNorm2d(4)))


def test_mode_hooks_and_dtype_stay():
    model, calls = network().double().eval(), []
    model[0].register_forward_hook(lambda *_: calls.append(1))
    to_weight_standardized(model)
    assert not any(layer.training for layer in model.modules())
    assert model(images().double()).dtype == torch.float64
    assert calls == [1]


def test_folding_gives_torchs_layers_and_the_same_outputs():
    model = to_weight_standardized(network().eval(), unbiased=True)
    want, weight = model(images()), model[0].weight
    assert fold_weight_standardization(model) is model
    assert [type(layer) for layer in model.modules()] == [type(layer) for layer in network().modules()]
    assert list(model.state_dict()) == list(network().state_dict())
    torch.testing.assert_close(model(images()), want)
    assert not any(layer.training for layer in model.modules())
    torch.testing.assert_close(model[0].weight, naive(weight, 1e-5, True, True).float())


def test_checkpointing_recomputes_to_the_same_gradients():
    from torch.utils.checkpoint import checkpoint

    model, other = to_weight_standardized(network()), to_weight_standardized(network())
    checkpoint(model, images(), use_reentrant=False).square().sum().backward()
    other(images()).square().sum().backward()
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)


def _share(rank):
    model = nn.parallel.DistributedDataParallel(to_weight_standardized(network()))
    y = model(images()[3 * rank : 3 * rank + 3])
    F.mse_loss(y, torch.zeros_like(y)).backward()
    return {"y": y.detach(), "grads": [p.grad for p in model.parameters()]}


def test_two_processes_give_the_outputs_and_gradients_of_one_on_the_joined_batch(tmp_path):
    found = on_two_ranks(_share, tmp_path)
    model = to_weight_standardized(network())
    y = model(images())
    F.mse_loss(y, torch.zeros_like(y)).backward()
    torch.testing.assert_close(torch.cat([part["y"] for part in found]), y.detach())
    for part in found:
        for ours, p in zip(part["grads"], model.parameters(), strict=True):
            torch.testing.assert_close(ours, p.grad)
