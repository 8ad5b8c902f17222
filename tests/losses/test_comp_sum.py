import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import grad, gradcheck, gradgradcheck

from assay.losses import comp_sum
from assay.losses.comp_sum import CompSumLoss, comp_sum_loss, comp_sum_margin_loss, composed_sum_loss, phi

TAUS = [0.0, 0.5, 1.0, 1.3, 1.7, 2.0, 3.0]


@pytest.fixture(params=["fused", "composed"])
def path(request, monkeypatch):
    """Each of the two ways of computing, whatever the size."""
    monkeypatch.setattr(comp_sum, "_pays", lambda x: request.param == "fused")


def draw(*shape, seed=0, scale=2.0, dtype=torch.float64):
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def classes(n, *shape, seed=1):
    return torch.randint(n, shape, generator=torch.Generator().manual_seed(seed))


def by_definition(logits, target, tau):
    """One value a row, from sums of exponentials in Python's floats."""
    found = []
    for row, y in zip(logits.tolist(), target.tolist(), strict=True):
        s = sum(math.exp(h - row[y]) for k, h in enumerate(row) if k != y)
        found.append(math.log(1 + s) if tau == 1 else ((1 + s) ** (1 - tau) - 1) / (1 - tau))
    return torch.tensor(found, dtype=torch.float64)


@pytest.mark.usefixtures("path")
def test_reference_vectors(vectors):
    data = np.load(vectors / "comp-sum.npz", allow_pickle=False)
    y = torch.from_numpy(data["y"])
    for tau, loss, gradient in zip(data["taus"], data["loss"], data["grad"], strict=True):
        logits = torch.from_numpy(data["logits"]).requires_grad_()
        found = comp_sum_loss(logits, y, float(tau), reduction="none")
        torch.testing.assert_close(found.detach(), torch.from_numpy(loss), rtol=1e-10, atol=0)
        torch.testing.assert_close(grad(found.sum(), logits)[0], torch.from_numpy(gradient), rtol=1e-10, atol=1e-12)


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("tau", TAUS)
@settings(max_examples=25, deadline=None)
@given(batch=st.integers(1, 6), n=st.integers(1, 7), seed=st.integers(0, 10**6), scale=st.floats(0, 8))
def test_equals_the_definition(tau, batch, n, seed, scale):
    logits, y = draw(batch, n, seed=seed, scale=scale), classes(n, batch, seed=seed)
    torch.testing.assert_close(
        comp_sum_loss(logits, y, tau, reduction="none"), by_definition(logits, y, tau), rtol=1e-9, atol=1e-12
    )


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("kind", ["classes", "ignored", "probabilities", "positions", "single"])
def test_at_one_it_is_torchs_cross_entropy_in_all_its_forms(reduction, weighted, smoothing, kind):
    n = 5
    logits, y = draw(6, n), classes(n, 6)
    if kind == "ignored":
        y[[1, 4]] = -100
    if kind == "probabilities":
        y = draw(6, n, seed=3).softmax(1)
    if kind == "positions":
        logits, y = draw(2, n, 3, 4), classes(n, 2, 3, 4)
    if kind == "single":
        logits, y = logits[0], y[0]
    weight = torch.tensor([1.0, 2.0, 0.5, 3.0, 0.1], dtype=torch.float64) if weighted else None
    logits.requires_grad_()
    want = F.cross_entropy(logits, y, weight, reduction=reduction, label_smoothing=smoothing)
    near = 1 + 1e-9  # takes the general formulas
    for tau in (1.0, near):
        found = comp_sum_loss(logits, y, tau, weight=weight, reduction=reduction, label_smoothing=smoothing)
        assert found.shape == want.shape
        torch.testing.assert_close(found, want, rtol=1e-7, atol=1e-12)
        torch.testing.assert_close(
            grad(found.sum(), logits), grad(want.sum(), logits, retain_graph=True), rtol=1e-6, atol=1e-8
        )


@pytest.mark.usefixtures("path")
def test_an_ignored_class_counts_nothing_in_loss_and_gradient():
    logits, y = draw(6, 4).requires_grad_(), classes(4, 6)
    for ignored, tau in ((2, 1.7), (-7, 0.5), (2, 1.0)):
        marked = torch.where(y == 2, ignored, y)
        keep = y != 2
        found = comp_sum_loss(logits, marked, tau, ignore_index=ignored)
        torch.testing.assert_close(found, comp_sum_loss(logits[keep], y[keep], tau))
        (gradient,) = grad(found, logits)
        assert (gradient[~keep] == 0).all()
        assert (gradient[keep] != 0).all()
    assert comp_sum_loss(logits, torch.full((6,), -100), 1.7).isnan()  # as torch's mean of nothing
    assert comp_sum_loss(logits, torch.full((6,), -100), 1.7, reduction="sum") == 0
    assert comp_sum_loss(draw(0, 4), classes(4, 0), 1.7, reduction="none").shape == (0,)


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("q", [0.3, 0.7])
def test_known_members_of_the_family(q):
    logits, y = draw(7, 4), classes(4, 7)
    p = logits.softmax(1).gather(1, y[:, None])[:, 0]
    for tau, want in ((0.0, 1 / p - 1), (1 + q, (1 - p**q) / q), (2.0, 1 - p)):
        torch.testing.assert_close(comp_sum_loss(logits, y, tau, reduction="none"), want)
    mae = (F.one_hot(y, 4) - logits.softmax(1)).abs().sum(1)
    torch.testing.assert_close(2 * comp_sum_loss(logits, y, 2.0, reduction="none"), mae)


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("tau", TAUS)
def test_gradients_of_first_and_second_order(tau):
    y = torch.tensor([0, 2, -100])
    weight = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
    logits = draw(3, 3, scale=1.0).requires_grad_()
    for options in ({}, {"weight": weight}, {"label_smoothing": 0.2}, {"reduction": "none"}):

        def loss(h, options=options):
            return comp_sum_loss(h, y, tau, **options)

        assert gradcheck(loss, logits)
        assert gradgradcheck(loss, logits)
    q = draw(3, 3, seed=5).softmax(1)
    assert gradcheck(lambda h: comp_sum_loss(h, q, tau), logits)


def test_a_second_backward_pass_and_accumulated_gradients_are_those_of_the_first(monkeypatch):
    monkeypatch.setattr(comp_sum, "_pays", lambda x: True)
    for tau in (0.5, 1.7):
        logits, y = draw(6, 4).requires_grad_(), classes(4, 6)
        loss = comp_sum_loss(logits, y, tau)
        loss.backward(retain_graph=True)
        first = logits.grad.clone()
        loss.backward()
        torch.testing.assert_close(logits.grad, 2 * first)


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("tau", TAUS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_logits_give_what_floats_can_hold_and_never_nan(tau, dtype):
    logits = torch.tensor(
        [[1e4, -1e4, 0.0], [-1e4, 1e4, 0.0], [1e4, 1e4, 1e4], [0.0, 0.0, 0.0], [-1e4, -1e4, -1e4]], dtype=dtype
    ).requires_grad_()
    y = torch.zeros(5, dtype=torch.long)
    loss = comp_sum_loss(logits, y, tau, reduction="none")
    even = math.log(3) if tau == 1 else (3 ** (1 - tau) - 1) / (1 - tau)
    wrong = 2e4 if tau == 1 else math.inf if tau < 1 else 1 / (tau - 1)  # S = e^20000
    torch.testing.assert_close(loss, torch.tensor([0.0, wrong, even, even, even], dtype=dtype))
    (gradient,) = grad(loss.sum(), logits)
    assert not gradient.isnan().any()
    assert (gradient[0] == 0).all()
    torch.testing.assert_close(
        gradient[2:], (3 ** (1 - tau) * torch.tensor([-2 / 3, 1 / 3, 1 / 3], dtype=dtype)).expand(3, 3)
    )
    if tau > 1:
        assert (gradient[1] == 0).all()
    if tau < 1:
        third = 1.0 if tau == 0.5 else math.inf  # p_y^(tau - 1) p_k = exp(20000 (1 - tau) - 10000)
        assert gradient[1].tolist() == [-math.inf, math.inf, third]


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("tau", TAUS)
def test_one_class_costs_nothing(tau):
    logits = draw(3, 1).requires_grad_()
    loss = comp_sum_loss(logits, torch.zeros(3, dtype=torch.long), tau)
    assert loss == 0
    assert (grad(loss, logits)[0] == 0).all()


@pytest.mark.usefixtures("path")
def test_a_certain_and_right_prediction_keeps_a_gradient():
    logits = torch.tensor([[20.0, 0.0]], dtype=torch.float64).requires_grad_()
    (gradient,) = grad(comp_sum_loss(logits, torch.tensor([0]), 1.5), logits)
    s = math.exp(-20)
    want = (1 + s) ** -1.5 * s
    assert gradient[0].tolist() == pytest.approx([-want, want], rel=1e-6)


@pytest.mark.usefixtures("path")
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), low=st.floats(0, 3), more=st.floats(0.01, 2), shift=st.floats(-100, 100))
def test_falls_with_tau_and_with_p_and_knows_no_common_shift(seed, low, more, shift):
    logits, y = draw(4, 3, seed=seed), classes(3, 4, seed=seed)
    loss = comp_sum_loss(logits, y, low, reduction="none")
    assert (comp_sum_loss(logits, y, low + more, reduction="none") < loss).all()
    better = logits.scatter_add(1, y[:, None], torch.ones(4, 1, dtype=logits.dtype))
    assert (comp_sum_loss(better, y, low, reduction="none") < loss).all()
    torch.testing.assert_close(comp_sum_loss(logits + shift, y, low, reduction="none"), loss, rtol=1e-8, atol=1e-10)


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("tau", TAUS)
def test_is_continuous_at_one(tau):
    logits, y = draw(4, 3), classes(3, 4)
    want = comp_sum_loss(logits, y, 1.0)
    for near in (1 - 1e-7, 1 + 1e-7, 1 + 1e-14):
        torch.testing.assert_close(comp_sum_loss(logits, y, near), want, rtol=1e-6, atol=0)


@pytest.mark.parametrize("tau", TAUS)
def test_soft_targets_are_the_mean_over_classes(tau):
    logits, q = draw(5, 3), draw(5, 3, seed=2).softmax(1)
    q[0] = torch.tensor([0.0, 1.0, 0.0])
    each = torch.stack([by_definition(logits, torch.full((5,), k), tau) for k in range(3)], 1)
    torch.testing.assert_close(comp_sum_loss(logits, q, tau, reduction="none"), (q * each).sum(1))
    smoothed = 0.7 * q + 0.1
    found = comp_sum_loss(logits, q, tau, label_smoothing=0.3)
    torch.testing.assert_close(found, (smoothed * each).sum(1).mean())


def test_a_class_without_mass_may_cost_infinitely_much():
    logits = torch.tensor([[0.0, 200.0]], requires_grad=True)
    loss = comp_sum_loss(logits, torch.tensor([[0.0, 1.0]]), 0.0)
    assert loss == 0
    assert grad(loss, logits)[0].tolist() == [[0, 0]]


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("tau", [0.5, 1.0, 1.7])
def test_half_precision_is_computed_in_float32(dtype, tau):
    logits, y = draw(64, 10, dtype=torch.float32).to(dtype).requires_grad_(), classes(10, 64)
    found = comp_sum_loss(logits, y, tau)
    assert found.dtype == torch.float32
    want = comp_sum_loss(logits.float(), y, tau)
    torch.testing.assert_close(found, want, rtol=0, atol=0)
    assert grad(found, logits)[0].dtype == dtype
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(comp_sum_loss(logits, y, tau), want, rtol=1e-6, atol=0)


def test_large_batches_take_the_fused_way_and_give_the_same():
    logits, y = draw(600, 10, dtype=torch.float32).requires_grad_(), classes(10, 600)
    loss = comp_sum_loss(logits, y, 1.7)
    assert loss.grad_fn.next_functions[0][0].next_functions[0][0].name() == "_FusedBackward"
    wide = logits.double()
    want = comp_sum_loss(wide[:500], y[:500], 1.7, reduction="sum") + comp_sum_loss(
        wide[500:], y[500:], 1.7, reduction="sum"
    )
    torch.testing.assert_close(loss.double(), want / 600)
    torch.testing.assert_close(grad(loss, logits), grad(want / 600, logits))


def test_transforms_of_torch_func_and_modules():
    module = CompSumLoss(1.7, weight=torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64), label_smoothing=0.1)
    logits, y = draw(600, 3), classes(3, 600)
    want = grad(module(logits.requires_grad_(), y), logits)[0]
    torch.testing.assert_close(torch.func.grad(module)(logits.detach(), y), want)
    plain = CompSumLoss(0.5, reduction="none")
    found = torch.func.vmap(lambda h, t: plain(h[None], t[None])[0])(logits, y)
    torch.testing.assert_close(found, plain(logits, y))
    other = CompSumLoss(1.7, weight=torch.ones(3, dtype=torch.float64))
    other.load_state_dict(module.state_dict())
    torch.testing.assert_close(other.weight, module.weight)
    assert "tau=1.7" in repr(module)


@pytest.mark.skipif(hasattr(comp_sum_loss, "__wrapped__"), reason="the checks of shapes break the graph")
@pytest.mark.parametrize("tau", [0.5, 1.0, 1.7])
def test_compiles_without_a_graph_break(tau):
    compiled = torch.compile(comp_sum_loss, backend="aot_eager", fullgraph=True)
    logits, y = draw(600, 5).requires_grad_(), classes(5, 600)
    y[3] = -100
    found, want = compiled(logits, y, tau), comp_sum_loss(logits, y, tau)
    torch.testing.assert_close(found, want)
    torch.testing.assert_close(grad(found, logits), grad(want, logits))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("tau", TAUS)
def test_cuda_equals_the_cpu(tau):
    logits, y = draw(600, 5), classes(5, 600)
    torch.testing.assert_close(comp_sum_loss(logits.cuda(), y.cuda(), tau).cpu(), comp_sum_loss(logits, y, tau))


Y = torch.tensor([0, 1])


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize(
    ("logits", "target", "options", "message"),
    [
        (draw(2, 3), Y, {"tau": -0.1}, "tau must be at least 0 and finite, got -0.1"),
        (draw(2, 3), Y, {"tau": math.nan}, "tau must be at least 0"),
        (draw(2, 3), Y, {"tau": math.inf}, "tau must be at least 0"),
        (draw(2, 3), Y, {"reduction": "avg"}, "reduction must be one of mean, sum, none, got 'avg'"),
        (draw(2, 3), Y, {"label_smoothing": 1.5}, r"label_smoothing must lie in \[0, 1\], got 1.5"),
        (draw(2, 3), Y, {"weight": torch.ones(2)}, r"weight must have shape \[3\], got \[2\]"),
        (draw(2, 3), torch.tensor([0, 3]), {}, "target must hold classes 0 to 2 or -100 to ignore, got 3"),
        (draw(2, 3), torch.tensor([-1, 0]), {}, "target must hold classes 0 to 2 or -100 to ignore, got -1"),
        (draw(2, 3), torch.tensor([[0, 1]]), {}, r"target of classes must have shape \[2\] for logits \[2, 3\]"),
        (draw(2, 3), torch.rand(2, 2), {}, r"target of probabilities must have shape \[2, 3\] for logits"),
        (draw(2, 3), torch.tensor([True, False]), {}, "target must hold classes .integers. or probabilities"),
        (draw(2, 0), Y, {}, r"logits must have shape \[batch, classes, \*positions\] or \[classes\], got \[2, 0\]"),
        (torch.ones(2, 3, dtype=torch.long), Y, {}, "logits must be of a floating type, got torch.int64"),
        (torch.tensor(1.0, dtype=torch.float64), Y, {}, r"or \[classes\], got \[\]"),
    ],
)
def test_what_makes_no_sense_is_refused(logits, target, options, message):
    for tau in (1.0, 1.7):
        with pytest.raises(ValueError, match=message):
            comp_sum_loss(logits, target, **{"tau": tau} | options)


def test_a_module_refuses_its_settings_at_once():
    with pytest.raises(ValueError, match="tau must be at least 0"):
        CompSumLoss(-1.0)


# The general family


@pytest.mark.parametrize("tau", TAUS)
def test_the_exponential_makes_the_general_family_the_comp_sum_loss(tau):
    logits, y = draw(5, 4), classes(4, 5)
    found = composed_sum_loss(logits, y, lambda u: phi(u, tau), lambda u: torch.exp(-u))
    torch.testing.assert_close(found, comp_sum_loss(logits, y, tau, reduction="none"))


@pytest.mark.parametrize("tau", TAUS)
def test_the_margin_loss_counts_classes_within_the_margin(tau):
    logits = torch.tensor([[3.0, 0.0, 2.5, 5.0]], dtype=torch.float64)
    # margins of class 0: 3, 0.5 and -2; with rho = 2 their costs are 0, 0.75 and 1
    want = math.log(2.75) if tau == 1 else (2.75 ** (1 - tau) - 1) / (1 - tau)
    assert comp_sum_margin_loss(logits, torch.tensor([0]), tau, rho=2.0).item() == pytest.approx(want)


def test_the_general_family_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="target must hold classes 0 to 1"):
        comp_sum_margin_loss(draw(2, 2), torch.tensor([0, 2]))
    with pytest.raises(ValueError, match=r"rho must be positive and finite, got 0\.0"):
        comp_sum_margin_loss(draw(2, 2), Y, rho=0.0)
    with pytest.raises(ValueError, match=r"logits must have shape \[batch, classes\] with classes"):
        comp_sum_margin_loss(draw(2, 2), torch.rand(2, 2))
