import copy

import numpy as np
import pytest
import torch
from ranks import on_two_ranks
from torch import nn
from torch.optim.swa_utils import update_bn

import assay.nn.ghost_batch_norm as ghost
from assay.nn.ghost_batch_norm import GhostBatchNorm, ghost_batch_norm, to_batch_norm, to_ghost_batch_norm

PLAIN = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
SHAPES = [(12, 5), (12, 5, 3), (12, 5, 4, 3), (12, 5, 2, 3, 2)]
PATHS = ["fold", "pieces", "measured"]


@pytest.fixture(params=PATHS)
def path(request, monkeypatch):
    """Each of the two ways to compute, and the rule that chooses between them."""
    if request.param != "measured":
        monkeypatch.setattr(ghost, "_folding_pays", lambda x, pieces: request.param == "fold")


def dims_of(shape):
    return max(len(shape) - 2, 1)


def randomised(layer):
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in layer.parameters():
            p.copy_(torch.randn(p.shape, generator=generator))
    return layer


def pair(shape, size, **settings):
    """A ghost layer, and torch's layer with the same parameters."""
    layer = randomised(GhostBatchNorm(shape[1], size, dims_of(shape), dtype=torch.float64, **settings))
    settings = {k: v for k, v in settings.items() if k in ("eps", "momentum", "affine", "track_running_stats")}
    return layer, randomised(PLAIN[dims_of(shape)](shape[1], dtype=torch.float64, **settings))


def draw(shape, seed=0, dtype=torch.float64):
    return (3 * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype) + 1).requires_grad_()


def gradients(y, x, layer):
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(7), dtype=y.dtype)
    return torch.autograd.grad((y * weights).sum(), (x, *layer.parameters()))


def assert_same_state(one, other, **tolerance):
    for (name, a), b in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, msg=lambda m, name=name: f"{name}: {m}", **tolerance)


@pytest.mark.parametrize("case", ["c0", "c1", "c2"])
@pytest.mark.parametrize(
    ("statistics", "convention"), [("sequential", "bigbatch"), ("per_step", "composer"), ("deviation", "alg1")]
)
def test_reference_vectors(vectors, case, statistics, convention, path):
    data = np.load(vectors / "ghost-batchnorm.npz")

    def read(name):
        return torch.from_numpy(data[f"{case}_{name}"])

    size, momentum, eps = data[f"{case}_cfg"]
    x = read("x")
    layer = GhostBatchNorm(
        x.shape[2], int(size), dims_of(x.shape[1:]), eps=eps, momentum=momentum, statistics=statistics,
        dtype=torch.float64,
    )  # fmt: skip
    with torch.no_grad():
        layer.weight.copy_(read("weight"))
        layer.bias.copy_(read("bias"))
        if statistics == "deviation":
            layer.running_var.fill_(1 - eps)  # the hand calculation starts from a deviation of 1
    for step in x[:-1]:
        layer(step)
    last = x[-1].clone().requires_grad_()
    y = layer(last)
    found = torch.autograd.grad((y * read("grad_y")).sum(), (last, layer.weight, layer.bias))
    for got, want in zip((y, *found), map(read, ("y_last", "grad_x_last", "grad_w", "grad_b")), strict=True):
        torch.testing.assert_close(got.detach(), want, rtol=0, atol=1e-10)
    torch.testing.assert_close(layer.running_mean, read(f"{convention}_running_mean"), rtol=0, atol=1e-10)
    if statistics == "deviation":
        deviation = (layer.running_var + eps).sqrt()
        torch.testing.assert_close(deviation, read("alg1_running_std"), rtol=0, atol=1e-10)
    else:
        torch.testing.assert_close(layer.running_var, read(f"{convention}_running_var"), rtol=0, atol=1e-10)
    if statistics == "per_step":
        torch.testing.assert_close(layer.eval()(last).detach(), read("composer_y_eval"), rtol=0, atol=1e-10)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [12, 100])
@pytest.mark.parametrize("statistics", ["sequential", "per_step"])
def test_one_piece_is_plain_batch_norm(shape, size, statistics):
    layer, plain = pair(shape, size, statistics=statistics)
    x = draw(shape)
    y, want = layer(x), plain(x)
    assert torch.equal(y, want)
    assert all(torch.equal(a, b) for a, b in zip(gradients(y, x, layer), gradients(want, x, plain), strict=True))
    assert_same_state(layer, plain, rtol=0, atol=0)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("settings", [{}, {"momentum": 0.3}, {"momentum": None}, {"affine": False}])
def test_pieces_equal_torchs_layer_on_one_piece_after_another(shape, settings, path):
    layer, plain = pair(shape, 4, **settings)
    for seed in range(3):
        x = draw(shape, seed)
        y = layer(x)
        want = torch.cat([plain(part) for part in x.split(4)])
        torch.testing.assert_close(y, want)
        for a, b in zip(gradients(y, x, layer), gradients(want, x, plain), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)
    assert_same_state(layer, plain)
    torch.testing.assert_close(layer.eval()(x), plain.eval()(x))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("momentum", [0.1, None])
def test_interleaved_pieces_are_every_kth_sample(shape, momentum):
    layer, plain = pair(shape, 4, interleaved=True, momentum=momentum)
    x = draw(shape)
    y = layer(x)
    for i in range(3):
        torch.testing.assert_close(y[i::3], plain(x[i::3]))
    assert_same_state(layer, plain)


def test_running_statistics_follow_the_closed_form_of_algorithm_1(path):
    layer = GhostBatchNorm(1, 2, 1, momentum=0.25, dtype=torch.float64)
    layer(torch.tensor([[0.0], [2.0], [3.0], [7.0]], dtype=torch.float64))
    # pieces: means 1 and 5, unbiased variances 2 and 8
    assert layer.running_mean.item() == pytest.approx(0.75**2 * 0 + 0.75 * 0.25 * 1 + 0.25 * 5)
    assert layer.running_var.item() == pytest.approx(0.75**2 * 1 + 0.75 * 0.25 * 2 + 0.25 * 8)
    assert layer.num_batches_tracked.item() == 2


def test_running_deviation_averages_the_pieces_biased_deviations(path):
    layer = GhostBatchNorm(1, 2, 1, momentum=0.25, eps=0.5, statistics="deviation", dtype=torch.float64)
    layer(torch.tensor([[0.0], [2.0], [3.0], [7.0]], dtype=torch.float64))
    run = 0.75**2 * 1.5**0.5 + 0.75 * 0.25 * 1.5**0.5 + 0.25 * 4.5**0.5
    assert (layer.running_var + 0.5).sqrt().item() == pytest.approx(run)
    x = torch.tensor([[4.0]], dtype=torch.float64)
    assert layer.eval()(x).item() == pytest.approx((4 - layer.running_mean.item()) / run)


@pytest.mark.parametrize("settings", [{}, {"statistics": "deviation"}, {"track_running_stats": False}])
def test_evaluation_is_plain_batch_norm_and_never_cuts_the_batch(settings):
    layer, plain = pair((12, 5, 2, 2), 4, **settings)
    layer(draw((12, 5, 2, 2), 1))
    plain.load_state_dict(layer.state_dict())
    x = draw((12, 5, 2, 2))
    assert torch.equal(layer.eval()(x), plain.eval()(x))


def test_each_piece_has_mean_zero_and_variance_var_over_var_plus_eps(path):
    x = draw((12, 5, 4, 3))
    y = ghost_batch_norm(x, None, None, 3, eps=0.7)
    for part, got in zip(x.split(4), y.split(4), strict=True):
        var = part.var((0, 2, 3), correction=0)
        torch.testing.assert_close(got.mean((0, 2, 3)), torch.zeros(5, dtype=torch.float64), rtol=0, atol=1e-12)
        torch.testing.assert_close(got.var((0, 2, 3), correction=0), var / (var + 0.7))


def test_permuting_within_a_piece_commutes_and_across_pieces_does_not(path):
    layer, _ = pair((8, 3), 4)
    x = draw((8, 3))
    within, across = [2, 0, 3, 1, 4, 7, 6, 5], [4, 1, 2, 3, 0, 5, 6, 7]
    torch.testing.assert_close(layer(x[within]), layer(x)[within])
    assert not torch.allclose(layer(x[across]), layer(x)[across], atol=1e-2)


@pytest.mark.parametrize("shape", [(4, 2), (4, 2, 3), (4, 2, 2, 1)])
@pytest.mark.parametrize("interleaved", [False, True])
def test_gradients_of_first_and_second_order(shape, interleaved, path):
    x, weight, bias = draw(shape), draw((2,), 1), draw((2,), 2)

    def f(x, weight, bias):
        return ghost_batch_norm(x, weight, bias, 2, eps=0.1, interleaved=interleaved)

    assert torch.autograd.gradcheck(f, (x, weight, bias))
    assert torch.autograd.gradgradcheck(f, (x, weight, bias))


@pytest.mark.parametrize(("batch", "sizes"), [(10, [4, 3, 3]), (9, [3, 3, 3]), (5, [3, 2]), (3, [3])])
@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("momentum", [0.1, None])
def test_an_uneven_batch_is_cut_into_nearly_equal_pieces(batch, sizes, interleaved, momentum, path):
    layer, plain = pair((batch, 5, 2, 2), 4, momentum=momentum, interleaved=interleaved and batch != 9)
    x = draw((batch, 5, 2, 2))
    torch.testing.assert_close(layer(x), torch.cat([plain(part) for part in x.split(sizes)]))
    assert_same_state(layer, plain)


@pytest.mark.parametrize("size", range(3, 9))
def test_no_batch_leaves_a_piece_of_a_single_sample(size):
    for batch in range(2, 200):
        assert min(ghost._sizes(batch, -(-batch // size))) >= 2
        assert sum(ghost._sizes(batch, -(-batch // size))) == batch
        assert max(ghost._sizes(batch, -(-batch // size))) <= size


@pytest.mark.parametrize("batch", [1, 4])
def test_one_value_a_channel_is_refused_as_torch_does(batch, path):
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        GhostBatchNorm(3, 1, 1)(torch.randn(batch, 3))
    GhostBatchNorm(3, 1, 2)(torch.randn(batch, 3, 2, 2))


def test_a_size_below_one_is_refused():
    with pytest.raises(ValueError, match="ghost_batch_size must be a positive whole number, got 0"):
        GhostBatchNorm(3, 0)


@pytest.mark.parametrize("settings", [{"ghost_batch_size": 2.5}, {"dims": 4}, {"statistics": "ema"}])
def test_bad_settings_are_refused_by_name(settings):
    with pytest.raises((ValueError, TypeError), match=next(iter(settings))):
        GhostBatchNorm(3, **({"ghost_batch_size": 2} | settings))


@pytest.mark.parametrize(("dims", "shape"), [(1, (4, 3, 2, 2)), (2, (4, 3)), (3, (4, 3, 2, 2))])
@pytest.mark.parametrize("training", [True, False])
def test_input_of_the_wrong_rank_is_refused(dims, shape, training):
    with pytest.raises(ValueError, match=f"for dims={dims}, got {len(shape)}"):
        GhostBatchNorm(3, 2, dims).train(training)(torch.randn(shape))


@pytest.mark.parametrize("pieces", [0, 5])
def test_more_pieces_than_samples_are_refused(pieces):
    with pytest.raises(ValueError, match=f"pieces must lie in 1..4 for a batch of 4, got {pieces}"):
        ghost_batch_norm(torch.randn(4, 3), None, None, pieces)


def test_bfloat16_keeps_float32_statistics(path):
    layer, plain = GhostBatchNorm(5, 4), nn.BatchNorm2d(5)
    x = draw((12, 5, 4, 3), dtype=torch.float32).detach().bfloat16().requires_grad_()
    y = layer(x)
    assert y.dtype == torch.bfloat16
    assert layer.running_mean.dtype == torch.float32
    torch.testing.assert_close(y, torch.cat([plain(part) for part in x.split(4)]))
    assert_same_state(layer, plain)


def test_autocast_and_gradients_through_a_network(path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2))
    full = to_ghost_batch_norm(copy.deepcopy(model), 4)
    x = torch.randn(12, 3, 6, 6)
    with torch.autocast("cpu", torch.bfloat16):
        loss = to_ghost_batch_norm(model, 4)(x).float().square().mean()
    want = full(x).square().mean()
    loss.backward()
    want.backward()
    assert all(p.grad.dtype == torch.float32 for p in model.parameters())
    torch.testing.assert_close(loss, want, rtol=0.05, atol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_layer_moved_to_another_dtype_works_there(dtype, path):
    layer, plain = GhostBatchNorm(5, 4).to(dtype), nn.BatchNorm2d(5).to(dtype)
    x = draw((12, 5, 4, 3)).to(dtype)
    torch.testing.assert_close(layer(x), torch.cat([plain(part) for part in x.split(4)]))
    assert layer.running_mean.dtype == dtype


def test_channels_last_stays_so(path):
    layer, plain = GhostBatchNorm(5, 4), nn.BatchNorm2d(5)
    x = torch.randn(12, 5, 4, 3).contiguous(memory_format=torch.channels_last)
    y = layer(x)
    assert y.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(y, torch.cat([plain(part) for part in x.split(4)]))


def test_input_that_is_not_contiguous_and_is_left_as_it_was(path):
    layer, plain = GhostBatchNorm(5, 4), nn.BatchNorm2d(5)
    x = torch.randn(5, 12, 3, 4).transpose(0, 1)
    before = x.clone()
    torch.testing.assert_close(layer(x), torch.cat([plain(part) for part in x.split(4)]))
    assert torch.equal(x, before)


@pytest.mark.skipif(hasattr(ghost_batch_norm, "__wrapped__"), reason="the checks of shapes break the graph")
@pytest.mark.parametrize("settings", [{}, {"interleaved": True}, {"statistics": "deviation"}, {"momentum": None}])
def test_compiles_without_a_graph_break(settings):
    torch.manual_seed(0)
    layer = GhostBatchNorm(5, 4, **settings)
    eager = copy.deepcopy(layer)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    x = torch.randn(12, 5, 4, 3)
    torch.testing.assert_close(compiled(x), eager(x))
    assert_same_state(layer, eager)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("statistics", ["sequential", "deviation", "per_step"])
def test_cuda_equals_the_cpu(shape, statistics):
    layer, _ = pair(shape, 4, statistics=statistics)
    other = copy.deepcopy(layer).cuda()
    x = draw(shape)
    y, z = layer(x), other(x.detach().cuda().requires_grad_())
    torch.testing.assert_close(z.cpu(), y)
    torch.testing.assert_close(other.running_var.cpu(), layer.running_var)


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 6),
        nn.BatchNorm1d(6), nn.Unflatten(1, (6, 1, 1, 1)), nn.BatchNorm3d(6),
    )  # fmt: skip


def test_to_ghost_batch_norm_treats_every_layer_and_keeps_state_and_optimizer():
    model = network()
    state, parameters = copy.deepcopy(model.state_dict()), list(map(id, model.parameters()))
    assert to_ghost_batch_norm(model, 4) is model
    assert [m.dims for m in model.modules() if isinstance(m, GhostBatchNorm)] == [2, 1, 3]
    assert list(map(id, model.parameters())) == parameters
    assert_same_state(model, network(), rtol=0, atol=0)
    network().load_state_dict(model.state_dict())
    model.load_state_dict(state)


def test_to_ghost_batch_norm_again_changes_settings_only():
    model = to_ghost_batch_norm(network(), 4)
    layers = list(model.modules())
    to_ghost_batch_norm(model, 4)
    assert list(model.modules()) == layers
    to_ghost_batch_norm(model, 8, interleaved=True)
    assert all(m.ghost_batch_size == 8 for m in model.modules() if isinstance(m, GhostBatchNorm))


def test_back_conversion_restores_torchs_layers_and_their_values():
    model = to_ghost_batch_norm(network(), 4).train()
    for _ in range(2):
        model(torch.randn(12, 3, 4, 4))
    x, parameters = torch.randn(5, 3, 4, 4), list(map(id, model.parameters()))
    want = model.eval()(x)
    assert to_batch_norm(model) is model
    assert [type(m) for m in model.modules()] == [type(m) for m in network().modules()]
    assert torch.equal(model(x), want)
    assert not any(m.training for m in model.modules())
    assert list(map(id, model.parameters())) == parameters


@pytest.mark.parametrize(
    "settings", [{"affine": False}, {"momentum": None}, {"track_running_stats": False}, {"eps": 1.0}]
)
def test_conversion_there_and_back_keeps_the_layers_settings(settings):
    plain = nn.BatchNorm2d(3, **settings)
    back = to_batch_norm(to_ghost_batch_norm(plain, 2))
    assert repr(back) == repr(plain)
    assert back.state_dict().keys() == plain.state_dict().keys()


def test_layers_can_be_excluded():
    model = to_ghost_batch_norm(network(), 4, exclude=nn.BatchNorm1d)
    assert type(model[5]) is nn.BatchNorm1d
    assert isinstance(model[1], GhostBatchNorm)


class Activated(nn.BatchNorm2d):
    def forward(self, x):
        return super().forward(x).relu()


@pytest.mark.parametrize("layer", [nn.SyncBatchNorm(3), nn.LazyBatchNorm2d(), Activated(3)])
def test_other_kinds_of_batch_norm_are_refused(layer):
    with pytest.raises(ValueError, match=f"layer '0' is a {type(layer).__name__}"):
        to_ghost_batch_norm(nn.Sequential(layer), 4)


def test_a_model_without_batch_norm_is_refused():
    with pytest.raises(ValueError, match="must hold a BatchNorm layer"):
        to_ghost_batch_norm(nn.Linear(2, 2), 4)


def test_recomputing_statistics_gives_the_plain_average_over_pieces():
    model = to_ghost_batch_norm(nn.Sequential(nn.BatchNorm1d(5)), 4)
    batches = [draw((12, 5), seed, torch.float32).detach() for seed in range(3)]
    update_bn(batches, model)
    means = torch.stack([part.mean(0) for batch in batches for part in batch.split(4)])
    torch.testing.assert_close(model[0].running_mean, means.mean(0))


def _share(rank):
    model = nn.parallel.DistributedDataParallel(to_ghost_batch_norm(network(), 3))
    x = torch.randn(12, 3, 4, 4, generator=torch.Generator().manual_seed(3))
    y = model(x[6 * rank : 6 * rank + 6])
    y.square().mean().backward()
    return {"y": y.detach(), "grads": [p.grad for p in model.parameters()], "state": model.module.state_dict()}


def test_two_processes_give_the_outputs_and_gradients_of_one_on_the_joined_batch(tmp_path):
    found = on_two_ranks(_share, tmp_path)
    model = to_ghost_batch_norm(network(), 3)
    x = torch.randn(12, 3, 4, 4, generator=torch.Generator().manual_seed(3))
    y = model(x)
    y.square().mean().backward()
    torch.testing.assert_close(torch.cat([part["y"] for part in found]), y.detach())
    for ours, p in zip(found[0]["grads"], model.parameters(), strict=True):
        torch.testing.assert_close(ours, p.grad)
    first_share = to_ghost_batch_norm(network(), 3)
    first_share(x[:6])
    torch.testing.assert_close(found[0]["state"]["1.running_mean"], first_share[1].running_mean)
