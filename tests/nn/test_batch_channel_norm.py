import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from ranks import on_two_ranks
from torch import nn

from assay.nn.batch_channel_norm import (
    BatchChannelNorm,
    ChannelNorm,
    EstimatedBatchNorm,
    to_batch_channel_norm,
    to_group_norm,
)
from assay.nn.ghost_batch_norm import GhostBatchNorm

SHAPES = [(4, 6), (4, 6, 5), (4, 6, 3, 2), (4, 6, 2, 3, 2)]
PLAIN = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


def draw(*shape, seed=0, dtype=torch.float64):
    return (2 * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype) + 1).requires_grad_()


def randomised(layer):
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in layer.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=p.dtype))
    return layer


def dims_of(shape):
    return max(len(shape) - 2, 1)


def by_channel(values, x):
    return values.view(1, -1, *[1] * (x.ndim - 2))


def axes_of(x):
    return [0, *range(2, x.ndim)]


@pytest.mark.parametrize(("case", "estimate"), [("bcn0", False), ("bcn1", True)])
def test_reference_vectors(vectors, case, estimate):
    data = np.load(vectors / "ws-bcn.npz", allow_pickle=False)

    def read(name):
        return torch.from_numpy(data[f"{case}_{name}"])

    x = torch.from_numpy(data["x"])
    rate = float(data["moving_speed"]) if estimate else 0.1
    settings = {"estimate": estimate, "update_rate": rate, "dtype": torch.float64}
    layer = BatchChannelNorm(x.shape[1], int(data[f"{case}_groups"]), **settings)
    with torch.no_grad():
        layer.batch_norm.weight.copy_(read("gamma_b"))
        layer.batch_norm.bias.copy_(read("beta_b"))
        layer.channel_norm.weight.copy_(read("gamma_c"))
        layer.channel_norm.bias.copy_(read("beta_c"))
    third = (1.3 * x.flip(0) - 0.7).requires_grad_()
    outputs = [layer(x), layer(0.6 * x + 1), layer(third)]
    y = outputs[-1]
    loss = (y * (0.7 * torch.arange(y.numel(), dtype=torch.float64)).sin().view_as(y)).sum()
    gradients = torch.autograd.grad(loss, (third, layer.channel_norm.weight, layer.batch_norm.weight))
    found = {
        "y_train": torch.stack(outputs), "rm": layer.batch_norm.running_mean, "rv": layer.batch_norm.running_var,
        **dict(zip(("dx3", "dgamma_c3", "dgamma_b3"), gradients, strict=True)), "y_eval": layer.eval()(x),
    }  # fmt: skip
    for name, got in found.items():
        torch.testing.assert_close(got.detach(), read(name), rtol=0, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}")


# Estimates ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rate", [0.0, 0.1, 0.7, 1.0])
def test_estimates_follow_the_definition(shape, rate):
    layer = randomised(EstimatedBatchNorm(6, rate, dtype=torch.float64))
    mean, var = torch.zeros(6, dtype=torch.float64), torch.ones(6, dtype=torch.float64)
    for seed in range(3):
        x = draw(*shape, seed=seed)
        y = layer(x)
        of_batch = x.detach().mean(axes_of(x))
        around_old = ((x.detach() - by_channel(mean, x)) ** 2).mean(axes_of(x))
        mean, var = (1 - rate) * mean + rate * of_batch, (1 - rate) * var + rate * around_old
        want = by_channel(layer.weight, x) * (x - by_channel(mean, x)) / by_channel((var + 1e-5).sqrt(), x)
        torch.testing.assert_close(y, want + by_channel(layer.bias, x))
        torch.testing.assert_close(layer.running_mean, mean)
        torch.testing.assert_close(layer.running_var, var)
    assert layer.num_batches_tracked == 3
    torch.testing.assert_close(layer.eval()(x), y)


def test_at_rate_one_from_a_centred_start_it_is_batch_norm_without_gradient_through_the_statistics():
    x = draw(4, 6, 3, 2)
    layer, plain = EstimatedBatchNorm(6, 1.0, dtype=torch.float64), nn.BatchNorm2d(6, dtype=torch.float64)
    layer.running_mean.copy_(x.detach().mean((0, 2, 3)))
    y = layer(x)
    torch.testing.assert_close(y, plain(x))
    (gradient,) = torch.autograd.grad(y.sum(), x)
    deviation = (x.detach().var((0, 2, 3), correction=0) + 1e-5).sqrt()
    torch.testing.assert_close(gradient, (1 / by_channel(deviation, x)).expand_as(x))


def test_at_rate_zero_batch_channel_norm_is_group_norm():
    x = draw(4, 6, 3, 2)
    layer = BatchChannelNorm(6, 3, estimate=True, update_rate=0.0, dtype=torch.float64)
    torch.testing.assert_close(layer(x), F.group_norm(x, 3, eps=1e-5), rtol=1e-4, atol=0)  # eps comes in twice


@pytest.mark.parametrize("shape", [(1, 6), (1, 6, 1, 1)])
def test_a_single_sample_of_one_place_trains_by_estimates(shape):
    layer, x = EstimatedBatchNorm(6), draw(*shape, dtype=torch.float32)
    layer(x).square().sum().backward()
    assert x.grad.isfinite().all()
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        PLAIN[dims_of(shape)](6)(x)


def test_two_forwards_before_backward_give_the_gradients_of_their_own_statistics():
    x, other = draw(3, 6, 2, 2), draw(3, 6, 2, 2, seed=1)
    layer = randomised(EstimatedBatchNorm(6, 0.5, dtype=torch.float64))
    y = layer(x)
    (want,) = torch.autograd.grad(y.square().sum(), x, retain_graph=True)
    layer(other)
    (got,) = torch.autograd.grad(y.square().sum(), x)
    assert torch.equal(got, want)


@pytest.mark.parametrize("estimate", [True, False])
def test_evaluation_repeats_itself_and_leaves_the_buffers(estimate):
    layer = randomised(BatchChannelNorm(6, 3, estimate=estimate, dtype=torch.float64))
    layer(draw(4, 6, 3, 2))
    state, x = copy.deepcopy(layer.state_dict()), draw(4, 6, 3, 2, seed=1)
    assert torch.equal(layer.eval()(x), layer(x))
    assert all(torch.equal(value, state[name]) for name, value in layer.state_dict().items())


@pytest.mark.parametrize("estimate", [True, False])
def test_a_state_dict_from_the_middle_of_training_goes_on_alike(estimate):
    layer = randomised(BatchChannelNorm(6, 3, estimate=estimate))
    layer(draw(4, 6, 3, 2, dtype=torch.float32))
    other = BatchChannelNorm(6, 3, estimate=estimate)
    other.load_state_dict(layer.state_dict())
    for seed in (1, 2):
        x = draw(4, 6, 3, 2, seed=seed, dtype=torch.float32)
        assert torch.equal(layer(x), other(x))
    assert torch.equal(layer.batch_norm.running_var, other.batch_norm.running_var)


def test_state_goes_into_and_comes_from_torchs_layer():
    plain, layer = nn.BatchNorm2d(6), EstimatedBatchNorm(6)
    plain(draw(4, 6, 3, 2, dtype=torch.float32))
    layer.load_state_dict(plain.state_dict())
    x = draw(4, 6, 3, 2, seed=1, dtype=torch.float32)
    torch.testing.assert_close(layer.eval()(x), plain.eval()(x))
    plain.load_state_dict(layer.state_dict())


# The channel part ---------------------------------------------------------------------------------------------------


def naive_channel_norm(x, groups, weight, bias, eps):
    y = torch.empty_like(x)
    size = x.shape[1] // groups
    for n in range(len(x)):
        for g in range(groups):
            block = x[n, g * size : (g + 1) * size]
            mean = block.sum() / block.numel()
            var = ((block - mean) ** 2).sum() / block.numel()
            y[n, g * size : (g + 1) * size] = weight[g] * (block - mean) / (var + eps) ** 0.5 + bias[g]
    return y


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("groups", [1, 2, 3])
def test_channel_norm_normalises_each_group_and_has_one_gain_a_group(shape, groups):
    layer, x = randomised(ChannelNorm(6, groups, eps=0.1, dtype=torch.float64)), draw(*shape)
    assert [p.shape for p in layer.parameters()] == [(groups,), (groups,)]
    torch.testing.assert_close(layer(x), naive_channel_norm(x, groups, layer.weight, layer.bias, 0.1))


def test_as_many_groups_as_channels_is_instance_norm_and_one_group_is_layer_norm():
    x = draw(4, 6, 3, 2)
    torch.testing.assert_close(ChannelNorm(6, 6, dtype=torch.float64)(x), F.instance_norm(x))
    torch.testing.assert_close(ChannelNorm(6, 1, dtype=torch.float64)(x), F.layer_norm(x, x.shape[1:]))


def test_a_gain_a_channel_is_torchs_group_norm():
    layer = randomised(ChannelNorm(6, 3, per_channel_affine=True, dtype=torch.float64))
    plain, x = nn.GroupNorm(3, 6, dtype=torch.float64), draw(4, 6, 3, 2)
    plain.load_state_dict(layer.state_dict())
    torch.testing.assert_close(layer(x), plain(x))


@pytest.mark.parametrize("shape", SHAPES)
def test_without_its_channel_part_the_batch_form_is_batch_norm(shape):
    layer, plain = BatchChannelNorm(6, 3, dims=dims_of(shape)), PLAIN[dims_of(shape)](6)
    layer.channel_norm = nn.Identity()
    x = draw(*shape, dtype=torch.float32)
    assert torch.equal(layer(x), plain(x))
    assert torch.equal(layer.batch_norm.running_var, plain.running_var)


@pytest.mark.parametrize("estimate", [True, False])
@pytest.mark.parametrize("per_channel_affine", [True, False])
def test_gradients_of_first_and_second_order(estimate, per_channel_affine):
    settings = {"estimate": estimate, "per_channel_affine": per_channel_affine, "eps": 0.1, "dtype": torch.float64}
    layer = randomised(BatchChannelNorm(4, 2, update_rate=0.0, **settings))
    layer.train(not estimate)  # by finite differences the statistics would move as well

    def f(x, *parameters):
        named = dict(zip(dict(layer.named_parameters()), parameters, strict=True))
        return torch.func.functional_call(layer, named, x)

    inputs = (draw(2, 4, 2, 1), *layer.parameters())
    assert torch.autograd.gradcheck(f, inputs)
    assert torch.autograd.gradgradcheck(f, inputs)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BatchChannelNorm(6, 4), "num_groups must divide the 6 channels, got 4"),
        (lambda: ChannelNorm(6, 0), "num_groups must divide the 6 channels, got 0"),
        (lambda: EstimatedBatchNorm(6, 1.1), r"update_rate must lie in \[0, 1\], got 1.1"),
        (lambda: EstimatedBatchNorm(6, float("nan")), r"update_rate must lie in \[0, 1\], got nan"),
        (lambda: BatchChannelNorm(6, 3, update_rate=-0.1), r"update_rate must lie in \[0, 1\], got -0.1"),
        (lambda: ChannelNorm(6, 6)(torch.ones(2, 6, 1, 1)), r"more than one value a sample, got .*\(2, 6, 1, 1\)"),
    ],
)
def test_bad_settings_are_refused_by_name(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_dims_beyond_torchs_layers_are_refused():
    with pytest.raises((ValueError, TypeError), match="dims"):  # the checks of types may come first
        BatchChannelNorm(6, 3, dims=4)


@pytest.mark.parametrize("estimate", [True, False])
def test_autocast_keeps_float32_statistics_and_parameters(estimate):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 6, 3), BatchChannelNorm(6, 3, estimate=estimate), nn.ReLU(), nn.Conv2d(6, 2, 2))
    full, x = copy.deepcopy(model), torch.randn(4, 3, 6, 6)
    with torch.autocast("cpu", torch.bfloat16):
        y = model(x)
    assert y.dtype == torch.bfloat16
    want = full(x)
    torch.testing.assert_close(y.float(), want, rtol=0.05, atol=0.05)
    y.float().square().mean().backward()
    want.square().mean().backward()
    assert model[1].batch_norm.running_mean.dtype == torch.float32
    torch.testing.assert_close(model[1].batch_norm.running_var, full[1].batch_norm.running_var, rtol=0.02, atol=0.02)
    for p, q in zip(model.parameters(), full.parameters(), strict=True):
        assert p.grad.dtype == torch.float32
        assert (p.grad - q.grad).norm() <= 0.05 * q.grad.norm() + 0.02


@pytest.mark.skipif(hasattr(ChannelNorm.forward, "__wrapped__"), reason="the checks of shapes break the graph")
@pytest.mark.parametrize("estimate", [True, False])
def test_compiles_without_a_graph_break(estimate):
    layer = randomised(BatchChannelNorm(6, 3, estimate=estimate))
    eager = copy.deepcopy(layer)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    for seed in range(2):
        x = draw(4, 6, 3, 2, seed=seed, dtype=torch.float32)
        torch.testing.assert_close(compiled(x), eager(x))
    torch.testing.assert_close(layer.batch_norm.running_var, eager.batch_norm.running_var)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("estimate", [True, False])
def test_cuda_equals_the_cpu(estimate):
    layer = randomised(BatchChannelNorm(6, 3, estimate=estimate, dtype=torch.float64))
    other, x = copy.deepcopy(layer).cuda(), draw(4, 6, 3, 2)
    torch.testing.assert_close(other(x.detach().cuda()).cpu(), layer(x))
    torch.testing.assert_close(other.batch_norm.running_var.cpu(), layer.batch_norm.running_var)


# Surgery ------------------------------------------------------------------------------------------------------------


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4, eps=1e-3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 6),
        nn.BatchNorm1d(6, momentum=0.3), nn.Linear(6, 2),
    )  # fmt: skip


def images(n=6):
    return torch.randn(n, 3, 4, 4, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("estimate", [True, False])
def test_surgery_keeps_the_batch_norms_parameters_buffers_and_settings(estimate):
    model = network()
    model(images())
    layers, outputs = [model[1], model[5]], [model[:2].eval()(images()), None]
    tensors = [[*layer.parameters(), *layer.buffers()] for layer in layers]
    model.train()
    assert to_batch_channel_norm(model, 2, estimate=estimate) is model
    for i, old in zip((1, 5), tensors, strict=True):
        part = model[i].batch_norm
        assert all(a is b for a, b in zip([*part.parameters(), *part.buffers()], old, strict=True))
        assert (part.eps, part.momentum) == (layers[(i - 1) // 4].eps, layers[(i - 1) // 4].momentum)
        assert part.training
    assert isinstance(model[1].batch_norm, EstimatedBatchNorm) == estimate
    got = model[:2].eval()(images())
    torch.testing.assert_close(got, F.group_norm(outputs[0], 2, eps=1e-3))


def test_surgery_sets_the_update_rate_and_again_changes_nothing():
    model = to_batch_channel_norm(network(), 2, estimate=True, update_rate=0.7)
    assert [model[i].batch_norm.momentum for i in (1, 5)] == [0.7, 0.7]
    layers = list(model.modules())
    assert list(to_batch_channel_norm(model, 2, estimate=True).modules()) == layers
    model = to_batch_channel_norm(network(), 2, update_rate=0.7)
    assert [model[i].batch_norm.momentum for i in (1, 5)] == [0.7, 0.7]
    layers = list(model.modules())
    assert list(to_batch_channel_norm(model, 2).modules()) == layers


def test_surgery_wraps_other_kinds_of_batch_norm_and_sync_batch_norm_finds_its_own():
    model = to_batch_channel_norm(nn.Sequential(GhostBatchNorm(4, 2), nn.BatchNorm2d(4)), 2)
    assert type(model[0].batch_norm) is GhostBatchNorm
    model = nn.SyncBatchNorm.convert_sync_batchnorm(to_batch_channel_norm(nn.Sequential(nn.BatchNorm2d(4)), 2))
    assert type(model[0].batch_norm) is nn.SyncBatchNorm
    assert isinstance(model[0].channel_norm, ChannelNorm)
    estimates = to_batch_channel_norm(nn.Sequential(nn.BatchNorm2d(4)), 2, estimate=True)
    assert type(nn.SyncBatchNorm.convert_sync_batchnorm(estimates)[0].batch_norm) is EstimatedBatchNorm


@pytest.mark.parametrize("convert", [to_batch_channel_norm, to_group_norm])
def test_surgery_refuses_what_it_cannot_treat_and_leaves_the_model(convert):
    model = network()
    with pytest.raises(ValueError, match="layer '5': num_groups must divide the 6 channels, got 4"):
        convert(model, 4)
    assert [type(layer) for layer in model] == [type(layer) for layer in network()]
    convert(model, 4, exclude="5")
    assert type(model[5]) is nn.BatchNorm1d
    with pytest.raises(ValueError, match="must hold a BatchNorm layer"):
        convert(nn.Linear(2, 2))


def test_estimates_need_running_statistics_to_go_on_from():
    with pytest.raises(ValueError, match="layer '0' has no running statistics"):
        to_batch_channel_norm(nn.Sequential(nn.BatchNorm2d(4, track_running_stats=False)), 2, estimate=True)


def test_group_norm_takes_over_gains_biases_and_eps():
    model = randomised(network())
    parameters = list(model.parameters())
    assert to_group_norm(model, 2) is model
    assert all(p is q for p, q in zip(parameters, model.parameters(), strict=True))
    assert [type(model[i]) for i in (1, 5)] == [nn.GroupNorm] * 2
    x = images()
    want = F.group_norm(model[0](x), 2, parameters[2], parameters[3], 1e-3)
    assert torch.equal(model[:2](x), want)
    layers = list(model.modules())
    assert list(to_group_norm(model, 2).modules()) == layers


def _share(rank, estimate):
    model = nn.parallel.DistributedDataParallel(to_batch_channel_norm(network(), 2, estimate=estimate))
    share = images()[3 * rank : 3 * rank + 3]
    y = model(share)
    y.square().mean().backward()
    state = copy.deepcopy(model.module.state_dict())
    again = model(share)
    found = {"y": y.detach(), "again": again.detach(), "state": state}
    return found | {"grads": [p.grad for p in model.parameters()]}


def test_two_processes_keep_estimates_of_their_own_and_average_the_gradients(tmp_path):
    found = on_two_ranks(_share, tmp_path, True)
    models = []
    for rank, part in enumerate(found):
        model = to_batch_channel_norm(network(), 2, estimate=True)
        y = model(images()[3 * rank : 3 * rank + 3])
        y.square().mean().backward()
        torch.testing.assert_close(part["y"], y.detach())
        for name, value in model.state_dict().items():
            torch.testing.assert_close(part["state"][name], value)
        models.append(model)
    for i, (p, q) in enumerate(zip(models[0].parameters(), models[1].parameters(), strict=True)):
        for part in found:
            torch.testing.assert_close(part["grads"][i], (p.grad + q.grad) / 2)
    # the second forward begins with rank 0's buffers, on both
    torch.testing.assert_close(found[1]["again"], models[0](images()[3:]).detach())
