"""FRUGAL and LoRA as methods of a run."""

import pytest
import torch
from torch import nn

from assay.engine import Recipe, Run, Splits, Task, TensorExamples
from assay.errors import AssayError, CannotTreat
from assay.methods.frugal import FRUGAL
from assay.methods.lora import LoRA

ADAMW = Recipe(optimizer="adamw", lr=0.01, beta2=0.99, weight_decay=0.1, batch_size=8, schedule="cosine", warmup=0.2)


class Blobs(Task):
    name = "blobs"

    def __init__(self, depth=2):
        self.depth = depth

    def splits(self, seed):
        draw = torch.Generator().manual_seed(0)
        y = torch.randint(3, (64,), generator=draw)
        made = TensorExamples(torch.randn(64, 4, generator=draw) + y[:, None], y)
        return Splits(made, made, made)

    def model(self):
        hidden = [nn.Sequential(nn.Linear(4 if i == 0 else 8, 8), nn.Tanh()) for i in range(self.depth)]
        return nn.Sequential(*hidden, nn.Linear(8 if self.depth else 4, 3))

    def loss(self, outputs, targets, reduction="mean"):
        return nn.functional.cross_entropy(outputs, targets, reduction=reduction)

    def outcomes(self, model, batch):
        return {"loss": self.loss(model(batch.x), batch.y, "none")}


def trained(method=None, depth=2, recipe=ADAMW, **settings):
    run = Run(Blobs(depth), recipe.with_methods([method] if method else []), budget="10steps", **settings)
    return run, run.train()


def test_density_one_without_resets_is_the_recipe_of_adamw():
    plain, _ = trained()
    frugal, _ = trained(FRUGAL(1.0, projection="columns", update_gap=3, reset_statistics=False))
    for mine, theirs in zip(frugal.model.parameters(), plain.model.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)


def test_weights_of_hidden_layers_alone_are_projected():
    run, record = trained(FRUGAL(0.5, projection="columns"))
    (dense,) = [g["params"] for g in run.optimizer.param_groups if g["projection"] == "columns"]
    assert [p.shape for p in dense] == [(8, 4), (8, 8)]
    held = 4 * (2 * (8 * 2 + 8 * 4 + 3 * 8 + 8 + 8 + 3) + 2 + 4 + 6)  # moments, columns, steps
    assert record.extras["optimizer state (bytes)"] == held


def test_the_memory_of_blocks_is_that_of_the_largest():
    _, record = trained(FRUGAL(0.5, update_gap=5, block_order="descending"))  # the larger of two blocks, then the other
    dense = 3 * 8 + 8 + 8 + 3
    assert record.extras["optimizer state (bytes)"] == 4 * (2 * (8 * 8 + dense) + 1 + 4)  # moments, steps


def test_a_run_killed_and_resumed_is_the_same_run(tmp_path):
    method = FRUGAL(0.5, projection="randk", update_gap=3)
    whole, _ = trained(method)
    run = Run(Blobs(), ADAMW.with_methods([method]), budget="10steps", folder=tmp_path, checkpoint_every=0.0)
    with pytest.MonkeyPatch.context() as patch:
        take = Run.take_step

        def killed(self):
            if self.steps == 5:
                raise KeyboardInterrupt
            return take(self)

        patch.setattr(Run, "take_step", killed)
        with pytest.raises(KeyboardInterrupt):
            run.train()
    again = Run(Blobs(), ADAMW.with_methods([method]), budget="10steps", folder=tmp_path)
    again.train()
    assert whole.seed == again.seed
    for mine, theirs in zip(again.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_its_own_rate_takes_the_place_of_the_recipes():
    own, _ = trained(FRUGAL(lr=0.03))
    recipes, _ = trained(FRUGAL(), recipe=ADAMW.with_settings({"lr": 0.03}))
    for mine, theirs in zip(own.model.parameters(), recipes.model.parameters(), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"density": 2.0}, r"density must lie in \[0, 1\], got 2.0"),
        ({"update_gap": 0}, "update_gap must be positive, got 0"),
        ({"lr": 0.0}, "lr must be positive, got 0.0"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(AssayError, match=message):
        FRUGAL(**settings)
    with pytest.raises(AssayError, match="rank must be at least 1, got 0"):
        LoRA(0)


@pytest.mark.parametrize("method", [FRUGAL(), LoRA()])
def test_a_network_of_one_layer_is_refused(method):
    with pytest.raises(CannotTreat, match=f"method '{method.name}' needs"):
        trained(method, depth=0)


def test_lora_trains_corrections_and_the_last_layer():
    run, record = trained(LoRA(2))
    assert record.status == "finished"
    corrections = 2 * (8 + 4) + 2 * (8 + 8)
    held = 4 * (2 * (corrections + 8 + 8 + 3 * 8 + 3) + 8)  # moments, steps
    assert record.extras["optimizer state (bytes)"] == held
    named = {name for name, p in run.model.named_parameters() if p.requires_grad}
    assert named == {f"{i}.{name}" for i, name in [(i, f"0.{x}") for i in (0, 1) for x in ("bias", "down", "up")]} | {
        "2.weight",
        "2.bias",
    }
