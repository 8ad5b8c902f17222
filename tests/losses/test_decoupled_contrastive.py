import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

import tests.losses.two_view_oracle as oracle
from assay.losses.contrast import Contrast, positive_similarity, two_views
from assay.losses.decoupled_contrastive import (
    DecoupledContrastiveLoss,
    WeightedDecoupledContrastiveLoss,
    decoupled_contrastive,
    npc_multiplier,
    von_mises_fisher_weights,
)
from assay.losses.info_nce import info_nce
from assay.losses.similarity import log_sum_negatives


def draw(batch, dim=5, seed=0, noise=0.7):
    g = torch.Generator().manual_seed(seed)
    z = torch.randn(batch, dim, generator=g, dtype=torch.float64)
    return z, z + noise * torch.randn(batch, dim, generator=g, dtype=torch.float64)


@pytest.mark.parametrize("t", range(4))
def test_reference_vectors(vectors, t):
    data = np.load(vectors / "dcl.npz", allow_pickle=False)
    temperature, sigma = float(data["temps"][t]), float(data["sigma"])
    z1, z2 = (torch.from_numpy(data[name]).requires_grad_() for name in ("z1", "z2"))
    # the vectors' gradients are those of free rows, and the code's total is the sum of both directions' means
    loss = DecoupledContrastiveLoss(temperature, normalize=False)(z1, z2)
    assert 2 * loss.item() == pytest.approx(data["dcl12"][t] + data["dcl21"][t], abs=1e-10)
    assert loss.item() == pytest.approx(data["lightly_dcl"][t], abs=1e-10)
    found = torch.stack(torch.autograd.grad(2 * loss, (z1, z2)))
    torch.testing.assert_close(found, torch.from_numpy(data["dcl_grad"][t]), rtol=0, atol=1e-10)

    each = DecoupledContrastiveLoss(temperature, normalize=False, reduction="none")(z1, z2)
    for part, name in zip(each.chunk(2), ("dcl12", "dcl21"), strict=True):
        assert part.mean().item() == pytest.approx(data[name][t], abs=1e-10)

    weighted = WeightedDecoupledContrastiveLoss(
        temperature, sigma, detach_weights=False, normalize=False, reduction="none"
    )(z1, z2)
    for part, name in zip(weighted.chunk(2), ("dclw12", "dclw21"), strict=True):
        assert part.mean().item() == pytest.approx(data[name][t], abs=1e-10)
    assert weighted.mean().item() == pytest.approx(data["lightly_dclw"][t], abs=1e-10)
    found = torch.stack(torch.autograd.grad(2 * weighted.mean(), (z1, z2)))
    torch.testing.assert_close(found, torch.from_numpy(data["dclw_grad_through_weight"][t]), rtol=0, atol=1e-10)
    weights = von_mises_fisher_weights((z1 * z2).sum(1), sigma)
    torch.testing.assert_close(weights, torch.from_numpy(data["weights"]), rtol=0, atol=1e-10)


@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_info_nce_exceeds_dcl_by_minus_the_log_of_the_coupling(temperature):
    contrast = two_views(*draw(5))
    q = npc_multiplier(contrast, temperature)
    by_hand = [
        1 - np.exp(-loss) for loss in oracle.info_nce(*draw(5), temperature)
    ]  # exp(-L) is the positive's share of the denominator
    np.testing.assert_allclose(q, by_hand, rtol=1e-9)
    difference = info_nce(contrast, temperature) - decoupled_contrastive(contrast, temperature)
    torch.testing.assert_close(difference, -q.log())


@pytest.mark.parametrize("anchor", [0, 3, 7])
def test_the_gradient_of_info_nce_is_that_of_dcl_times_the_coupling(anchor):
    def gradient(loss):
        z = [v.requires_grad_() for v in draw(4)]
        contrast = two_views(*z)
        return torch.cat(torch.autograd.grad(loss(contrast)[anchor], z)), npc_multiplier(contrast, 0.2)[anchor]

    ours, q = gradient(lambda contrast: info_nce(contrast, 0.2))
    theirs, _ = gradient(lambda contrast: decoupled_contrastive(contrast, 0.2))
    torch.testing.assert_close(ours, q * theirs)
    assert 0.01 < q < 0.99  # else the two would hardly differ, or vanish


def test_the_coupling_goes_to_one_as_negatives_grow_many_and_to_zero_as_pairs_grow_easy():
    small, large = (npc_multiplier(two_views(*draw(batch)), 0.5).mean() for batch in (2, 200))
    assert small < 0.7
    assert large > 0.98
    easy, hard = (npc_multiplier(two_views(*draw(8, noise=noise)), 0.1).mean() for noise in (0.01, 2.0))
    assert easy < hard


def test_one_more_negative_adds_its_term_to_the_sum():
    z1, z2 = (normalize(z) for z in draw(4))
    keys, far = z2[1:], normalize(torch.full((1, 5), -1.0, dtype=torch.float64))
    queue = Contrast(z1[:1], z2[:1], keys)  # keys that hold neither anchor nor positive, as a queue's
    more = queue._replace(keys=torch.cat([keys, far]))
    before, after = (decoupled_contrastive(c, 0.3).item() for c in (queue, more))
    total = sum(np.exp((z1[0] @ k).item() / 0.3) for k in keys)
    assert after - before == pytest.approx(np.log1p(np.exp((z1[0] @ far[0]).item() / 0.3) / total), rel=1e-9)


def test_at_perfect_alignment_the_value_may_be_below_zero():
    z = torch.eye(3, dtype=torch.float64)
    loss = DecoupledContrastiveLoss(0.1)(z, z)  # two orthogonal images twice: four negatives at 0
    assert loss.item() == pytest.approx(-1 / 0.1 + np.log(4))


def test_weights_have_mean_one_favour_hard_pairs_and_vanish_as_sigma_grows():
    z1, z2 = draw(9)
    contrast = two_views(z1, z2)
    s = positive_similarity(contrast)[:9]
    w = von_mises_fisher_weights(s)
    assert w.mean().item() == pytest.approx(1, abs=1e-12)
    assert torch.equal(w.argsort(), s.argsort(descending=True))
    np.testing.assert_allclose(w, oracle.vmf_weights(z1, z2, 0.5), rtol=1e-10)
    torch.testing.assert_close(von_mises_fisher_weights(s, 1e9), torch.ones_like(w))
    torch.testing.assert_close(
        WeightedDecoupledContrastiveLoss(0.2, 1e9)(z1, z2), DecoupledContrastiveLoss(0.2)(z1, z2)
    )
    assert von_mises_fisher_weights(torch.tensor([1.0] + 9 * [-1.0]))[0] < 0  # one very easy pair among hard ones


def test_detached_weights_are_constants_in_the_gradient():
    z = [v.requires_grad_() for v in draw(5)]
    contrast = two_views(*z)
    w = von_mises_fisher_weights(positive_similarity(contrast)[:5]).detach().repeat(2)
    want = torch.autograd.grad(decoupled_contrastive(contrast, 0.1, weights=w).mean(), z)
    for found, wanted in zip(torch.autograd.grad(WeightedDecoupledContrastiveLoss(0.1)(*z), z), want, strict=True):
        torch.testing.assert_close(found, wanted)
    through = torch.autograd.grad(WeightedDecoupledContrastiveLoss(0.1, detach_weights=False)(*z), z)
    assert (through[0] - want[0]).abs().max() > 1e-3


def test_keys_without_any_negative_are_refused():
    z = torch.eye(2)
    pair = Contrast(z, z.flip(0), z, positive=torch.tensor([1, 0]), own=torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="keys must hold a negative of each anchor, got 2 keys and none among them"):
        decoupled_contrastive(pair)


def test_the_numbers_of_a_pool_must_be_positive():
    contrast = two_views(*draw(3))
    for name in ("num_hard", "chunk_size"):
        with pytest.raises(ValueError, match=f"{name} must be positive, got 0"):
            log_sum_negatives(contrast, 0.1, **{name: 0})
