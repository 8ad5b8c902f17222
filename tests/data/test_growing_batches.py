"""Batches that grow: nothing is lost or doubled, whatever the sizes, and a resumed loader goes on alike."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from assay.data.growing_batches import GrowingBatchSampler
from assay.engine import ShuffledStream, TensorExamples


def data(samples):
    return TensorDataset(torch.arange(samples))


def step(loader):
    """The parts of one step."""
    return [x.tolist() for (x,) in loader]


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 40), st.lists(st.floats(0, 1), max_size=15), st.integers(1, 12), st.integers(0, 2**40))
def test_every_pass_has_every_sample_once_whatever_the_sizes(samples, sizes, part_size, seed):
    sampler = GrowingBatchSampler(samples, 1, part_size, seed=seed)
    loader = DataLoader(data(samples), batch_sampler=sampler)
    seen = []
    for size in sizes:
        sampler.batch_size = b = max(1, round(size * samples))
        parts = step(loader)
        assert sum(map(len, parts)) == b
        assert len(parts) == -(-b // part_size)
        assert max(map(len, parts)) <= min(part_size, min(map(len, parts)) + 1)
        seen += [i for part in parts for i in part]
        assert sampler.drawn == len(seen)
    for start in range(0, len(seen) - samples + 1, samples):
        assert sorted(seen[start : start + samples]) == list(range(samples))


def test_the_order_does_not_depend_on_the_sizes_but_on_the_seed():
    def order(sizes, seed):
        sampler, found = GrowingBatchSampler(30, 1, seed=seed), []
        for size in sizes:
            sampler.batch_size = size
            found += sampler.draw().tolist()
        return found

    assert order([1] * 60, 3) == order([30, 30], 3) == order([7, 20, 30, 3], 3)
    assert order([30], 3) != order([30], 4)
    assert order([30, 30], 3)[:30] != order([30, 30], 3)[30:]


def test_the_order_is_that_of_batches_of_one_size():
    stream = ShuffledStream(TensorExamples(torch.zeros(24, 1), torch.zeros(24)), 6, seed=5)
    sampler = GrowingBatchSampler(24, 8, seed=5)
    assert [i for _ in range(8) for i in stream.next().ids.tolist()] == [
        i for _ in range(6) for i in sampler.draw().tolist()
    ]


@pytest.mark.parametrize("before", [0, 1, 5])
def test_a_loader_goes_on_where_its_state_was_taken(before):
    def grown(sampler, steps):
        found = []
        for _ in range(steps):
            found.append(step(DataLoader(data(20), batch_sampler=sampler)))
            sampler.batch_size = min(20, sampler.batch_size * 2)
        return found

    sampler = GrowingBatchSampler(20, 2, 6, seed=1)
    grown(sampler, before)
    other = GrowingBatchSampler(20, 2, 6, seed=1)
    other.draw()  # what it did before must not matter
    other.load_state_dict(sampler.state_dict())
    assert grown(other, 6) == grown(sampler, 6)


def test_workers_load_the_same():
    samplers = [GrowingBatchSampler(20, 5, 3, seed=1) for _ in range(2)]
    plain = DataLoader(data(20), batch_sampler=samplers[0])
    spread = DataLoader(data(20), batch_sampler=samplers[1], num_workers=2, persistent_workers=True)
    for size in (5, 9, 20, 20):
        for sampler in samplers:
            sampler.batch_size = size
        assert step(plain) == step(spread)


def test_parts_add_up_to_the_gradient_of_the_whole_batch():
    draw = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 20, 3, generator=draw, dtype=torch.float64)
    model = nn.Linear(3, 3).double()
    sampler = GrowingBatchSampler(20, 17, 5)
    loader = DataLoader(TensorDataset(x, y), batch_sampler=sampler)
    ids = GrowingBatchSampler(20, 17).draw()
    for a, b in loader:
        (nn.functional.mse_loss(model(a), b) * len(a) / sampler.batch_size).backward()
    wanted = torch.autograd.grad(nn.functional.mse_loss(model(x[ids]), y[ids]), model.weight)[0]
    torch.testing.assert_close(model.weight.grad, wanted)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((0, 1), "samples must be positive, got 0"),
        ((5, 0), r"batch_size must lie in 1\.\.5, the samples there are, got 0"),
        ((5, 6), "batch_size must lie in"),
        ((5, 2, 0), "part_size must be positive, got 0"),
    ],
)
def test_sizes_out_of_range_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        GrowingBatchSampler(*given)
