"""The same seed and method give the same weights in every host as in our engine, after 20 steps, to the bit."""

from dataclasses import replace

import pytest
import torch
from hosts import HOSTS, STEPS, TRAIN, Recorder, by_engine

from assay.engine import Batch, Method, Recipe
from assay.methods.bn_only import BatchNormOnly
from assay.methods.cosine import Cosine
from assay.methods.cutmix import CutMix
from assay.methods.ghost_batch_norm import GhostBatchNorm
from assay.methods.label_smoothing import LabelSmoothing
from assay.methods.lamb import LAMB
from assay.methods.layer_norm import LayerNorm
from assay.methods.multi_sample_dropout import MultiSampleDropout
from assay.methods.weight_distance import WeightDistance
from assay.methods.weight_standardization import WeightStandardization

pytest.importorskip("lightning")
pytest.importorskip("transformers")

RECIPE = Recipe(lr=0.05, batch_size=8, weight_decay=0.01, schedule="linear", clip_norm=0.5)


class SignNoise(Method):
    """`gradients`: noise of its own generator, before the clipping."""

    name = "sign-noise"

    def gradients(self, run):
        for p in run.model.parameters():
            p.grad += 0.1 * torch.randn(p.shape, generator=run.generator("sign-noise"))


class Shrink(Method):
    """`updated`: weights shrink by the rate of the step that was just done."""

    name = "shrink"

    def updated(self, run):
        with torch.no_grad():
            for p in run.model.parameters():
                p *= 1 - run.optimizer.param_groups[0]["lr"]


class Restart(Method):
    """`epoch`: momentum is forgotten, and weights shrink by progress and by a rate that is still the last step's."""

    name = "restart"

    def epoch(self, run):
        run.optimizer.state.clear()
        with torch.no_grad():
            for p in run.model.parameters():
                p *= 1 - 0.1 * run.progress - run.optimizer.param_groups[0]["lr"]


class Sharp(Method):
    """`step`: a step at the end of a small step uphill, by two backward passes and one update."""

    name = "sharp"

    def step(self, run, batch, proceed):
        run.backward(run.objective(batch))
        moved = [(p, 0.05 * p.grad) for p in run.model.parameters()]
        with torch.no_grad():
            for p, by in moved:
                p += by
                p.grad = None
        loss = run.objective(batch)
        run.backward(loss)
        with torch.no_grad():
            for p, by in moved:
                p -= by
        run.update()
        return loss


class Twice(Method):
    """`step`: each batch is learnt twice, the second time its mirror image."""

    name = "twice"

    def step(self, run, batch, proceed):
        proceed(batch)
        return proceed(Batch(batch.x.flip(-1), batch.y, batch.ids))


class Fold(Method):
    """`finish`: another network than the trained one is left."""

    name = "fold"

    def finish(self, run):
        run.model = torch.nn.Sequential(run.model, torch.nn.Softmax(1))


METHODS = {
    "none": [],
    "batch and objective": [CutMix(prob=0.5)],
    "loss": [LabelSmoothing()],
    "loss within loss": [CutMix(), LabelSmoothing(0.2)],
    "surgery and loss": [MultiSampleDropout(num_samples=3)],
    "surgery and rate": [GhostBatchNorm(ghost_batch_size=4)],
    "surgery": [LayerNorm()],
    "surgery of convolutions": [WeightStandardization(num_groups=2)],
    "frozen parts": [BatchNormOnly()],
    "optimizer": [LAMB(lr=0.01)],
    "schedule": [Cosine()],
    "gradients": [SignNoise()],
    "updated": [Shrink()],
    "epoch": [Restart()],
    "step that watches": [WeightDistance()],
    "step of its own": [Sharp()],
    "step done twice": [Twice()],
    "step and gradients": [Twice(), SignNoise(), Shrink(), LAMB(lr=0.01)],
    "finish": [Fold()],
}


@pytest.mark.parametrize("kind", METHODS)
def test_every_host_ends_with_the_weights_of_the_engine(kind):
    # LAMB has two groups of parameters. To clip, Hugging Face's Trainer sums up the norm in the model's order, all
    # others in the groups'. Such rounding grows, as LAMB divides by itself the gradient of a bias before batch norm,
    # which is nothing but rounding. In "step and gradients" the session clips, and LAMB is clipped alike everywhere.
    recipe = replace(RECIPE, clip_norm=0.0) if kind == "optimizer" else RECIPE
    run = by_engine(METHODS[kind], recipe)
    wanted = run.model.state_dict()
    plain = by_engine([], recipe).model.state_dict() if kind not in ("none", "step that watches", "finish") else {}
    assert plain.keys() != wanted.keys() or any(not torch.equal(plain[name], wanted[name]) for name in wanted)
    for host in HOSTS:
        session = TRAIN[host](METHODS[kind], recipe)
        got = session.model.state_dict()
        assert got.keys() == wanted.keys()
        different = [name for name in wanted if not torch.equal(got[name], wanted[name])]
        assert not different, f"{host}: {different}"
        assert (session.steps, session.samples, session.extras) == (STEPS, run.samples, run.extras)


@pytest.mark.parametrize("kind", ["batch and objective", "loss", "gradients", "step of its own", "step and gradients"])
def test_every_host_ends_with_the_weights_of_the_engine_in_mixed_precision(kind):
    recipe = replace(RECIPE, precision="bf16-mixed")
    wanted = by_engine(METHODS[kind], recipe).model.state_dict()
    full = by_engine(METHODS[kind], RECIPE).model.state_dict()
    assert any(not torch.equal(full[name], wanted[name]) for name in wanted)
    for host in HOSTS:
        got = TRAIN[host](METHODS[kind], recipe).model.state_dict()
        different = [name for name in wanted if not torch.equal(got[name], wanted[name])]
        assert not different, f"{host}: {different}"


def test_every_host_calls_the_hooks_in_the_order_of_the_engine():
    wanted = Recorder()
    by_engine([wanted], RECIPE)
    assert {name.split()[0] for name, _ in wanted.log} == {
        *("setup", "batch", "objective", "gradients", "updated", "epoch", "finish")
    }
    for host in HOSTS:
        recorder = Recorder()
        TRAIN[host]([recorder], RECIPE)
        assert recorder.log == wanted.log, host
