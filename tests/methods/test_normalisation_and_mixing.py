import pytest
import torch
import torch.nn.functional as F
from torch import nn

from assay.data.mixing import MixedTarget
from assay.engine import Batch, Metric, Recipe, Run, Splits, Task, TensorExamples
from assay.errors import AssayError, CannotTreat
from assay.methods.cutmix import CutMix
from assay.methods.ghost_batch_norm import GhostBatchNorm
from assay.methods.multi_sample_dropout import MultiSampleDropout
from assay.nn import ghost_batch_norm


class Pictures(Task):
    name = "pictures"
    metrics = (Metric("accuracy", "max", 0.0),)
    recipe = Recipe(lr=0.05, batch_size=16)
    budget = "4steps"
    traits = frozenset({"classification", "images"})

    def splits(self, seed):
        g = torch.Generator().manual_seed(seed)
        part = TensorExamples(torch.randn(64, 1, 6, 6, generator=g), torch.randint(3, (64,), generator=g))
        return Splits(part, part, part)

    def model(self):
        return nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 3)
        )

    def loss(self, outputs, targets, reduction="mean"):
        return F.cross_entropy(outputs, targets, reduction=reduction)

    def outcomes(self, model, batch):
        return {"accuracy": (model(batch.x).argmax(1) == batch.y).float()}


class Plain(Pictures):
    name = "plain"
    traits = frozenset({"classification"})

    def model(self):
        return nn.Linear(6, 3)


def trained(*methods, **settings):
    run = Run(Pictures(), Pictures.recipe.with_methods(methods), **settings)
    record = run.train()
    assert record.status == "finished"
    return run, record


def weights(run):
    return [p.detach().clone() for p in run.model.parameters()]


def test_ghost_batch_norm_replaces_the_layers_and_scales_the_rate():
    run, _ = trained(GhostBatchNorm(ghost_batch_size=4))
    assert isinstance(run.model[1], ghost_batch_norm.GhostBatchNorm)
    assert run.model[1].num_batches_tracked == 4 * 4
    assert run.optimizer.param_groups[0]["lr"] == pytest.approx(0.05 * 2)
    run, _ = trained(GhostBatchNorm(ghost_batch_size=4, scale_lr=False))
    assert run.optimizer.param_groups[0]["lr"] == 0.05


def test_ghost_batch_norm_refuses_what_it_cannot_change():
    with pytest.raises(CannotTreat, match="changes nothing at a batch size of 16"):
        Run(Pictures(), Pictures.recipe.with_methods([GhostBatchNorm(ghost_batch_size=16)]))
    with pytest.raises(CannotTreat, match="must hold a BatchNorm layer"):
        Run(Plain(), Plain.recipe.with_methods([GhostBatchNorm(ghost_batch_size=4)])).build()
    with pytest.raises(AssayError, match="ghost_batch_size must be positive, got 0"):
        GhostBatchNorm(ghost_batch_size=0)


def test_cutmix_mixes_the_batch_and_its_loss():
    run = Run(Pictures(), Pictures.recipe.with_methods([CutMix()]))
    run.build()
    batch = run.stream.next()
    mixed = run.methods[0].batch(run, batch)
    assert isinstance(mixed.y, MixedTarget)
    assert torch.equal(mixed.y.y_a, batch.y)
    run.model.eval()
    logits, (a, b, lam) = run.model(mixed.x), mixed.y
    want = lam * F.cross_entropy(logits, a) + (1 - lam) * F.cross_entropy(logits, b)
    torch.testing.assert_close(run.objective(mixed), want)
    plain = Batch(batch.x, batch.y, batch.ids)
    torch.testing.assert_close(run.objective(plain), F.cross_entropy(run.model(batch.x), batch.y))


def test_cutmix_that_is_off_trains_to_the_same_bits():
    off, _ = trained(CutMix(prob=0.0))
    none, _ = trained()
    assert all(torch.equal(a, b) for a, b in zip(weights(off), weights(none), strict=True))
    on, _ = trained(CutMix())
    assert not torch.equal(weights(on)[0], weights(none)[0])


def test_cutmix_refuses_what_it_cannot_change():
    with pytest.raises(CannotTreat, match="needs images"):
        Run(Plain(), Plain.recipe.with_methods([CutMix()]))
    with pytest.raises(AssayError, match="prob must lie in"):
        CutMix(prob=2.0)


def test_multi_sample_dropout_of_one_sample_trains_to_the_same_bits():
    one, _ = trained(MultiSampleDropout(num_samples=1))
    none, _ = trained()
    assert all(torch.equal(a, b) for a, b in zip(weights(one), weights(none), strict=True))


def test_multi_sample_dropout_costs_the_head_only():
    eight, record = trained(MultiSampleDropout(num_samples=8))
    _, plain = trained()
    head = 3 * 2 * 16 * 64 * 3  # forward, and backward to weights and features, of 16 rows
    assert record.flops - plain.flops == 4 * 7 * head
    assert eight.model[4].num_samples == 8


def test_multi_sample_dropout_refuses_what_it_cannot_change():
    with pytest.raises(CannotTreat, match="dropout with p > 0"):
        Run(Plain(), Plain.recipe.with_methods([MultiSampleDropout()])).build()
    with pytest.raises(AssayError, match="num_samples must be positive, got 0"):
        MultiSampleDropout(num_samples=0)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_the_three_work_together_in_any_order(order):
    methods = [GhostBatchNorm(ghost_batch_size=4), CutMix(), MultiSampleDropout(num_samples=3)]
    trained(*(methods[i] for i in order))


def test_a_stopped_run_goes_on_to_the_same_bits(tmp_path):
    methods = [GhostBatchNorm(ghost_batch_size=4), CutMix(), MultiSampleDropout(num_samples=3)]
    whole, _ = trained(*methods)
    first = Run(Pictures(), Pictures.recipe.with_methods(methods), folder=tmp_path, checkpoint_every=0.0)
    first.train()
    newest = max(tmp_path.iterdir())
    newest.unlink()  # back to the checkpoint of the step before the last
    again, _ = trained(*methods, folder=tmp_path)
    assert again.steps == 4
    assert all(torch.equal(a, b) for a, b in zip(weights(again), weights(whole), strict=True))
