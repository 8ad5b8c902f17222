"""Bags hold every sample once, and their private means have the noise and the sensitivity that privacy asks for."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch.utils.data import DataLoader, TensorDataset

from assay.data.bags import BagBatchSampler, aggregate, bag_sizes, label_dp_aggregate, make_bags


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_bags_have_their_size_but_for_the_last():
    bags = make_bags(17, 5, seeded())
    assert bag_sizes(bags).tolist() == [5, 5, 5, 2]
    assert torch.equal(bags, make_bags(17, 5, seeded())), "the generator decides"
    assert not torch.equal(bags, make_bags(17, 5, seeded(1)))
    assert not torch.equal(bags, torch.arange(17) // 5), "random"


def test_aggregates_are_the_means_of_bags():
    y, bags = torch.randn(11, 3, generator=seeded(), dtype=torch.float64), make_bags(11, 4, seeded())
    wanted = np.stack([y.numpy()[bags.numpy() == a].mean(0) for a in range(3)])
    np.testing.assert_allclose(aggregate(y, bags).numpy(), wanted)


def test_one_response_moves_its_clipped_mean_by_no_more_than_the_sensitivity():
    """With the same noise, what is left is what the response does; the bound is met by opposite ends."""
    y, bags = torch.randn(12, generator=seeded(), dtype=torch.float64), make_bags(12, 4, seeded())
    clip, moved = 0.7, []
    for low, high in ((-9.0, 9.0), (0.0, 0.3)):
        for sample in range(12):
            one, other = y.clone(), y.clone()
            one[sample], other[sample] = low, high
            a, b = (label_dp_aggregate(v, bags, epsilon=1.0, clip=clip, generator=seeded(5)) for v in (one, other))
            assert ((a - b).abs() > 1e-12).sum() == 1
            moved.append(float((a - b).abs().max()))
    assert max(moved) == pytest.approx(2 * clip / 4)


def test_the_noise_is_laplace_of_the_scale_that_privacy_asks_for():
    count, size = 4000, 3
    bags = torch.arange(count).repeat_interleave(size)
    found = label_dp_aggregate(torch.zeros(count * size), bags, epsilon=0.5, clip=1.5, generator=seeded()).numpy()
    scale = 2 * 1.5 / (size * 0.5)
    assert stats.kstest(found, stats.laplace(scale=scale).cdf).pvalue > 0.01
    assert found.var() == pytest.approx(2 * scale**2, rel=0.1)
    again = label_dp_aggregate(torch.zeros(count * size), bags, epsilon=0.5, clip=1.5, generator=seeded())
    np.testing.assert_array_equal(found, again.numpy())


def test_a_smaller_bag_gets_more_noise():
    bags = torch.tensor([0, 1, 1, 1, 1])
    draws = torch.stack(
        [label_dp_aggregate(torch.zeros(5), bags, epsilon=1.0, clip=1.0, generator=seeded(s)) for s in range(1500)]
    )
    assert (draws[:, 0].var() / draws[:, 1].var()).item() == pytest.approx(16, rel=0.25)


def test_a_loader_gives_whole_bags_all_of_them_once():
    bags = make_bags(23, 4, seeded())
    sampler = BagBatchSampler(bags, 2, seeded(3))
    loader = DataLoader(TensorDataset(torch.arange(23)), batch_sampler=sampler)
    batches = [rows for (rows,) in loader]
    assert len(batches) == len(loader) == 3
    assert sorted(torch.cat(batches).tolist()) == list(range(23))
    for rows in batches:
        for bag in bags[rows].unique():
            assert (bags[rows] == bag).sum() == (bags == bag).sum()
    second = [rows for (rows,) in loader]
    assert [r.tolist() for r in second] != [r.tolist() for r in batches], "each pass has its order"
    assert list(BagBatchSampler(bags, 9)) == [bags.argsort(stable=True).tolist()]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: make_bags(0, 1), "bag_size must lie in 1..0"),
        (lambda: make_bags(5, 6), "bag_size must lie in 1..5, the samples, got 6"),
        (lambda: make_bags(5, 0), "got 0"),
        (lambda: bag_sizes(torch.tensor([0, 2])), "bag 1 is empty"),
        (lambda: bag_sizes(torch.tensor([], dtype=torch.int64)), "at least one number"),
        (lambda: aggregate(torch.tensor([1.0, math.nan]), torch.tensor([0, 0])), "must be finite"),
        (lambda: BagBatchSampler(torch.tensor([0, 1]), 0), "bags_per_batch must be positive, got 0"),
    ],
)
def test_what_makes_no_sense_is_refused(make, says):
    with pytest.raises(ValueError, match=says):
        make()


@pytest.mark.parametrize(("epsilon", "clip"), [(0.0, 1.0), (1.0, 0.0), (-1.0, 1.0), (math.nan, 1.0)])
def test_privacy_needs_a_budget_and_a_bound(epsilon, clip):
    with pytest.raises(ValueError, match="epsilon and clip must be positive"):
        label_dp_aggregate(torch.ones(2), torch.tensor([0, 0]), epsilon=epsilon, clip=clip, generator=seeded())
