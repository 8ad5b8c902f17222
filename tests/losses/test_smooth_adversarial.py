import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import gradcheck, gradgradcheck

from assay.data.adversarial import PGD
from assay.losses.comp_sum import comp_sum_loss, comp_sum_margin_loss
from assay.losses.smooth_adversarial import (
    SmoothAdversarialCompSumLoss,
    margin_bound_nu,
    margin_shift,
    smooth_adversarial_loss,
)
from assay.losses.trades import divergence, trades_loss

REDUCTIONS = ["mean", "sum", "none"]


def draw(*shape, seed=0, scale=2.0):
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def classes(n, *shape, seed=1):
    return torch.randint(n, shape, generator=torch.Generator().manual_seed(seed))


def by_definition(clean, adversarial, target, tau, rho, nu):
    found = []
    for h, a, y in zip(clean, adversarial, target.tolist(), strict=True):
        others = [k for k in range(len(h)) if k != y]
        s = sum(torch.exp(-(h[y] - h[k]) / rho) for k in others)
        first = torch.log1p(s) if tau == 1 else ((1 + s) ** (1 - tau) - 1) / (1 - tau)
        moved = sum(((a[y] - a[k]) - (h[y] - h[k])) ** 2 for k in others)
        found.append(first + nu * moved.sqrt())
    return torch.stack(found)


@pytest.mark.parametrize("tau", [0.5, 1.0, 1.7])
@pytest.mark.parametrize(("rho", "nu"), [(1.0, 1.0), (0.3, 0.1), (2.0, 5.0)])
def test_equals_the_definition(tau, rho, nu):
    clean, adversarial, y = draw(6, 4), draw(6, 4, seed=3), classes(4, 6)
    want = by_definition(clean, adversarial, y, tau, rho, nu)
    for reduction, of in (("none", want), ("mean", want.mean()), ("sum", want.sum())):
        found = smooth_adversarial_loss(clean, adversarial, y, tau=tau, rho=rho, nu=nu, reduction=reduction)
        torch.testing.assert_close(found, of)


@pytest.mark.parametrize("tau", [0.5, 1.0, 2.0])
def test_gradients_of_first_and_second_order_go_through_both(tau):
    y = classes(3, 2)
    inputs = draw(2, 3, scale=1.0).requires_grad_(), draw(2, 3, seed=4, scale=1.0).requires_grad_()

    def loss(clean, adversarial):
        return smooth_adversarial_loss(clean, adversarial, y, tau=tau, rho=0.7, nu=0.4)

    assert gradcheck(loss, inputs)
    assert gradgradcheck(loss, inputs)
    assert gradcheck(lambda c, a: trades_loss(c, a, y), inputs)


@pytest.mark.parametrize("tau", [0.0, 1.0, 1.5, 3.0])
@pytest.mark.parametrize("rho", [0.3, 1.0, 4.0])
def test_with_the_theorys_nu_it_is_above_the_margin_loss_wherever_the_adversary_goes(tau, rho):
    clean, y = draw(300, 5), classes(5, 300)
    for seed, scale in ((7, 0.1), (8, 1.0), (9, 10.0)):
        adversarial = clean + draw(300, 5, seed=seed, scale=scale)
        bound = smooth_adversarial_loss(
            clean, adversarial, y, tau=tau, rho=rho, nu=margin_bound_nu(5, rho), reduction="none"
        )
        assert (bound >= comp_sum_margin_loss(adversarial, y, tau, rho=rho) - 1e-12).all()


def test_the_inner_attack_finds_the_best_corner_of_a_linear_model():
    torch.manual_seed(0)
    model = nn.Linear(5, 3).double()
    x = 0.4 + 0.2 * torch.rand(4, 5, dtype=torch.float64)
    y = classes(3, 4)
    best = []
    for sample, target in zip(x, y, strict=True):
        corners = torch.tensor(list(itertools.product((-0.1, 0.1), repeat=5)), dtype=torch.float64)
        shift = margin_shift(model(sample)[None].expand(32, 3), model(sample + corners), target.expand(32))
        best.append(shift.max().sqrt())
    loss = SmoothAdversarialCompSumLoss(PGD(0.1, 10, restarts=20), rho=0.5, nu=1.0, reduction="none")
    found = loss(model, x, y, torch.Generator().manual_seed(0)) - F.cross_entropy(model(x) / 0.5, y, reduction="none")
    torch.testing.assert_close(found, torch.stack(best), rtol=1e-6, atol=1e-9)


def test_without_an_adversary_it_is_the_loss_of_scaled_scores():
    torch.manual_seed(0)
    model, x, y = nn.Linear(5, 3).double(), torch.rand(4, 5, dtype=torch.float64), classes(3, 4)
    want = comp_sum_loss(model(x) / 0.5, y, 1.5)
    for attack, nu in ((PGD(0.0), 1.0), (PGD(0.1), 0.0)):
        loss = SmoothAdversarialCompSumLoss(attack, tau=1.5, rho=0.5, nu=nu)
        torch.testing.assert_close(loss(model, x, y), want, rtol=0, atol=2e-6)  # the root of 1e-12


def test_batch_norm_sees_the_clean_and_the_attacked_batch_by_themselves_and_not_the_attack():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)).double()
    seen = []
    model[1].register_forward_hook(lambda m, i, o: seen.append((m.training, len(o))))
    SmoothAdversarialCompSumLoss(PGD(0.1, 3))(model, torch.rand(6, 5, dtype=torch.float64), classes(3, 6)).backward()
    assert seen == [(False, 6)] * 4 + [(True, 6)] * 2
    assert model[1].num_batches_tracked == 2
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_where_nothing_moved_the_gradient_is_zero_and_no_nan():
    clean, y = draw(3, 4).requires_grad_(), classes(4, 3)
    found = torch.autograd.grad(smooth_adversarial_loss(clean, clean.detach(), y, nu=2.0), clean)
    torch.testing.assert_close(found, torch.autograd.grad(comp_sum_loss(clean, y), clean))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype):
    clean, adversarial = draw(6, 4).to(dtype), draw(6, 4, seed=3).to(dtype)
    y = classes(4, 6)
    for loss in (smooth_adversarial_loss, trades_loss):
        found = loss(clean, adversarial, y)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, loss(clean.float(), adversarial.float(), y), rtol=0, atol=0)


@pytest.mark.parametrize("scale", [1e4, 0.0])
def test_extreme_scores_stay_finite(scale):
    clean = torch.tensor([[1.0, -1.0, 0.0], [-1.0, 1.0, 0.0]]).mul(scale).requires_grad_()
    adversarial = clean.detach().flip(0).requires_grad_()
    y = torch.tensor([0, 0])
    for loss in (smooth_adversarial_loss, trades_loss):
        value = loss(clean, adversarial, y)
        assert value.isfinite()
        assert all(g.isfinite().all() for g in torch.autograd.grad(value, (clean, adversarial)))


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_trades_is_cross_entropy_and_beta_times_torchs_divergence(reduction):
    clean, adversarial, y = draw(6, 4), draw(6, 4, seed=3), classes(4, 6)
    kl = F.kl_div(adversarial.log_softmax(1), clean.softmax(1), reduction="none").sum(1)
    want = F.cross_entropy(clean, y, reduction="none") + 3 * kl
    want = want if reduction == "none" else getattr(want, reduction)()
    torch.testing.assert_close(trades_loss(clean, adversarial, y, beta=3.0, reduction=reduction), want)


def test_what_makes_no_sense_is_refused():
    clean, y = draw(2, 3), torch.tensor([0, 1])
    for settings, message in (
        ({"rho": 0.0}, "rho must be positive and finite, got 0.0"),
        ({"nu": -1.0}, "nu must be at least 0 and finite, got -1.0"),
        ({"tau": -1.0}, "tau must be at least 0"),
        ({"reduction": "max"}, "reduction must be one of"),
    ):
        with pytest.raises(ValueError, match=message):
            smooth_adversarial_loss(clean, clean, y, **settings)
        with pytest.raises(ValueError, match=message):
            SmoothAdversarialCompSumLoss(PGD(0.1), **settings)
    with pytest.raises(ValueError, match="must not start at zero"):
        SmoothAdversarialCompSumLoss(PGD(0.1, start="zero"))
    with pytest.raises(ValueError, match="beta must be at least 0"):
        trades_loss(clean, clean, y, beta=-1.0)
    for function in (lambda: margin_shift(clean, draw(2, 4), y), lambda: divergence(clean, draw(2, 4))):
        with pytest.raises(Exception, match=r"adversarial|classes"):
            function()
