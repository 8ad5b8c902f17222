from itertools import pairwise

import numpy as np
import pytest
import torch

from assay.analysis.relative_penalty import penalty_by_rank, relative_penalty


def draw(anchors=5, keys=9):
    g = torch.Generator().manual_seed(0)
    return torch.rand(anchors, keys, generator=g, dtype=torch.float64) * 2 - 1, torch.arange(anchors)


def test_reference_vectors(vectors):
    data = np.load(vectors / "contrastive-temperature.npz", allow_pickle=False)
    s = torch.from_numpy(np.concatenate([data["hand_neg"], data["hand_pos"][None]]))[None]
    for tau, want in zip(data["hand_tau"], data["hand_rel_penalty"], strict=True):
        found = relative_penalty(s, torch.tensor([5]), float(tau))
        np.testing.assert_allclose(found[0, :5], want, rtol=0, atol=1e-10)


@pytest.mark.parametrize("tau", [0.07, 0.5, 3.0])
def test_it_is_the_share_of_the_gradient_of_the_loss(tau):
    s, positive = draw()
    s.requires_grad_()
    loss = torch.nn.functional.cross_entropy(s / tau, positive, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, s)
    of_positive = gradient.gather(1, positive[:, None])
    want = (gradient / -of_positive).scatter(1, positive[:, None], 0.0)
    found = relative_penalty(s.detach(), positive, tau)
    torch.testing.assert_close(found, want)
    torch.testing.assert_close(found.sum(1), torch.ones(5, dtype=torch.float64))


def test_a_higher_temperature_spreads_the_push_over_more_negatives():
    s, positive = draw()
    entropies = [
        torch.special.entr(relative_penalty(s, positive, tau)).sum(1) for tau in (0.01, 0.05, 0.2, 1.0, 5.0, 100.0)
    ]
    for lower, higher in pairwise(entropies):
        assert (lower < higher).all()


def test_shares_by_rank_go_from_all_on_the_hardest_to_even():
    s, positive = draw()
    found = penalty_by_rank(s, positive, [1e-3, 0.3, 1e4])
    assert found.shape == (3, 8)
    torch.testing.assert_close(found.sum(1), torch.ones(3, dtype=torch.float64))
    assert (found.diff(dim=1) <= 0).all()
    assert found[0, 0] > 0.99
    torch.testing.assert_close(found[2], torch.full((8,), 1 / 8, dtype=torch.float64), rtol=1e-3, atol=0)


def test_what_makes_no_sense_is_refused():
    s, positive = draw()
    with pytest.raises(ValueError, match=r"temperature must be positive and finite, got 0\.0"):
        relative_penalty(s, positive, 0.0)
    with pytest.raises(ValueError, match="a negative beside the positive, got 1 key"):
        relative_penalty(s[:, :1], positive, 0.1)
    if not hasattr(relative_penalty, "__wrapped__"):
        with pytest.raises(ValueError, match=r"positive must be one a row of similarities, got \[4\] for \[5, 9\]"):
            relative_penalty(s, positive[:4], 0.1)
