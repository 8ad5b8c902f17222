import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from assay.losses.contrast import Contrast, two_views
from assay.losses.hard_contrastive import (
    HardContrastiveLoss,
    hard_contrastive,
    hard_simple_contrastive,
    simple_contrastive,
    warmed_alpha,
)
from assay.losses.info_nce import InfoNCELoss, info_nce
from assay.losses.memory_bank import MemoryBank


def draw(batch, dim=5, seed=0, noise=0.7):
    g = torch.Generator().manual_seed(seed)
    z = torch.randn(batch, dim, generator=g, dtype=torch.float64)
    return z, z + noise * torch.randn(batch, dim, generator=g, dtype=torch.float64)


def one_anchor(positive, negatives):
    """An anchor whose similarities are these numbers."""
    keys = torch.zeros(1 + len(negatives), 2, dtype=torch.float64)
    s = torch.cat([positive[None], negatives])
    keys = torch.stack([s, (1 - s.square()).clamp_min(0).sqrt()], 1)
    return Contrast(
        torch.tensor([[1.0, 0.0]], dtype=torch.float64), keys[:1], keys, positive=torch.zeros(1, dtype=torch.int64)
    )


# Vectors ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def given(vectors):
    return np.load(vectors / "contrastive-temperature.npz", allow_pickle=False)


@pytest.fixture
def bank(given):
    bank = MemoryBank(*given["mb_points"].shape).double()
    bank.points.copy_(torch.from_numpy(given["mb_points"]))
    return bank


def agrees(given, name, loss, x, *at):
    assert loss.item() == pytest.approx(given[name][at], abs=1e-10)
    (gradient,) = torch.autograd.grad(loss, x, retain_graph=True)
    torch.testing.assert_close(gradient, torch.from_numpy(given[f"{name}_dx"][at]), rtol=0, atol=1e-10)


def as_coded(each):
    return -((-each).exp() + 1e-7).log()  # the code guards its logarithm so


def test_vectors_of_the_losses_with_a_memory_bank(given, bank):
    x = torch.from_numpy(given["mb_x"]).requires_grad_()
    contrast = bank.contrast(x, torch.from_numpy(given["mb_index"]))
    for t, tau in enumerate(given["mb_tau"].tolist()):
        agrees(given, "mb_contrastive", as_coded(info_nce(contrast, tau)).mean(), x, t)
        for k, number in enumerate(given["mb_k"].tolist()):
            each = hard_contrastive(contrast, tau, num_hard=number, positive_competes=True)
            agrees(given, "mb_hard", as_coded(each).mean(), x, t, k)
    for k, number in enumerate(given["mb_k"].tolist()):
        each = hard_simple_contrastive(contrast, num_hard=number, positive_competes=True)
        agrees(given, "mb_hard_simple", each.mean(), x, k)
    # with the positive in both terms it is (1 - 1/M) of ours
    share = 1 - 1 / len(bank.points)
    agrees(given, "mb_simple", share * simple_contrastive(contrast).mean(), x)


def test_vectors_of_the_bank_s_update(given, bank):
    bank.update(torch.from_numpy(given["mb_x"]), torch.from_numpy(given["mb_index"]))
    torch.testing.assert_close(bank.points, torch.from_numpy(given["mb_points_after"]), rtol=0, atol=1e-10)


def test_vectors_of_one_anchor_by_hand(given):
    contrast = one_anchor(*(torch.from_numpy(np.asarray(given[name])) for name in ("hand_pos", "hand_neg")))
    for t, tau in enumerate(given["hand_tau"].tolist()):
        assert info_nce(contrast, tau).item() == pytest.approx(given["hand_loss"][t], abs=1e-10)


# Laws -------------------------------------------------------------------------------------------------------------


def test_with_all_negatives_the_hard_loss_is_info_nce_to_the_bit():
    z1, z2 = draw(6)
    assert torch.equal(HardContrastiveLoss(0.3, 1.0)(z1, z2), InfoNCELoss(0.3)(z1, z2))


def test_fewer_hard_negatives_give_a_lower_loss():
    contrast = two_views(*draw(6))
    found = [hard_contrastive(contrast, 0.5, num_hard=k) for k in range(1, 11)]
    for fewer, more in pairwise(found):
        assert (fewer < more).all()


def test_one_hard_negative_is_what_all_negatives_come_to_as_the_temperature_falls():
    contrast = two_views(*draw(6))
    tau = 1e-3
    torch.testing.assert_close(
        tau * hard_contrastive(contrast, tau, num_hard=1), tau * info_nce(contrast, tau), rtol=0, atol=1e-2
    )


@pytest.mark.parametrize(("alpha", "negatives", "kept"), [(0.07, 100, 7), (0.071, 100, 8), (0.001, 20, 1), (1.0, 8, 8)])
def test_a_share_of_the_negatives_is_rounded_up(alpha, negatives, kept):
    contrast = two_views(*draw(negatives // 2 + 1))
    torch.testing.assert_close(hard_contrastive(contrast, 0.5, alpha), hard_contrastive(contrast, 0.5, num_hard=kept))


def test_negatives_that_tie_with_the_last_one_are_kept_too():
    contrast = one_anchor(
        torch.tensor(0.5, dtype=torch.float64), torch.tensor([0.3, 0.9, 0.3, -0.2], dtype=torch.float64)
    )
    e = [math.exp(s / 0.4) for s in (0.5, 0.9, 0.3, 0.3)]
    assert hard_contrastive(contrast, 0.4, num_hard=2).item() == pytest.approx(-math.log(e[0] / sum(e)))


def gradients(each, contrast_of, s):
    s = s.clone().requires_grad_()
    return torch.autograd.grad(each(contrast_of(s)).sum(), s)[0]


def from_similarities(s):
    """Each row: an anchor's similarity to its positive, then to its negatives. Anchors and keys are such that the
    matrix of similarities is `s` itself."""
    rows, columns = s.shape
    keys = torch.eye(columns, dtype=s.dtype)
    return Contrast(s, keys[:1].expand(rows, -1), keys, positive=torch.zeros(rows, dtype=torch.int64))


@pytest.mark.parametrize("tau", [0.1, 0.7])
def test_gradients_in_the_similarities_are_the_formulas(tau):
    s = torch.rand(4, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    found = gradients(lambda c: info_nce(c, tau), from_similarities, s)
    p = (s / tau).exp()
    p = p / p.sum(1, keepdim=True)
    torch.testing.assert_close(found[:, 1:], p[:, 1:] / tau)
    torch.testing.assert_close(found[:, 0], -found[:, 1:].sum(1))


@pytest.mark.parametrize("each", [simple_contrastive, lambda c: hard_simple_contrastive(c, num_hard=3)])
def test_simple_losses_push_all_kept_negatives_alike(each):
    s = torch.rand(4, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    found = gradients(each, from_similarities, s)
    number = 6 if each is simple_contrastive else 3
    assert torch.equal(found[:, 0], torch.full((4,), -1.0, dtype=torch.float64))
    hardest = torch.zeros_like(s[:, 1:]).scatter(1, s[:, 1:].topk(number).indices, 1 / number)
    torch.testing.assert_close(found[:, 1:], hardest)


def test_as_the_temperature_falls_the_loss_is_a_triplet_s_with_the_nearest_negative():
    z, _ = draw(8)
    s = normalize(z) @ normalize(z).T
    s = torch.cat([s[:, 3:4], s[:, :3], s[:, 4:]], 1)
    tau = 1e-3
    want = (s[:, 1:].amax(1) - s[:, 0]).clamp_min(0)
    torch.testing.assert_close(tau * info_nce(from_similarities(s), tau), want, rtol=0, atol=1e-2)


def test_as_the_temperature_rises_all_keys_weigh_alike():
    s = torch.rand(4, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    tau = 1e3
    want = -s[:, 0] / tau + s.mean(1) / tau + math.log(7)
    torch.testing.assert_close(info_nce(from_similarities(s), tau), want, rtol=0, atol=1e-5)


def test_the_share_narrows_from_all_to_alpha_and_stays():
    assert [warmed_alpha(0.01, p, 0.5) for p in (0.0, 0.25, 0.5, 1.0)] == pytest.approx([1, 0.1, 0.01, 0.01])
    assert warmed_alpha(0.1, 0.0, 0.0) == 0.1


# The bank ---------------------------------------------------------------------------------------------------------


def test_a_bank_begins_as_unit_vectors_of_its_generator_and_is_saved_whole():
    one, same, other = (MemoryBank(9, 4, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    torch.testing.assert_close(one.points.norm(dim=1), torch.ones(9))
    assert torch.equal(one.points, same.points)
    assert not torch.equal(one.points, other.points)
    other.load_state_dict(one.state_dict())
    assert torch.equal(one.points, other.points)


def test_an_update_between_forward_and_backward_changes_no_gradient():
    bank, x, index = MemoryBank(9, 4), torch.randn(2, 4, requires_grad=True), torch.tensor([3, 5])
    loss = info_nce(bank.contrast(x, index), 0.2).sum()
    (want,) = torch.autograd.grad(loss, x, retain_graph=True)
    bank.update(x, index)
    assert torch.equal(torch.autograd.grad(loss, x)[0], want)


def test_what_does_not_fit_a_bank_is_refused():
    bank = MemoryBank(9, 4)
    with pytest.raises(ValueError, match=r"x must have shape \[batch, 4\], got \[2, 3\]"):
        bank.contrast(torch.ones(2, 3), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="at least two points and one dimension, got 1 and 4"):
        MemoryBank(1, 4)
    with pytest.raises(ValueError, match=r"momentum must lie in \[0, 1\), got 1"):
        MemoryBank(9, 4, momentum=1.0)
    if not hasattr(MemoryBank.contrast, "__wrapped__"):
        with pytest.raises(ValueError, match=r"index must be int64 \[2\], got torch.int64 \[1\]"):
            bank.contrast(torch.ones(2, 4), torch.tensor([0]))
