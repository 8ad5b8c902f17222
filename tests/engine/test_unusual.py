"""Several optimizers, and batches that depend on the model: they train, and go on exactly after a stop."""

import numpy as np
import pytest
import torch
from unusual import Corner, DigitsGAN, Grid, play
from workloads import bits

from assay.engine import Method, Run
from assay.errors import Interrupted


def exactly_resumed(make, tmp_path, at):
    whole = make(None)
    expected = bits(whole, whole.train())
    for step in at:
        run = make(tmp_path)
        run.watch = lambda run, step=step: run.stop() if run.steps == step else None
        with pytest.raises(Interrupted, match=f"after {step} steps"):
            run.train()
    run = make(tmp_path)
    return bits(run, run.train()) == expected


def test_a_gan_trains_with_two_optimizers():
    updates = []

    class Note(Method):
        name = "note"

        def updated(self, run):
            updates.append((run.updating, run.extras.get("generator_loss"), run.extras.get("discriminator_loss")))

    run = Run(DigitsGAN(), DigitsGAN.recipe.with_methods([Note()]), evaluations=12)
    run.build()
    untrained = run.evaluate(run.splits.valid).metrics
    record = run.train()
    assert [name for name, *_ in updates[:4]] == ["discriminator", "generator"] * 2
    assert len(updates) == 2 * record.steps
    for name in ("mean_gap", "spread_gap"):
        assert record.metrics["valid"][name] < 0.6 * untrained[name]
    fooled, judged = np.array(updates[2:], object)[:, 1:].astype(float).T
    assert judged[:20].mean() > judged[20:60].min()  # it learns to judge
    assert np.ptp(fooled) > 0.3  # and the generator to fool it
    assert record.status == "finished"


def test_a_gan_goes_on_exactly(tmp_path):
    def make(folder):
        recipe = DigitsGAN.recipe.with_settings({"schedule": "linear"})
        return Run(DigitsGAN(), recipe, budget="1.5epochs", folder=folder, checkpoint_every=0.0)

    assert exactly_resumed(make, tmp_path, at=(7, 8, 30))


def test_the_grid_plays_by_its_rules():
    grid = Grid(games=2)
    for action in (0, 0, 0, 2, 2):
        assert grid.move(np.array([action, 1])).tolist() == [-1, -1]
    assert grid.at.tolist() == [[3, 2], [0, 0]]
    assert grid.move(np.array([2, 3])).tolist() == [-1, -1]
    assert grid.over.tolist() == [True, False]
    assert grid.move(np.array([1, 2])).tolist() == [0, -1]
    assert grid.at.tolist() == [[3, 3], [0, 1]]


def test_a_policy_learns_from_games_that_it_plays_itself():
    record = Run(Corner()).train()
    chance = play(lambda seen: torch.zeros(len(seen), 4), 200, torch.Generator().manual_seed(0))[2].sum(0).mean().item()
    best = -6.0
    assert record.metrics["valid"]["return"] > chance + 0.8 * (best - chance)
    assert record.epochs == 0.0
    assert record.samples > 60 * 16 * 6


def test_a_policy_goes_on_exactly(tmp_path):
    def make(folder):
        return Run(Corner(), budget="12steps", folder=folder, checkpoint_every=0.0)

    assert exactly_resumed(make, tmp_path, at=(1, 5, 11))
