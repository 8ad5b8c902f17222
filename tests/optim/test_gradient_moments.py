"""Per-sample gradients against one backward a sample; their moments against numpy's, however the batch is cut."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss

from assay.optim import GradientMoments, per_sample_gradients
from assay.optim.gradient_moments import OuterProducts


def network(*between):
    torch.manual_seed(0)
    body = [nn.Conv2d(2, 4, 3), *between, nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)]
    return nn.Sequential(*body).double()


def batch(samples=7):
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(samples, 2, 4, 4, generator=draw, dtype=torch.float64)
    return x, torch.randint(3, (samples,), generator=draw)


def one_by_one(model, loss, x, y):
    rows = []
    for i in range(len(x)):
        model.zero_grad()
        loss(model(x[i : i + 1]), y[i : i + 1]).backward()
        rows.append([p.grad.clone() for p in model.parameters() if p.requires_grad])
    model.zero_grad()
    return [torch.stack(column) for column in zip(*rows, strict=True)]


def test_equals_one_backward_a_sample():
    model, (x, y) = network(), batch()
    found = per_sample_gradients(model, cross_entropy, x, y)
    assert list(found) == [name for name, _ in model.named_parameters()]
    for a, b in zip(found.values(), one_by_one(model, cross_entropy, x, y), strict=True):
        torch.testing.assert_close(a, b)
    assert all(p.grad is None for p in model.parameters())


def test_their_mean_is_the_gradient_of_the_mean_loss():
    model, (x, y) = network(), batch()
    moments = GradientMoments.of(per_sample_gradients(model, cross_entropy, x, y).values())
    cross_entropy(model(x), y).backward()
    for mean, p in zip(moments.mean, model.parameters(), strict=True):
        torch.testing.assert_close(mean, p.grad)


class Mixed(nn.Module):
    """Linear layers of every kind: on one vector, on several, called twice, tied, frozen, and one never called."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.places, self.first, self.twice, self.frozen, self.last, self.idle = (nn.Linear(4, 4) for _ in range(6))
        self.tied, self.other = nn.Linear(4, 4), nn.Linear(4, 4)
        self.other.weight = self.tied.weight
        self.frozen.requires_grad_(False)
        self.double()

    def forward(self, x):
        x = self.first(self.places(x).tanh().mean(1)).tanh()
        x = self.twice(self.twice(x).tanh())
        return self.last(self.other(self.tied(self.frozen(x)).tanh()).tanh())


def test_factored_gradients_are_the_same_and_of_linear_layers_on_vectors():
    draw = torch.Generator().manual_seed(1)
    for model, x, layers in (
        (Mixed(), torch.randn(6, 3, 4, generator=draw, dtype=torch.float64), {"first.weight", "last.weight"}),
        (network(nn.Dropout(0.0)), batch(6)[0], {"4.weight"}),
        (nn.Linear(5, 3).double(), torch.randn(6, 5, generator=draw, dtype=torch.float64), {"weight"}),
    ):
        y = torch.randint(3, (6,), generator=draw)
        plain = per_sample_gradients(model, cross_entropy, x, y)
        found = per_sample_gradients(model, cross_entropy, x, y, factored=True)
        assert list(found) == list(plain)
        assert {name for name, g in found.items() if isinstance(g, OuterProducts)} == layers
        for name in plain:
            g = found[name]
            g = torch.einsum("ni,nj->nij", *g) if name in layers else g
            torch.testing.assert_close(g, plain[name])
        one, two = GradientMoments.of(found.values()), GradientMoments.of(plain.values())
        for name in ("mean", "squares"):
            torch.testing.assert_close(getattr(one, name), getattr(two, name), rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(one.products, two.products)
        assert not any(module._forward_hooks for module in model.modules())


def test_hooks_on_a_linear_layer_are_part_of_the_network():
    model = nn.Linear(5, 3).double()
    model.register_forward_pre_hook(lambda layer, args: (args[0].square(),))
    model.register_forward_hook(lambda layer, args, output: 3 * output.tanh())
    x = torch.randn(6, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    y = torch.arange(6) % 3
    found = per_sample_gradients(model, cross_entropy, x, y, factored=True)
    for a, b in zip(
        [torch.einsum("ni,nj->nij", *found["weight"]), found["bias"]],
        one_by_one(model, cross_entropy, x, y),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


def test_factored_gradients_draw_the_same_dropout_and_take_autocast():
    model = nn.Sequential(nn.Linear(4, 50), nn.Dropout(0.5), nn.Linear(50, 3))
    x, y = batch()[0].float().flatten(1)[:, :4], batch()[1]
    plain = per_sample_gradients(model, cross_entropy, x, y)
    found = per_sample_gradients(model, cross_entropy, x, y, factored=True)
    torch.testing.assert_close(found["0.bias"], plain["0.bias"])
    torch.testing.assert_close(torch.einsum("ni,nj->nij", *found["2.weight"]), plain["2.weight"])
    with torch.autocast("cpu", torch.bfloat16):
        mixed = per_sample_gradients(model, cross_entropy, x, y, factored=True)
    moments, full = GradientMoments.of(mixed.values()), GradientMoments.of(plain.values())
    for a, b in zip(moments.mean + moments.squares, full.mean + full.squares, strict=True):
        assert a.dtype == torch.float32
        assert (a - b).norm() < 0.05 * b.norm()


def test_frozen_parameters_have_none():
    model, (x, y) = network(), batch()
    model[0].requires_grad_(False)
    assert list(per_sample_gradients(model, cross_entropy, x, y)) == ["3.weight", "3.bias"]


def test_inputs_may_be_nested():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, x):
            return self.layer(x["a"]) * x["b"][0]

    model, (a, b) = Two(), torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    y = torch.zeros(5, 2)
    found = per_sample_gradients(model, mse_loss, {"a": a, "b": [b[:, :2]]}, y)
    total = mse_loss(model({"a": a[3:4], "b": [b[3:4, :2]]}), y[3:4])
    wanted = torch.autograd.grad(total, list(model.parameters()))
    torch.testing.assert_close([g[3] for g in found.values()], list(wanted))


def test_batch_norm_is_taken_with_its_running_statistics_and_said():
    model, (x, y) = network(nn.BatchNorm2d(4)), batch()
    model(x)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    with pytest.warns(UserWarning, match="batch norm with its running statistics"):
        found = per_sample_gradients(model, cross_entropy, x, y)
    assert all(module.training for module in model.modules())
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    model.eval()
    for a, b in zip(found.values(), one_by_one(model, cross_entropy, x, y), strict=True):
        torch.testing.assert_close(a, b)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        per_sample_gradients(model, cross_entropy, x, y)


def test_batch_norm_without_running_statistics_normalises_each_sample_by_itself():
    model, (x, y) = network(nn.BatchNorm2d(4, track_running_stats=False)), batch()
    found = per_sample_gradients(model, cross_entropy, x, y)
    for a, b in zip(found.values(), one_by_one(model, cross_entropy, x, y), strict=True):
        torch.testing.assert_close(a, b)


def test_dropout_draws_for_every_sample_and_leaves_the_generator_alone():
    model = nn.Sequential(nn.Dropout(0.5), nn.Linear(50, 1))
    x, y = torch.ones(6, 50), torch.zeros(6, 1)
    before = torch.get_rng_state()
    found = per_sample_gradients(model, lambda out, y: (out - y).sum(), x, y)["1.weight"]
    assert torch.equal(torch.get_rng_state(), before)
    assert set(found.unique().tolist()) == {0.0, 2.0}
    assert len({tuple(row) for row in found.flatten(1).tolist()}) == 6


def test_bfloat16_autocast_gives_gradients_near_those_of_float32():
    model, (x, y) = network().float(), batch()
    full = per_sample_gradients(model, cross_entropy, x.float(), y)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = per_sample_gradients(model, cross_entropy, x.float(), y)
    for a, b in zip(mixed.values(), full.values(), strict=True):
        assert a.dtype == torch.float32
        assert (a - b).norm() < 0.05 * b.norm()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda_equals_the_cpu_and_leaves_its_generator_alone():
    model, (x, y) = network(nn.Dropout(0.0)), batch()
    wanted = per_sample_gradients(model, cross_entropy, x, y)
    before = torch.cuda.get_rng_state()
    found = per_sample_gradients(model.cuda(), cross_entropy, x.cuda(), y.cuda())
    assert torch.equal(torch.cuda.get_rng_state(), before)
    for name, g in found.items():
        torch.testing.assert_close(g.cpu(), wanted[name])


def drawn(samples=23):
    draw = torch.Generator().manual_seed(2)
    return [1e3 + torch.randn((samples, *shape), generator=draw, dtype=torch.float64) for shape in ((3, 2), (), (4,))]


@pytest.mark.parametrize("parts", [[23], [20, 3], [1] * 23, [5, 1, 9, 8]])
def test_moments_are_those_of_the_whole_batch_however_it_was_cut(parts):
    grads, moments = drawn(), GradientMoments()
    pieces = list(zip(*(g.split(parts) for g in grads), strict=True))
    for piece in pieces:
        moments.update(piece)
    for piece in pieces:
        moments.project(piece)
    assert moments.samples == 23
    for i, g in enumerate(grads):
        np.testing.assert_allclose(moments.mean[i], g.numpy().mean(0), rtol=1e-13)
        np.testing.assert_allclose(moments.squares[i], g.numpy().var(0) * 23, rtol=1e-9)
        assert moments.variances()[i].item() == pytest.approx(g.numpy().var(0, ddof=1).sum(), rel=1e-9)
        assert moments.mean_squares()[i].item() == pytest.approx((g.numpy().mean(0) ** 2).sum(), rel=1e-12)
        products = (g.numpy().reshape(23, -1) * g.numpy().mean(0).ravel()).sum(1)
        np.testing.assert_allclose(moments.products[:, i], products, rtol=1e-12)


def test_moments_of_two_devices_join_to_those_of_all():
    grads = drawn()
    one, two = (GradientMoments.of([g[rows] for g in grads]) for rows in (slice(9), slice(9, None)))
    kept = [t.clone() for t in two.squares]
    one.merge(two)
    torch.testing.assert_close(one.squares, GradientMoments.of(grads).squares, rtol=1e-9, atol=0)
    assert all(map(torch.equal, two.squares, kept))
    with pytest.raises(ValueError, match=r"must be given the 23 samples of update\(\), got 0"):
        one.products  # noqa: B018


def test_half_precision_is_held_in_float32():
    grads = [g.bfloat16() for g in drawn()]
    moments = GradientMoments.of(grads)
    torch.testing.assert_close(moments.mean, [g.float().mean(0) for g in grads])
    assert moments.squares[0].dtype == torch.float32


def test_what_cannot_be_counted_is_refused():
    moments = GradientMoments()
    with pytest.raises(ValueError, match="gradients of a parameter, got none"):
        moments.update([])
    with pytest.raises(ValueError, match="one or more, got 0 and 0"):
        moments.update([torch.zeros(0, 3)])
    with pytest.raises(ValueError, match="one or more, got 3 and 4"):
        moments.update([torch.zeros(3, 2), torch.zeros(4, 2)])
    with pytest.raises(ValueError, match="needs at least 2 samples, got 0"):
        moments.degrees()
