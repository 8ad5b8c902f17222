"""What a host cannot carry is refused by the method's name, at construction where it can be known there."""

import pytest
import torch
from hosts import SIZE, Network, lightning_module, lightning_trainer, transformers_trainer
from torch.nn import functional as F

from assay.engine import Method, Recipe
from assay.errors import AssayError, CannotTreat
from assay.integrations import Session
from assay.methods.alpha_bn import AlphaBN
from assay.methods.bn_only import BatchNormOnly
from assay.methods.cosine import Cosine
from assay.methods.cutmix import CutMix
from assay.methods.ghost_batch_norm import GhostBatchNorm
from assay.methods.label_smoothing import LabelSmoothing
from assay.methods.lamb import LAMB
from assay.methods.weight_distance import WeightDistance

TRAITS = {"classification", "images"}


class NewData(Method):
    name = "new-data"

    def setup(self, run):
        run.splits = run.splits


class SetData(Method):
    name = "set-data"

    def setup(self, run):
        run.splits = None


class ByIds(Method):
    name = "by-ids"
    needs = frozenset({"ids"})


class Judges(Method):
    name = "judges"
    needs = frozenset({"evaluate"})


class AsksLate(Method):
    name = "asks-late"

    def updated(self, run):
        run.evaluate(None)


class AtEpochs(Method):
    name = "at-epochs"

    def epoch(self, run):
        raise AssertionError("called")


def in_loop(method, loss, recipe, traits):
    own = (lambda session, batch: None) if loss is None else None
    Session(Network(), [method], loss, recipe, traits=traits, objective=own)


def in_lightning(method, loss, recipe, traits):
    pytest.importorskip("lightning")
    from assay.integrations.lightning import Methods

    Methods(lightning_module(), [method], recipe, loss="loss" if loss else None, traits=traits)


def in_transformers(method, loss, recipe, traits, tmp="unused"):
    pytest.importorskip("transformers")
    from transformers import Trainer, TrainingArguments

    from assay.integrations.transformers import MethodsMixin

    class Treated(MethodsMixin, Trainer): ...

    arguments = TrainingArguments(tmp, per_device_train_batch_size=SIZE, use_cpu=True, report_to=[], max_grad_norm=0.0)
    Treated(Network(), arguments, methods=[method], loss=loss, recipe=recipe, traits=traits)


RECIPE = Recipe(batch_size=SIZE)
CASES = {
    "data read": (NewData(), F.cross_entropy, RECIPE, TRAITS, "'new-data' needs the data sets"),
    "data replaced": (SetData(), F.cross_entropy, RECIPE, TRAITS, "'set-data' needs the data sets"),
    "ids": (ByIds(), F.cross_entropy, RECIPE, TRAITS, "'by-ids' needs the ids of samples.*ids=True"),
    "evaluation of its own": (Judges(), F.cross_entropy, RECIPE, TRAITS, "'judges' needs run.evaluate, which"),
    "trait": (CutMix(), F.cross_entropy, RECIPE, {"classification"}, "'cutmix' needs images.*traits={'images'}"),
    "loss wrapped": (LabelSmoothing(), None, RECIPE, TRAITS, "'label-smoothing' needs the loss.*loss="),
    "loss in training": (CutMix(), None, RECIPE, TRAITS, "'cutmix' needs the loss.*loss="),
    "optimizer": (LAMB(), F.cross_entropy, None, TRAITS, "'lamb' needs to make the optimizer.*recipe="),
    "optimizer around": (
        BatchNormOnly(),
        F.cross_entropy,
        None,
        TRAITS,
        "'bn-only' needs to make the opt.*recipe=",
    ),
    "schedule": (Cosine(), F.cross_entropy, None, TRAITS, "'cosine' needs the recipe.*recipe="),
    "batch size": (GhostBatchNorm(4), F.cross_entropy, None, TRAITS, "'ghost-batchnorm' needs the recipe.*recipe="),
    "its own check": (GhostBatchNorm(32), F.cross_entropy, RECIPE, TRAITS, "'ghost-batchnorm' changes nothing"),
}


@pytest.mark.parametrize("host", [in_loop, in_lightning, in_transformers])
@pytest.mark.parametrize("case", CASES)
def test_what_cannot_be_carried_is_named_at_construction(host, case):
    *given, message = CASES[case]
    with pytest.raises(CannotTreat, match=message):
        host(*given)


@pytest.mark.parametrize("host", [in_loop, in_lightning, in_transformers])
def test_methods_without_such_needs_are_carried_without_a_recipe_and_a_loss(host):
    host(WeightDistance(), None, None, ())
    host(AlphaBN(), None, None, ())


def test_what_a_method_asks_for_without_warning_is_named_as_it_asks():
    session = Session(Network(), [AsksLate()], F.cross_entropy, RECIPE)
    session.begin(total_steps=2)
    with pytest.raises(CannotTreat, match=r"'asks-late' needs run.evaluate, which this loop does not have"):
        session.step((torch.randn(8, 1, 4, 4), torch.zeros(8, dtype=torch.long)))


def test_epochs_of_unknown_length_are_refused_before_the_first_step():
    session = Session(Network(), [AtEpochs(), WeightDistance()], F.cross_entropy, RECIPE)
    with pytest.raises(CannotTreat, match=r"'at-epochs' needs epochs.*steps_per_epoch"):
        session.begin(total_steps=2)


def test_a_loop_has_one_optimizer():
    sgd = torch.optim.SGD(Network().parameters())
    with pytest.raises(AssayError, match=r"either a recipe .* or an optimizer"):
        Session(Network(), [], F.cross_entropy, RECIPE).begin(total_steps=2, optimizer=sgd)
    with pytest.raises(AssayError, match=r"either a recipe .* or an optimizer"):
        Session(Network(), [], F.cross_entropy).begin(total_steps=2)
    with pytest.raises(AssayError, match=r"give total_steps"):
        Session(Network(), [], F.cross_entropy, RECIPE).begin()


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (torch.zeros(3), "must be .*, got Tensor"),
        ((torch.zeros(3),), "must be .*, got tuple of 1"),
        ({"x": torch.zeros(3)}, "targets as 'labels'.* it has x"),
        ({"labels": torch.zeros(3)}, "inputs besides; it has labels"),
        ((1.0, 2.0), "must hold tensors"),
    ],
)
def test_a_batch_of_no_known_form_is_told_what_it_was(batch, message):
    session = Session(Network(), [], F.cross_entropy, RECIPE)
    session.begin(total_steps=1)
    with pytest.raises(AssayError, match=message):
        session.step(batch)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"accumulate_grad_batches": 2}, r"[Aa]utomatic gradient accumulation is not supported for manual"),
        ({"gradient_clip_val": 1.0}, r"[Aa]utomatic gradient clipping is not supported for manual"),
        ({"precision": "64-true"}, r"the recipe's precision is 32-true, the Trainer's 64-true"),
    ],
)
def test_settings_that_a_whole_step_or_the_recipe_cannot_have_are_refused_with_lightning(settings, message):
    pytest.importorskip("lightning")
    from assay.integrations.lightning import Methods

    module = lightning_module()
    methods = Methods(module, [WeightDistance()], RECIPE)
    with pytest.raises(Exception, match=message):
        lightning_trainer(methods, **settings).fit(module, [])


def test_lightning_refuses_modules_that_do_not_fit():
    pytest.importorskip("lightning")
    from assay.integrations.lightning import Methods

    module = lightning_module()
    module.extra = torch.nn.Linear(1, 1)
    with pytest.raises(AssayError, match=r"leave out extra.weight, extra.bias"):
        Methods(module, [], RECIPE)
    with pytest.raises(AssayError, match=r"no attribute 'nett'"):
        Methods(lightning_module(), [], network="nett")
    module = lightning_module()
    module.criterion = torch.nn.CrossEntropyLoss()
    with pytest.raises(AssayError, match=r"criterion must be a function such as F.cross_entropy"):
        Methods(module, [], loss="criterion")
    module = lightning_module()
    module.automatic_optimization = False
    with pytest.raises(AssayError, match=r"manual optimization"):
        Methods(module, [])


def test_transformers_refuses_settings_that_do_not_fit(tmp_path):
    pytest.importorskip("transformers")
    folder = str(tmp_path)
    with pytest.raises(AssayError, match=r"recipe clip_norm must be that of the TrainingArguments, 1.0"):
        transformers_trainer([], RECIPE, folder, max_grad_norm=1.0)
    with pytest.raises(AssayError, match=r"recipe batch_size must be that of the TrainingArguments, 4"):
        transformers_trainer([], RECIPE, folder, per_device_train_batch_size=4)
    with pytest.raises(CannotTreat, match=r"'weight-distance' goes around the whole step: gradient_acc.* got 2"):
        transformers_trainer([WeightDistance()], RECIPE, folder, gradient_accumulation_steps=2)
    sgd = torch.optim.SGD(Network().parameters())
    with pytest.raises(AssayError, match=r"either a recipe or optimizers"):
        transformers_trainer([], RECIPE, folder, optimizers=(sgd, None))


def test_lightning_refuses_a_module_of_two_optimizers():
    pytest.importorskip("lightning")
    from assay.integrations.lightning import Methods

    module = lightning_module()
    module.configure_optimizers = lambda: [
        torch.optim.SGD(part.parameters(), lr=0.1) for part in module.model.children()
    ]
    methods = Methods(module, [WeightDistance()])
    with pytest.raises(AssayError, match="the module must have one optimizer, it has 2"):
        lightning_trainer(methods).fit(module, [(torch.zeros(8, 1, 4, 4), torch.zeros(8, dtype=torch.long))])
