"""Passes over the hardest batches: against a naive list of pairs, and the paper's own code by its vectors."""

from itertools import islice

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from assay.data.hard_minibatch import HardMiniBatchSampler


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def batch_of(rows, size):
    """The number of the batch that `rows` are, where samples lie in their order."""
    assert rows == list(range(rows[0], rows[0] + size))
    return rows[0] // size


def visits(sampler, losses, size=2):
    """The batches visited while the n-th visit has loss `losses[n]`."""
    found = []
    while sampler.steps < len(losses):
        for rows in islice(sampler, len(losses) - sampler.steps):
            found.append(batch_of(rows, size))
            sampler.record(losses[sampler.steps])
    return found


def naive(count, delta, losses):
    """What the paper's words say, on a list of [loss, batch] that is sorted in place pass after pass."""
    table, found = [[0.0, i] for i in range(count)], []
    chosen = list(range(count))
    while True:
        for batch in chosen:
            if len(found) == len(losses):
                return found
            next(row for row in table if row[1] == batch)[0] = losses[len(found)]
            found.append(batch)
        table.sort(key=lambda row: row[0], reverse=True)
        chosen = sorted(row[1] for row in table[: int(delta * count)])


@pytest.mark.parametrize("delta", [0.2, 0.5, 0.57, 0.8, 0.999, 1.0])
def test_passes_are_those_of_the_papers_words_with_ties_too(delta):
    for seed in range(5):
        losses = torch.randint(4, (53,), generator=seeded(seed)).double().tolist()  # few values, so many ties
        found = visits(HardMiniBatchSampler(14, 2, delta), losses)
        assert found == naive(7, delta, losses)


def test_the_share_is_rounded_down_as_doubles_have_it():
    assert HardMiniBatchSampler(100, 1, 0.57).kept == 56
    assert HardMiniBatchSampler(100, 1, 0.29).kept == 28
    assert HardMiniBatchSampler(100, 1, 0.2).kept == 20


def test_delta_one_is_all_batches_in_order_for_ever():
    assert visits(HardMiniBatchSampler(8, 2, 1.0), [3.0, 9.0, 1.0, 2.0] * 3) == [0, 1, 2, 3] * 3


def test_equal_losses_keep_the_order_of_the_ranking_before():
    # after pass 1 the ranking is 3 2 1 0; then 2 and 3 fall to a tie with 1: 3 2 1 stay in that order, before 0
    assert visits(HardMiniBatchSampler(8, 2, 0.5), [0.0, 1.0, 2.0, 3.0, 1.0, 1.0, 1.0, 1.0]) == [0, 1, 2, 3, 2, 3, 2, 3]


def test_what_is_not_visited_keeps_its_loss():
    # batch 0 was at 5 and is left alone once 1 and 2 are harder; as these fall, it comes back by its old loss
    assert visits(HardMiniBatchSampler(6, 2, 0.7), [5.0, 6.0, 7.0, 4.0, 3.0, 1.0, 1.0]) == [0, 1, 2, 1, 2, 0, 1]


def test_the_papers_code_is_reproduced(vectors):
    found = np.load(vectors / "hard-minibatch.npz", allow_pickle=False)
    for case in ("c0", "c1", "c2"):
        x, y, weight, bias, config = (
            torch.from_numpy(found[f"{case}_{name}"]) for name in ("X", "Y", "W_init", "b_init", "cfg")
        )
        count, size, delta, epochs, lr, momentum = config.tolist()
        weight.requires_grad_()
        bias.requires_grad_()
        optimizer = torch.optim.SGD([weight, bias], lr=lr, momentum=momentum)
        sampler = HardMiniBatchSampler(len(x), int(size), delta)
        loader = DataLoader(TensorDataset(x, y, torch.arange(len(x))), batch_sampler=sampler)
        batches, losses = [], []
        assert sampler.steps_per_epoch == count
        while (left := int(epochs * count) - sampler.steps) > 0:
            for x_, y_, rows in islice(loader, left):
                loss = cross_entropy(x_ @ weight.T + bias, y_)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                sampler.record(loss)
                batches.append(batch_of(rows.tolist(), int(size)))
                losses.append(loss.item())
        assert batches == found[f"{case}_step_batch"].tolist()
        np.testing.assert_allclose(losses, found[f"{case}_step_loss"], rtol=1e-10)
        np.testing.assert_allclose(weight.detach(), found[f"{case}_W_final"], rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(bias.detach(), found[f"{case}_b_final"], rtol=1e-10, atol=1e-10)


def test_a_generator_draws_once_which_samples_go_together():
    sampler = HardMiniBatchSampler(23, 4, 1.0, generator=seeded(5))
    passes = []
    for _ in range(2):
        passes.append(list(sampler))
        for _ in passes[-1]:
            sampler.record(1.0)
    assert passes[0] == passes[1]
    assert np.concatenate(passes[0]).tolist() == torch.randperm(23, generator=seeded(5))[:20].tolist()


def test_the_short_batch_is_kept_where_it_is_wanted():
    assert [len(rows) for rows in HardMiniBatchSampler(10, 4, drop_last=False)] == [4, 4, 2]
    assert [len(rows) for rows in HardMiniBatchSampler(10, 4)] == [4, 4]


@pytest.mark.parametrize("at", [0, 3, 7, 9, 11, 12])
def test_in_the_midst_of_a_pass_a_state_goes_on_to_the_same_batches(at):
    losses = torch.rand(40, generator=seeded()).double()
    whole, first = (HardMiniBatchSampler(14, 2, 0.6, generator=seeded(1)) for _ in range(2))
    for n in range(at):
        for sampler in (whole, first):
            sampler.due()
            sampler.record(losses[n])
    state = first.state_dict()
    first.due()
    first.record(99.0)  # what comes after must not be in it
    again = HardMiniBatchSampler(14, 2, 0.6, generator=seeded(2))
    list(again)
    again.load_state_dict(state)
    assert len(again) == len(whole)
    for n in range(at, 40):
        assert torch.equal(whole.due(), again.due())
        for sampler in (whole, again):
            sampler.record(losses[n])


def test_a_state_can_be_written_and_read_without_pickled_code(tmp_path):
    sampler = HardMiniBatchSampler(14, 2)
    sampler.record(torch.tensor(2.0, requires_grad=True))
    torch.save(sampler.state_dict(), tmp_path / "state.pt")
    sampler.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert sampler.due().tolist() == [2, 3]


def test_a_loader_that_reads_ahead_changes_nothing():
    data = TensorDataset(torch.arange(24.0))
    found = []
    for workers in (0, 2):
        sampler = HardMiniBatchSampler(24, 2, 0.5)
        loader = DataLoader(data, batch_sampler=sampler, num_workers=workers)
        found.append([])
        while sampler.steps < 30:
            for (x,) in islice(loader, 4):  # passes broken off, too
                found[-1].append(x.tolist())
                sampler.record((x.sum() * 7.7 % 3.1).item())
    assert found[0] == found[1]


def test_lengths_are_those_of_the_next_iteration():
    sampler = HardMiniBatchSampler(12, 2, 0.5)
    for length in (6, 3, 3):
        assert len(sampler) == length == len(list(sampler))
        for _ in range(length):
            sampler.record(0.0)
    next(iter(sampler))
    sampler.record(0.0)
    assert len(sampler) == 2


def test_nan_ranks_highest_and_is_told():
    sampler = HardMiniBatchSampler(8, 2, 0.5)
    with pytest.warns(UserWarning, match="is NaN, which ranks highest"):
        assert visits(sampler, [1.0, float("nan"), float("inf"), 2.0, 0.0, 0.0]) == [0, 1, 2, 3, 1, 2]


def test_losses_of_low_precision_rank_as_they_are():
    sampler = HardMiniBatchSampler(6, 2, 0.34)
    for loss in (1.0, 1.5, 0.5):
        sampler.record(torch.tensor(loss, dtype=torch.bfloat16))
    assert sampler.due().tolist() == [2, 3]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")
def test_losses_on_a_gpu_are_read_only_between_passes():
    sampler = HardMiniBatchSampler(6, 2, 0.34)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for loss in torch.tensor([1.0, 3.0, 2.0], device="cuda"):
            sampler.record(loss)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert sampler.due().tolist() == [2, 3]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((0, 4), "samples must fill at least one batch of 4, got 0"),
        ((3, 4), "samples must fill at least one batch of 4, got 3"),
        ((8, 0), "batch_size must be positive, got 0"),
        ((8, 2, 0.0), r"delta must lie in \(0, 1\], got 0.0"),
        ((8, 2, 1.01), r"delta must lie in \(0, 1\], got 1.01"),
        ((8, 2, float("nan")), r"delta must lie in \(0, 1\], got nan"),
        ((8, 2, 0.2), "delta must be 0.25 or more, to keep one of 4 batches; got 0.2"),
    ],
)
def test_bad_input_is_told_what_it_was(given, message):
    with pytest.raises(ValueError, match=message):
        HardMiniBatchSampler(*given)


def test_too_many_losses_and_none_are_refused():
    sampler = HardMiniBatchSampler(4, 2)
    list(sampler)
    with pytest.raises(RuntimeError, match="no loss was recorded in the last pass"):
        list(sampler)
    sampler.record(1.0)
    sampler.record(1.0)
    with pytest.raises(RuntimeError, match="the pass is over: it had 2 batches"):
        sampler.record(1.0)


def test_a_state_of_other_data_is_refused():
    state = HardMiniBatchSampler(8, 2).state_dict()
    with pytest.raises(ValueError, match="state must be of 10 samples in 5 batches, got 8 in 4"):
        HardMiniBatchSampler(10, 2).load_state_dict(state)
