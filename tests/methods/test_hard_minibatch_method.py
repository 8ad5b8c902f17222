"""Hard mini-batches in a run: the same cost as ordinary training, the same bits after an interruption in mid-pass."""

import sys
from itertools import islice
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))

from unusual import Corner
from workloads import Blobs, bits

from assay.data.hard_minibatch import HardMiniBatchSampler
from assay.engine import Method, Recipe, Run, Task
from assay.errors import AssayError, CannotTreat, Interrupted
from assay.methods.hard_minibatch import HardMiniBatch

RECIPE = Recipe(lr=0.05, batch_size=16)


class Watched(Method):
    """Keeps which samples each step has, and its loss."""

    name = "watched"

    def setup(self, run):
        self.ids, self.losses = [], []

    def step(self, run, batch, proceed):
        loss = proceed(batch)
        self.ids.append(batch.ids.tolist())
        self.losses.append(loss.item())
        return loss


def trained(*methods, budget="5epochs", task=None, **changes):
    run = Run(task or Blobs(), RECIPE.with_methods([*methods, Watched()]), 1, budget, evaluations=2, **changes)
    return run, run.train()


def test_the_first_epoch_is_the_ordinary_one_and_delta_one_repeats_it():
    ordinary, frozen, half = (trained(*methods)[0] for methods in ((), (HardMiniBatch(1.0),), (HardMiniBatch(),)))
    first = ordinary.methods[-1].ids[:10]
    assert frozen.methods[-1].ids == first * 5
    assert half.methods[-1].ids[:10] == first
    assert half.methods[-1].losses[:10] == ordinary.methods[-1].losses[:10]
    assert half.methods[-1].ids[10:] != frozen.methods[-1].ids[10:]


@pytest.mark.parametrize("delta", [1.0, 0.5, 0.21])
def test_an_epoch_is_as_many_steps_samples_and_flops_as_ever(delta):
    _, mine = trained(HardMiniBatch(delta), budget="3.5epochs")
    _, theirs = trained(budget="3.5epochs")
    for name in ("steps", "samples", "flops", "epochs"):
        assert getattr(mine, name) == getattr(theirs, name), name
    assert mine.steps == 35


def test_a_run_visits_the_batches_of_highest_loss():
    """The choice is made anew from the losses that the run itself had; augmentation makes them differ from visit to
    visit."""
    run, _ = trained(HardMiniBatch(0.5))
    seen = run.methods[-1]
    table, at = {}, 0
    chosen = seen.ids[:10]
    while at < len(seen.ids):
        for rows in chosen:
            assert seen.ids[at] == rows
            table[tuple(rows)] = seen.losses[at]
            at += 1
        hardest = sorted(table, key=table.get, reverse=True)[:5]
        chosen = [rows for rows in seen.ids[:10] if tuple(rows) in hardest]


def test_a_run_is_a_bare_loop_with_the_sampler():
    task = Blobs(hidden=0)
    run, _ = trained(HardMiniBatch(0.3), task=task)
    again = Run(task, RECIPE, 1, "5epochs")
    again.build()
    model, data = again.model, again.splits.train
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    draws = torch.Generator().manual_seed(again.seed_for("augment"))
    order = torch.Generator().manual_seed(again.seed_for("order"))
    sampler = HardMiniBatchSampler(len(data), 16, 0.3, generator=order)
    while (left := 50 - sampler.steps) > 0:
        for rows in islice(sampler, left):
            x, y = data.batch(torch.tensor(rows), draws)
            loss = F.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            sampler.record(loss)
    assert torch.equal(model.weight, run.model.weight)


@pytest.mark.parametrize("at", [4, 10, 12, 17])  # in the first pass, at its end, in the second, in the third
def test_interrupted_in_mid_pass_a_run_goes_on_to_the_same_bits(at, tmp_path):
    def make(watch=None):
        recipe = Recipe(schedule="cosine", batch_size=16).with_methods([HardMiniBatch(0.5)])
        task = Blobs(noisy=True)
        return Run(task, recipe, 3, "3epochs", evaluations=3, folder=tmp_path / "c", checkpoint_every=0.0, watch=watch)

    whole = make()
    expected = bits(whole, whole.train())
    for file in (tmp_path / "c").iterdir():
        file.unlink()
    with pytest.raises(Interrupted, match=f"after {at} steps"):
        make(lambda run: run.stop() if run.steps == at else None).train()
    run = make()
    assert bits(run, run.train()) == expected


def test_what_has_no_fixed_batches_is_refused_by_name():
    with pytest.raises(CannotTreat, match=r"'hard-minibatch' cannot treat task '\S+': that draws its batches in a way"):
        Run(Corner(), RECIPE.with_methods([HardMiniBatch()]))

    class NoData(Blobs):
        def splits(self, seed):
            return Task.splits(self, seed)

    with pytest.raises(CannotTreat, match="'hard-minibatch' needs training data, and task 'blobs' has none"):
        trained(HardMiniBatch(), task=NoData())
    with pytest.raises(CannotTreat, match=r"cannot treat task 'blobs': delta must be 0\.1 or more, to keep one of 10"):
        trained(HardMiniBatch(0.05))
    with pytest.raises(AssayError, match=r"delta must lie in \(0, 1\], got 0"):
        HardMiniBatch(0.0)


def test_a_loss_that_stops_being_finite_ends_the_run_as_ever():
    class Breaks(Blobs):
        def objective(self, run, batch):
            loss = super().objective(run, batch)
            return loss * float("nan") if run.steps == 13 else loss

    with pytest.warns(UserWarning, match="NaN, which ranks highest"):
        _, record = trained(HardMiniBatch(), task=Breaks())
    assert (record.status, record.diverged_at) == ("diverged", 14)
