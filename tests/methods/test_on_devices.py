"""Every method, on two devices under every strategy that it names, against one process that computes both parts."""

import importlib
import pkgutil
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))

from halves import EXACT, in_parts, same, told
from ranks import on_two_ranks
from workloads import Blobs

import assay.methods
from assay.data.mixing import CutMix as Mixing
from assay.engine import Method, Run, Splits, TensorExamples
from assay.engine.devices import part
from assay.errors import CannotTreat
from assay.methods.agvm import AGVM
from assay.methods.alpha_bn import AlphaBN
from assay.methods.batch_scaling import BatchScaling
from assay.methods.bn_only import BatchNormOnly
from assay.methods.cosine import Cosine
from assay.methods.cutmix import CutMix
from assay.methods.frugal import FRUGAL
from assay.methods.ghost_batch_norm import GhostBatchNorm
from assay.methods.hard_minibatch import HardMiniBatch
from assay.methods.label_smoothing import LabelSmoothing
from assay.methods.lamb import LAMB
from assay.methods.layer_norm import LayerNorm
from assay.methods.multi_sample_dropout import MultiSampleDropout
from assay.methods.weight_distance import WeightDistance
from assay.methods.weight_standardization import WeightStandardization

BOTH = ("ddp", "fsdp")
PIXELS = 6
RARE = 1e-12  # a rate of dropout at which nothing is ever dropped


def drawn(samples, seed):
    draw = torch.Generator().manual_seed(seed)
    y = torch.randint(4, (samples,), generator=draw)
    return TensorExamples(torch.randn(samples, 3, PIXELS, PIXELS, generator=draw) + y[:, None, None, None] / 4, y)


class Pictures(Blobs):
    """Small pictures for a convolutional network with batch norm; `norm=False` is a plain one with a hidden layer."""

    traits = frozenset({"classification", "images"})

    def __init__(self, norm=True, drop=0.0):
        super().__init__()
        self.norm, self.drop = norm, drop

    def splits(self, seed):
        return Splits(drawn(64, 0), drawn(23, 1), drawn(23, 2))

    def model(self):
        body = [nn.Conv2d(3, 8, 3), *([nn.BatchNorm2d(8)] if self.norm else []), nn.ReLU(), nn.Flatten()]
        head = [nn.Linear(8 * 16, 12), nn.ReLU(), nn.Dropout(self.drop), nn.Linear(12, 4)]
        return nn.Sequential(*body, *head)


class Words(Pictures):
    """The rows of the pictures, read by a recurrent network."""

    def model(self):
        return Reader()


class Reader(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn, self.head = nn.GRU(3 * PIXELS, 8, batch_first=True), nn.Linear(8, 4)

    def forward(self, x):
        return self.head(self.rnn(x.transpose(1, 2).flatten(2))[0][:, -1])


class MixedInParts(Pictures):
    """The CutMix of two devices in one process: a mixer each, that draws the same, on its part of the batch."""

    def step(self, run, batch):
        if run.steps == 0:
            self.mixers = [
                Mixing(generator=torch.Generator().manual_seed(run.seed_for("generator:cutmix"))) for _ in (0, 1)
            ]
        total = 0.0
        for rank, mix in enumerate(self.mixers):
            rows = part(len(batch.ids), rank, 2)
            x, y = mix(batch.x[rows], batch.y[rows])
            soft = y.soft(4).double()  # the loss of the mixed labels, as one of probabilities
            loss = F.cross_entropy(run.forward(x), soft) * len(x) / len(batch.ids)
            run.backward(loss)
            total += loss.detach()
        run.update()
        return total


ADAM = EXACT.with_settings({"optimizer": "adam", "lr": 0.01, "weight_decay": 0.1})
# name -> task, its equal in one process ("alone": the same run there), recipe, methods, strategies
CASES = {
    "agvm": (lambda: Pictures(norm=False), "alone", EXACT, [AGVM(interval=2, alpha=0.5)], ["ddp"]),
    "agvm, adam": (lambda: Pictures(norm=False), "alone", ADAM, [AGVM(interval=2, alpha=0.5)], ["ddp"]),
    "cosine": (Pictures, None, EXACT, [Cosine()], BOTH),
    "batch-scaling": (Pictures, None, EXACT, [BatchScaling("sqrt", base_batch=4)], BOTH),
    "label smoothing": (Pictures, None, EXACT, [LabelSmoothing()], BOTH),
    "lamb": (Pictures, None, ADAM, [LAMB()], BOTH),
    "lamb, parts that differ": (Pictures, None, ADAM.with_settings({"batch_size": 15}), [LAMB()], BOTH),
    "frugal, blocks": (Pictures, None, ADAM, [FRUGAL(0.5, update_gap=2)], BOTH),
    "frugal, columns": (Pictures, None, ADAM, [FRUGAL(0.5, projection="columns", update_gap=2)], ["ddp"]),
    "lars of 2017": (Pictures, None, EXACT, [LAMB("lars-2017")], BOTH),
    "lars of 2020": (Pictures, None, EXACT.with_settings({"lr": 0.01}), [LAMB("lars-2020")], BOTH),
    "layer norm for batch norm": (Pictures, None, EXACT, [LayerNorm("batchnorm")], BOTH),
    "layer norm, hidden": (lambda: Pictures(norm=False), None, EXACT, [LayerNorm("hidden")], BOTH),
    "layer norm, recurrent": (Words, None, EXACT, [LayerNorm()], ["ddp"]),
    "multi-sample dropout": (lambda: Pictures(drop=RARE), None, EXACT, [MultiSampleDropout(3)], BOTH),
    "ghost batch norm": (Pictures, None, EXACT, [GhostBatchNorm(4)], BOTH),
    "ghost batch norm, per step": (Pictures, None, EXACT, [GhostBatchNorm(4, statistics="per_step")], BOTH),
    "weight standardisation": (Pictures, None, EXACT, [WeightStandardization(norm="keep")], BOTH),
    "group norm": (Pictures, None, EXACT, [WeightStandardization(norm="gn", num_groups=2)], BOTH),
    "batch-channel norm": (Pictures, None, EXACT, [WeightStandardization(num_groups=2)], BOTH),
    "cutmix": (lambda: Pictures(norm=False), lambda: MixedInParts(norm=False), EXACT, [CutMix()], BOTH),
    "mixup": (Pictures, "lives", EXACT, [CutMix(mode="mixup")], BOTH),
    "cutout": (Pictures, "lives", EXACT, [CutMix(mode="cutout")], BOTH),
    "weight distance": (Pictures, None, EXACT, [WeightDistance()], ["ddp"]),
    "alpha-bn": (Pictures, None, EXACT, [AlphaBN(batch_size=5)], ["ddp"]),
    "core": (Pictures, None, EXACT, [AlphaBN("core", lr=0.1, batch_size=5)], ["ddp"]),
    "entropy": (Pictures, None, EXACT, [AlphaBN("entropy", lr=0.1, batch_size=5, episodic=True)], ["ddp"]),
    "only batch norm": (Pictures, None, EXACT, [BatchNormOnly()], ["ddp"]),
    "only random weights": (Pictures, None, EXACT, [BatchNormOnly("random", weight_init="binary")], ["ddp"]),
    "hard mini-batches": (Pictures, None, EXACT.with_settings({"batch_size": 31}), [HardMiniBatch(0.5)], BOTH),
    "three together": (Pictures, None, ADAM, [LayerNorm("batchnorm"), LabelSmoothing(), LAMB()], BOTH),
}


def a_run(task, recipe, methods, **changes):
    return Run(task, recipe.with_methods(methods), 1, budget="5steps", evaluations=2, **changes)


def work(rank):
    found = {}
    for name, (task, _, recipe, methods, strategies) in CASES.items():
        for strategy in strategies:
            run = a_run(task(), recipe, methods, devices=2, strategy=strategy)
            found[f"{name}/{strategy}"] = told(run, run.train())
    with pytest.raises(CannotTreat) as error:
        a_run(Words(), EXACT, [LayerNorm()], devices=2, strategy="fsdp").train()
    found["recurrent"] = str(error.value)
    return found


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    return on_two_ranks(work, tmp_path_factory.mktemp("ranks"))


COMPARED = [name for name, case in CASES.items() if case[1] != "lives"]


@pytest.mark.parametrize("name", COMPARED)
def test_on_two_devices_a_method_is_what_its_parts_are_in_one_process(name, ranks):
    task, equal, recipe, methods, strategies = CASES[name]
    if equal == "alone":
        run = a_run(task(), recipe, methods)
    elif equal is None:
        plain = task()
        equal = in_parts(type(plain))
        settings = {"norm": plain.norm, "drop": plain.drop}
        run = a_run(equal(**settings), recipe, methods)
    else:
        run = a_run(equal(), recipe, [])
    expected = told(run, run.train())
    for found in ranks:
        for strategy in strategies:
            same(found[f"{name}/{strategy}"], expected)


@pytest.mark.parametrize("name", ["mixup", "cutout"])
def test_both_strategies_mix_alike(name, ranks):
    for found in ranks:
        same(found[f"{name}/fsdp"], found[f"{name}/ddp"])


def test_recurrent_layer_norm_is_refused_where_its_weights_are_divided(ranks):
    assert ranks[0]["recurrent"].startswith("method 'layernorm' computes recurrent layers from the weights of their")


def every_method():
    for module in pkgutil.iter_modules(assay.methods.__path__):
        for thing in vars(importlib.import_module(f"assay.methods.{module.name}")).values():
            if isinstance(thing, type) and issubclass(thing, Method) and thing.__module__.endswith(f".{module.name}"):
                yield thing


@pytest.mark.parametrize("method", list(every_method()), ids=lambda method: method.name)
def test_what_a_method_names_is_tested_here(method):
    tested = {
        s for _, _, _, methods, strategies in CASES.values() for m in methods if type(m) is method for s in strategies
    }
    assert method.strategies == tested


@pytest.mark.parametrize(
    ("method", "strategy", "says"),
    [
        (FRUGAL(projection="svd"), "fsdp", "'frugal' projects whole matrices"),
        (AlphaBN(), "fsdp", "'alpha-bn' adapts the whole network"),
        (BatchNormOnly(), "fsdp", "'bn-only' reads and draws whole layers"),
        (WeightDistance(), "fsdp", "'weight-distance' measures whole tensors"),
        (WeightStandardization(norm="bcn-estimate"), "ddp", "norm=bcn-estimate trains on running estimates"),
        (GhostBatchNorm(5), "ddp", "a batch of 16, which must be a multiple of ghost_batch_size=5"),
        (GhostBatchNorm(12), "ddp", "a batch of 16, which must be a multiple of ghost_batch_size=12"),
    ],
)
def test_what_would_be_another_method_on_two_devices_is_refused(method, strategy, says):
    with pytest.raises(CannotTreat, match=says):
        a_run(Pictures(), EXACT, [method], devices=2, strategy=strategy)


def test_cutmix_needs_two_samples_a_device():
    recipe = EXACT.with_settings({"batch_size": 3})
    with pytest.raises(CannotTreat, match="'cutmix' has nothing to mix on some of 2 devices"):
        a_run(Pictures(), recipe, [CutMix()], devices=2)
    a_run(Pictures(), recipe, [CutMix(mode="cutout")], devices=2)
