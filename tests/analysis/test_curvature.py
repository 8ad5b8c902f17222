"""Products against dense matrices of autograd, and the published vectors."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, jacrev
from torch.nn.attention import SDPBackend, sdpa_kernel

from assay.analysis.curvature import Curvature
from assay.analysis.lanczos import draw_starts, lanczos


def network(kind):
    torch.manual_seed(0)
    if kind == "conv":
        body = [nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Tanh(), nn.Flatten(), nn.Dropout(0.5), nn.Linear(8, 3)]
        return nn.Sequential(*body).double(), torch.randn(10, 1, 4, 4, dtype=torch.float64)
    layer = nn.TransformerEncoderLayer(4, 2, 6, batch_first=True)
    return nn.Sequential(layer, nn.Flatten(), nn.Linear(12, 3)).double(), torch.randn(10, 3, 4, dtype=torch.float64)


def labels(count=10):
    return torch.arange(count) % 3


def dense(model, x, y, matrix, loss=F.cross_entropy):
    """By reverse mode twice, of the network as it stands."""
    sizes = [p.numel() for p in model.parameters()]
    names = [name for name, _ in model.named_parameters()]

    def outputs(w):
        parts = w.split(sizes)
        given = {n: v.view_as(p) for n, v, p in zip(names, parts, model.parameters(), strict=True)}
        with sdpa_kernel(SDPBackend.MATH):
            return functional_call(model, given, (x,))

    w = torch.cat([p.detach().flatten() for p in model.parameters()])
    if matrix == "hessian":
        return torch.autograd.functional.hessian(lambda v: loss(outputs(v), y), w)
    z = outputs(w).detach()
    j = jacrev(outputs)(w).flatten(0, 1)
    return j.T @ torch.autograd.functional.hessian(lambda v: loss(v, y), z).view(z.numel(), -1) @ j


@pytest.mark.parametrize("kind", ["conv", "attention"])
@pytest.mark.parametrize("matrix", ["hessian", "ggn"])
def test_products_are_those_of_the_dense_matrix(kind, matrix):
    model, x = network(kind)
    if kind == "conv":
        model(x)  # running statistics that are not the start's
    want = dense(copy.deepcopy(model).eval(), x, labels(), matrix)
    curvature = Curvature(model, F.cross_entropy, [(x, labels())], matrix=matrix, batch_norm="running")
    found = curvature(torch.eye(curvature.size, dtype=torch.float64))
    torch.testing.assert_close(found, want, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(found, found.T, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("matrix", ["hessian", "ggn"])
def test_batch_statistics_are_those_of_training(matrix):
    model, x = network("conv")
    as_in_training = copy.deepcopy(model).train()
    as_in_training[4].eval()
    for norm in (as_in_training[1],):
        norm.track_running_stats, norm.running_mean, norm.running_var, norm.num_batches_tracked = (
            False,
            None,
            None,
            None,
        )
    want = dense(as_in_training, x, labels(), matrix)
    curvature = Curvature(model, F.cross_entropy, [(x, labels())], matrix=matrix)
    torch.testing.assert_close(curvature(torch.eye(curvature.size).double()), want, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("matrix", ["hessian", "ggn"])
def test_batches_count_by_their_samples_and_blocks_are_their_rows(matrix):
    model, x = network("conv")
    one = Curvature(model, F.cross_entropy, [(x, labels())], matrix=matrix, batch_norm="running")
    cut = [(x[:7], labels()[:7]), (x[7:], labels()[7:])]
    two = Curvature(model, F.cross_entropy, cut, matrix=matrix, batch_norm="running")
    v = torch.randn(3, one.size, dtype=torch.float64)
    torch.testing.assert_close(one(v), two(v))
    torch.testing.assert_close(one(v), torch.cat([one(row[None]) for row in v]))


def test_for_a_linear_model_both_matrices_are_one():
    torch.manual_seed(0)
    model, x = nn.Linear(4, 3).double(), torch.randn(10, 4, dtype=torch.float64)
    v = torch.randn(2, 15, dtype=torch.float64)
    found = [Curvature(model, F.cross_entropy, [(x, labels())], matrix=m)(v) for m in ("hessian", "ggn")]
    torch.testing.assert_close(*found)


def test_where_nothing_curves_products_are_zero():
    model, x = nn.Linear(4, 3), torch.randn(10, 4)
    for matrix in ("hessian", "ggn"):
        curvature = Curvature(model, lambda z, y: z.mean(), [(x, labels())], matrix=matrix)
        assert curvature(torch.randn(2, 15)).count_nonzero() == 0


def test_the_network_is_left_as_it_was():
    model, x = network("conv")
    model[5].eval()
    before = copy.deepcopy(model.state_dict())
    modes = [module.training for module in model.modules()]
    random = torch.get_rng_state()
    curvature = Curvature(model, F.cross_entropy, [(x, labels()), (x, labels())])
    curvature(torch.ones(1, curvature.size, dtype=torch.float64))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), random)


def test_frozen_parameters_are_left_out_tied_ones_count_once_and_unused_ones_are_zero():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c, self.unused = (nn.Linear(3, 3) for _ in range(4))
            self.b.weight = self.a.weight
            self.c.requires_grad_(False)

        def forward(self, x):
            return self.c(self.b(torch.tanh(self.a(x))))

    torch.manual_seed(0)
    model, x = Tied().double(), torch.randn(10, 3, dtype=torch.float64)
    for matrix in ("hessian", "ggn"):
        curvature = Curvature(model, F.cross_entropy, [(x, labels())], matrix=matrix)
        assert curvature.size == 9 + 3 + 3 + 12
        found = curvature(torch.eye(27, dtype=torch.float64))
        assert found[:, 15:].count_nonzero() == 0
        assert found[:15, :15].count_nonzero() > 200
        torch.testing.assert_close(found, found.T)


def test_autocast_is_off_inside():
    torch.manual_seed(0)
    model, x = nn.Linear(4, 3), torch.randn(10, 4)
    v = torch.randn(1, 15)
    plain = Curvature(model, F.cross_entropy, [(x, labels())])(v)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        assert torch.equal(Curvature(model, F.cross_entropy, [(x, labels())])(v), plain)


def test_a_parameter_that_changed_makes_kept_graphs_refuse():
    model, x = network("conv")
    curvature = Curvature(model, F.cross_entropy, [(x, labels())])
    with torch.no_grad():
        model[5].weight.add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        curvature(torch.ones(1, curvature.size, dtype=torch.float64))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_products_on_cuda_are_those_of_the_cpu():
    model, x = network("conv")
    v = torch.randn(3, Curvature(model, F.cross_entropy, [(x, labels())]).size, dtype=torch.float64)
    want = Curvature(model, F.cross_entropy, [(x, labels())])(v)
    found = Curvature(model.cuda(), F.cross_entropy, [(x.cuda(), labels().cuda())])(v.cuda())
    torch.testing.assert_close(found.cpu(), want, rtol=1e-7, atol=1e-9)


def test_bad_input_is_refused():
    model, x = nn.Linear(4, 3), torch.randn(10, 4)
    data = [(x, labels())]
    if not hasattr(Curvature.__call__, "__wrapped__"):  # else the types are checked before
        with pytest.raises(ValueError, match="matrix must be hessian or ggn"):
            Curvature(model, F.cross_entropy, data, matrix="fisher")
    with pytest.raises(ValueError, match="at least one sample"):
        Curvature(model, F.cross_entropy, [])
    with pytest.raises(ValueError, match="all float32 or all float64"):
        Curvature(nn.Linear(4, 3).bfloat16(), F.cross_entropy, data)
    with pytest.raises(ValueError, match="requires a gradient"):
        Curvature(nn.Linear(4, 3).requires_grad_(False), F.cross_entropy, data)
    with pytest.raises(ValueError, match=r"loss must be a scalar.*\[10\]"):
        Curvature(model, lambda z, y: F.cross_entropy(z, y, reduction="none"), data)
    with pytest.raises(ValueError, match="model that gives a tensor"):
        Curvature(nn.LSTM(4, 3), lambda z, y: z[0].mean(), data, matrix="ggn")
    with pytest.raises(ValueError, match=r"\[vectors, 15\], got \[1, 14\]"):
        Curvature(model, F.cross_entropy, data)(torch.ones(1, 14))


@pytest.mark.parametrize("case", ["c0", "c1"])
def test_reference_vectors(vectors, case):
    data = np.load(vectors / "lr-batch-rmt.npz", allow_pickle=False)
    of = {name: torch.from_numpy(data[f"{case}_{name}"]) for name in ("X", "Y", "W1", "b1", "W2", "b2", "vectors")}
    model = nn.Sequential(nn.Linear(*of["W1"].T.shape), nn.Tanh(), nn.Linear(*of["W2"].T.shape)).double()
    model.load_state_dict({"0.weight": of["W1"], "0.bias": of["b1"], "2.weight": of["W2"], "2.bias": of["b2"]})
    batches = [(of["X"][:9], of["Y"][:9]), (of["X"][9:], of["Y"][9:])]
    hessian = Curvature(model, F.cross_entropy, batches)
    np.testing.assert_allclose(hessian(of["vectors"]), data[f"{case}_hess_vec"], rtol=1e-9, atol=1e-9)
    ggn = Curvature(model, F.cross_entropy, batches, matrix="ggn")
    np.testing.assert_allclose(ggn(of["vectors"]), data[f"{case}_gn_vec"], rtol=1e-5, atol=1e-5)
    start = draw_starts(1, hessian.size, kind="gaussian", generator=torch.Generator().manual_seed(0), like=of["X"])
    (ritz,) = lanczos(hessian, start, hessian.size)
    apart = np.abs(ritz.values.numpy()[:, None] - data[f"{case}_eigvals"])
    assert apart.min(axis=0).max() < 1e-9  # the zeros, which are several, are found once
    assert apart.min(axis=1).max() < 1e-9
