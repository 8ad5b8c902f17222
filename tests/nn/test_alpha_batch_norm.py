import copy
from datetime import timedelta

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from torch import nn

from assay.nn.alpha_batch_norm import AlphaBatchNorm, alpha_batch_norm, alpha_bn
from assay.nn.core_adapter import CoreAdapter
from assay.nn.ghost_batch_norm import to_ghost_batch_norm

PLAIN = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
SHAPES = [(6, 5), (6, 5, 3), (6, 5, 4, 3), (6, 5, 2, 3, 2)]
PURE = hasattr(alpha_batch_norm, "__wrapped__")


def draw(shape, seed=0, dtype=torch.float64):
    return 3 * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype) + 1


def trained(layer):
    """`layer` as training might have left it."""
    with torch.no_grad():
        for i, p in enumerate(layer.parameters()):
            p.copy_(draw(p.shape, 10 + i))
        if layer.running_mean is not None:
            layer.running_mean.copy_(draw(layer.running_mean.shape, 20))
            layer.running_var.copy_(draw(layer.running_var.shape, 21).square())
    return layer.eval()


def plain(shape, **settings):
    return trained(PLAIN[max(len(shape) - 2, 1)](shape[1], dtype=torch.float64, **settings))


def by_hand(x, layer, alpha, correction=0):
    """The definition, channel by channel."""
    y = np.empty(x.shape)
    for c in range(x.shape[1]):
        v = x[:, c].numpy()
        mu = alpha * layer.running_mean[c].item() + (1 - alpha) * v.mean()
        var = alpha * layer.running_var[c].item() + (1 - alpha) * v.var(ddof=correction)
        gamma, beta = (1, 0) if layer.weight is None else (layer.weight[c].item(), layer.bias[c].item())
        y[:, c] = gamma * (v - mu) / np.sqrt(var + layer.eps) + beta
    return torch.from_numpy(y)


def network(dtype=torch.float32):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 6),
        nn.BatchNorm1d(6), nn.Unflatten(1, (6, 1, 1, 1)), nn.BatchNorm3d(6), nn.Flatten(),
    ).to(dtype)  # fmt: skip
    for layer in model:
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            trained(layer)
    return model.eval()


def states(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_same_bits(model, state):
    found = model.state_dict()
    assert list(found) == list(state)
    assert all(torch.equal(found[name], state[name]) for name in state)


# The layer --------------------------------------------------------------------------------------------------------


def test_reference_vectors(vectors):
    data = np.load(vectors / "alpha-bn.npz", allow_pickle=False)
    state = {name[4:]: torch.from_numpy(np.asarray(data[name])) for name in data if name.startswith("net_")}
    a, b, k = len(state["0.weight"]), len(state["3.0.weight"]), len(state["7.weight"])
    model = nn.Sequential(
        nn.Conv2d(3, a, 3, padding=1), nn.BatchNorm2d(a), nn.ReLU(),
        nn.Sequential(nn.Conv2d(a, b, 3, stride=2, padding=1), nn.BatchNorm2d(b, eps=1e-3)),
        nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(b, k),
    ).double().eval()  # fmt: skip
    model.load_state_dict(state)
    x = torch.from_numpy(data["x"])
    torch.testing.assert_close(model(x), torch.from_numpy(data["logits_source"]), rtol=0, atol=1e-10)
    for grad in (True, False):  # with gradients it is computed another way
        for i, target in enumerate(data["weights_target"]):
            with alpha_bn(model, 1 - float(target), unbiased=True) as adapted, torch.set_grad_enabled(grad):
                for part, name in ((x, "logits"), (x[:1], "logits_first_image_alone")):
                    want = torch.from_numpy(data[name][i])
                    torch.testing.assert_close(adapted(part).detach(), want, rtol=0, atol=1e-10)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.9, 1.0])
@pytest.mark.parametrize("settings", [{}, {"affine": False}, {"eps": 0.5}])
@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize("grad", [False, True])
def test_equals_the_definition_channel_by_channel(shape, alpha, settings, unbiased, grad):
    layer = plain(shape, **settings)
    x = draw(shape)
    want = by_hand(x, layer, alpha, int(unbiased))
    with torch.set_grad_enabled(grad):  # each way has its own arithmetic
        found = AlphaBatchNorm(layer, alpha, unbiased=unbiased)(x.requires_grad_())
    torch.testing.assert_close(found.detach(), want)
    assert found.requires_grad == grad


@pytest.mark.parametrize("shape", SHAPES)
def test_alpha_one_is_plain_evaluation_to_the_bit(shape):
    layer, x = plain(shape), draw(shape)
    assert torch.equal(AlphaBatchNorm(layer, 1.0)(x), layer(x))


@pytest.mark.parametrize("shape", SHAPES)
def test_alpha_zero_is_training_batch_norm_without_its_buffers(shape):
    layer, x = plain(shape), draw(shape)
    want = F.batch_norm(x, None, None, layer.weight, layer.bias, True, 0.0, layer.eps)
    assert torch.equal(AlphaBatchNorm(layer, 0.0)(x), want)


def test_alpha_zero_forgets_the_scale_and_shift_of_every_channel():
    layer = AlphaBatchNorm(plain((6, 5, 4, 3), eps=1e-12), 0.0)
    x = draw((6, 5, 4, 3))
    moved = x * draw((5, 1, 1), 1).abs() + draw((5, 1, 1), 2)
    torch.testing.assert_close(layer(moved), layer(x))
    layer.alpha = 0.5
    assert not torch.allclose(layer(moved), layer(x), atol=0.1)


@pytest.mark.parametrize("shape", [(4, 2), (4, 2, 3), (4, 2, 2, 1), (1, 2, 3, 2)])
@pytest.mark.parametrize("alpha", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("unbiased", [False, True])
def test_gradients_of_first_and_second_order(shape, alpha, unbiased):
    mean, var = draw((2,), 3), draw((2,), 4).square()
    x, weight, bias = (draw(s, i).requires_grad_() for i, s in enumerate((shape, (2,), (2,))))

    def f(x, weight, bias):
        return alpha_batch_norm(x, mean, var, weight, bias, alpha, eps=0.1, unbiased=unbiased)

    assert torch.autograd.gradcheck(f, (x, weight, bias), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(f, (x, weight, bias))


@pytest.mark.parametrize("alpha", [0.1, 0.9])
def test_a_batch_of_one_is_allowed_where_there_is_something_to_mix(alpha):
    layer, x = plain((1, 5)), draw((1, 5))
    torch.testing.assert_close(AlphaBatchNorm(layer, alpha)(x).detach(), by_hand(x, layer, alpha))
    pictures, y = plain((1, 5, 4, 3)), draw((1, 5, 4, 3))
    for weight in (0.0, alpha):
        torch.testing.assert_close(AlphaBatchNorm(pictures, weight)(y).detach(), by_hand(y, pictures, weight))


@pytest.mark.parametrize(
    ("shape", "alpha", "unbiased"),
    [((1, 5), 0.0, False), ((1, 5), 0.0, True), ((1, 5), 0.5, True), ((0, 5), 0.5, False)],
)
def test_too_few_values_for_their_statistics_are_refused(shape, alpha, unbiased):
    with pytest.raises(ValueError, match="more values a channel"):
        AlphaBatchNorm(plain((2, 5)), alpha, unbiased=unbiased)(draw(shape))


def test_a_batch_that_is_not_finite_leaves_nothing_behind():
    layer = AlphaBatchNorm(plain((6, 5, 4, 3)), 0.5)
    x = draw((6, 5, 4, 3))
    want, state = layer(x), states(layer)
    layer(x * float("nan"))
    layer(x * float("inf"))
    assert_same_bits(layer, state)
    assert torch.equal(layer(x), want)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("grad", [False, True])
def test_bfloat16_input_keeps_float32_statistics(alpha, affine, grad):
    layer = AlphaBatchNorm(trained(nn.BatchNorm2d(5, affine=affine)), alpha)
    x = draw((6, 5, 4, 3), dtype=torch.float32).bfloat16()
    want = layer(x.float()).detach()
    with torch.set_grad_enabled(grad):
        found = layer(x)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.detach(), want.bfloat16(), rtol=0.01, atol=0.02)  # one rounding to bfloat16


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("grad", [False, True])
def test_a_layer_moved_to_another_dtype_works_there(dtype, grad):
    layer = AlphaBatchNorm(trained(nn.BatchNorm2d(5)), 0.5).to(dtype)
    x = draw((6, 5, 4, 3)).to(dtype)
    with torch.set_grad_enabled(grad):
        found = layer(x).detach()
    assert found.dtype == dtype
    want = by_hand(x.double(), layer.double(), 0.5)
    torch.testing.assert_close(found.double(), want, rtol=0.02 if dtype == torch.bfloat16 else 1e-12, atol=0.05)


@pytest.mark.skipif(PURE, reason="the checks of shapes break the graph")
@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("grad", [False, True])
def test_compiles_without_a_graph_break(alpha, grad):
    layer = AlphaBatchNorm(trained(nn.BatchNorm2d(5)), alpha)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    x = draw((6, 5, 4, 3), dtype=torch.float32).requires_grad_(grad)
    with torch.set_grad_enabled(grad):
        found, want = compiled(x), layer(x)
    torch.testing.assert_close(found, want)
    if grad:
        weights = draw(want.shape, 5, torch.float32)
        torch.testing.assert_close(*(torch.autograd.grad((y * weights).sum(), x)[0] for y in (found, want)))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("grad", [False, True])
def test_cuda_equals_the_cpu(shape, grad):
    layer, x = AlphaBatchNorm(plain(shape), 0.5), draw(shape)
    with torch.set_grad_enabled(grad):
        found, want = copy.deepcopy(layer).cuda()(x.cuda()), layer(x)
    torch.testing.assert_close(found.detach().cpu(), want.detach())


@pytest.mark.parametrize(("dims", "shape"), [(1, (4, 3, 2, 2)), (2, (4, 3)), (3, (4, 3, 2, 2))])
def test_input_of_the_wrong_rank_is_refused(dims, shape):
    with pytest.raises(ValueError, match=f"axes, got {len(shape)}"):
        AlphaBatchNorm(PLAIN[dims](3), 0.5)(torch.randn(shape))


@pytest.mark.parametrize("alpha", [-0.1, 1.5, float("nan")])
def test_alpha_out_of_range_is_refused(alpha):
    for make in (AlphaBatchNorm, lambda layer, alpha: alpha_bn(nn.Sequential(layer), alpha)):
        with pytest.raises(ValueError, match=r"alpha must lie in \[0, 1\]"):
            make(nn.BatchNorm2d(3), alpha)


def test_a_layer_without_running_statistics_takes_alpha_zero_alone():
    layer = nn.BatchNorm2d(3, track_running_stats=False)
    with pytest.raises(ValueError, match=r"layer '0': alpha must be 0 for a layer without running statistics, got 0.9"):
        alpha_bn(nn.Sequential(layer))
    x = torch.randn(4, 3, 2, 2)
    assert torch.equal(AlphaBatchNorm(layer, 0.0)(x), layer(x))


# The surgery ------------------------------------------------------------------------------------------------------


def test_every_layer_is_treated_and_source_parameters_buffers_and_mode_stay():
    model = network()
    state, parameters = states(model), list(map(id, model.parameters()))
    adapted = alpha_bn(model, 0.7).model
    assert adapted is model
    assert [m.alpha for m in model.modules() if isinstance(m, AlphaBatchNorm)] == [0.7] * 3
    assert list(map(id, model.parameters())) == parameters
    for mode in (False, True):
        for seed in range(3):
            model.train(mode)(draw((6, 3, 4, 4), seed, torch.float32))
    assert_same_bits(model, state)
    network().load_state_dict(model.state_dict())
    model.load_state_dict(state)


def test_undo_restores_the_modules_themselves():
    model = network()
    before, x = list(model.modules()), draw((6, 3, 4, 4), dtype=torch.float32)
    want = model(x)
    with alpha_bn(model, 0.2) as adapted:
        assert not torch.allclose(adapted(x), want, atol=0.1)
    assert list(model.modules()) == before
    assert torch.equal(model(x), want)


def test_again_with_the_same_alpha_changes_nothing_and_with_another_that():
    model = network()
    first = alpha_bn(model, 0.7)
    layers = list(model.modules())
    assert alpha_bn(model, 0.7).replaced == {}
    assert list(model.modules()) == layers
    second = alpha_bn(model, 0.2)
    assert [m.alpha for m in model.modules() if isinstance(m, AlphaBatchNorm)] == [0.2] * 3
    second.undo()
    assert list(model.modules()) == layers
    first.undo()
    assert not any(isinstance(m, AlphaBatchNorm) for m in model.modules())


def test_alpha_by_layer_takes_the_first_name_that_fits():
    model = alpha_bn(network(), {"1": 0.9, "[17]": 0.2}).model
    assert (model[1].alpha, model[7].alpha) == (0.9, 0.2)
    assert type(model[5]) is nn.BatchNorm1d
    untouched = network()
    with pytest.raises(ValueError, match=r"alpha: 'stem.\*' fits no BatchNorm layer"):
        alpha_bn(untouched, {"stem.*": 0.5, "*": 0.5})
    assert type(untouched[1]) is nn.BatchNorm2d
    assert type(alpha_bn(network(), exclude=nn.BatchNorm1d).model[5]) is nn.BatchNorm1d


def test_synchronised_and_ghost_layers_are_treated_as_what_they_evaluate_to():
    x = draw((6, 3, 4, 4), dtype=torch.float32)
    want = alpha_bn(network(), 0.4).model(x)
    assert torch.equal(alpha_bn(to_ghost_batch_norm(network(), 2), 0.4).model(x), want)
    assert torch.equal(alpha_bn(nn.SyncBatchNorm.convert_sync_batchnorm(network()), 0.4).model(x), want)


class Activated(nn.BatchNorm2d):
    def forward(self, x):
        return super().forward(x).relu()


@pytest.mark.parametrize("layer", [nn.LazyBatchNorm2d(), Activated(3)])
def test_other_kinds_of_batch_norm_are_refused(layer):
    with pytest.raises(ValueError, match=rf"layer '0': want .* got {type(layer).__name__}; exclude it"):
        alpha_bn(nn.Sequential(layer))


def test_a_model_without_batch_norm_is_refused():
    with pytest.raises(ValueError, match="must hold a BatchNorm layer"):
        alpha_bn(nn.Linear(2, 2))


def test_a_stream_of_one_class_at_a_time_needs_the_source_statistics():
    # two classes told apart by their mean, which the statistics of a batch of one class take away
    layer = nn.BatchNorm1d(1, affine=False)
    layer.running_var.fill_(4.0)
    x = torch.cat([draw((50, 1), 0, torch.float32) / 3 - 2, draw((50, 1), 1, torch.float32) / 3 + 2])
    y = torch.arange(100) // 50
    mixed = torch.randperm(100, generator=torch.Generator().manual_seed(0))

    def accuracy(alpha, order):
        adapted = AlphaBatchNorm(layer, alpha)
        found = torch.cat([adapted(x[ids]) for ids in order.split(10)])
        return ((found[:, 0] > 0) == (y[order] == 1)).float().mean().item()

    assert accuracy(0.0, mixed) > 0.85
    assert accuracy(0.0, torch.arange(100)) < 0.7
    assert accuracy(0.9, torch.arange(100)) > 0.9


# Two processes ----------------------------------------------------------------------------------------------------


def _worker(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/rendezvous", timedelta(seconds=60), rank=rank, world_size=2)
    try:
        x = draw((12, 3, 4, 4), 3, torch.float32)[6 * rank : 6 * rank + 6]
        model = nn.parallel.DistributedDataParallel(alpha_bn(network(), 0.4).model)
        with torch.no_grad():
            mixed = model(x)
        refused = ""
        try:
            CoreAdapter(model)
        except TypeError as error:
            refused = str(error)
        adapter = CoreAdapter(network(), 0.4, lr=0.1)
        adapter(x)
        torch.save({"mixed": mixed, "adapted": adapter(x), "refused": refused}, f"{folder}/{rank}.pt")
    finally:
        dist.destroy_process_group()


def test_each_of_two_processes_mixes_and_adapts_by_its_own_share(tmp_path):
    workers = [
        mp.get_context("spawn").Process(target=_worker, args=(rank, str(tmp_path)), daemon=True) for rank in (0, 1)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=300)
        assert worker.exitcode == 0
    x = draw((12, 3, 4, 4), 3, torch.float32)
    for rank, share in enumerate(x.split(6)):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        torch.testing.assert_close(found["mixed"], alpha_bn(network(), 0.4).model(share).detach())
        alone = CoreAdapter(network(), 0.4, lr=0.1)
        alone(share)
        torch.testing.assert_close(found["adapted"], alone(share))
        assert "want its .module" in found["refused"]
