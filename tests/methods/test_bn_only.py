import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from assay.engine import Metric, Recipe, Run, Splits, Task, TensorExamples
from assay.errors import AssayError, CannotTreat, UnknownName
from assay.methods.bn_only import BatchNormOnly
from assay.methods.ghost_batch_norm import GhostBatchNorm
from assay.methods.lamb import LAMB
from assay.models.resnet import cifar_resnet
from assay.papers import parse_arm
from assay.tasks import load


class Pictures(Task):
    name = "pictures"
    metrics = (Metric("accuracy", "max", 0.0),)
    recipe = Recipe(lr=0.1, momentum=0.9, weight_decay=0.1, batch_size=16)
    budget = "4steps"
    traits = frozenset({"classification", "images"})

    def splits(self, seed):
        g = torch.Generator().manual_seed(seed)
        part = TensorExamples(torch.randn(64, 3, 8, 8, generator=g), torch.randint(10, (64,), generator=g))
        return Splits(part, part, part)

    def model(self):
        return cifar_resnet(8, width=4, batchnorm_init="fixed")

    def loss(self, outputs, targets, reduction="mean"):
        return cross_entropy(outputs, targets, reduction=reduction)

    def outcomes(self, model, batch):
        return {"accuracy": (model(batch.x).argmax(1) == batch.y).float()}


class NoNorm(Pictures):
    name = "no-norm"

    def model(self):
        return nn.Sequential(nn.Flatten(), nn.Linear(192, 10))


class Groups(Pictures):
    """Names all its parameters, in groups."""

    name = "groups"

    def parameters(self, model):
        return {"main": [{"params": model.conv.parameters()}, {"params": list(model.parameters())[1:], "lr": 0.01}]}


class Two(Pictures):
    """An optimizer for the stem's weight, and one for the rest."""

    name = "two"

    def parameters(self, model):
        return {"main": list(model.parameters())[1:], "stem": [model.conv.weight]}


def trained(*methods, task=Pictures, **settings):
    run = Run(task(), task.recipe.with_methods(methods), **settings)
    record = run.train()
    assert record.status == "finished"
    return run, record


def built(*methods, task=Pictures):
    run = Run(task(), task.recipe.with_methods(methods))
    run.build()
    return run


def held(run):
    return [p for group in run.optimizer.param_groups for p in group["params"]]


def numbers(run):
    return {name: p.detach().clone() for name, p in run.model.named_parameters()}


@pytest.mark.parametrize(
    ("train", "size"),
    [("batchnorm", 168), ("random", 168), ("output", 170), ("shortcuts", 160), ("batchnorm/output", 338)],
)
def test_the_optimizer_holds_the_part_and_only_it_changes(train, size):
    method = BatchNormOnly(train=train)
    before = numbers(built(method))
    run, record = trained(method)
    after = numbers(run)
    own = {name for name, p in run.model.named_parameters() if p.requires_grad}
    assert sum(p.numel() for p in held(run)) == size == record.trainable
    assert {id(p) for p in held(run)} == {id(p) for p in run.model.parameters() if p.requires_grad}
    assert {name for name in before if not torch.equal(before[name], after[name])} == own


def test_arms_start_alike_but_for_what_is_asked():
    one, other = built(BatchNormOnly()), built(BatchNormOnly(train="all"))
    assert all(torch.equal(a, b) for a, b in zip(numbers(one).values(), numbers(other).values(), strict=True))
    random = built(BatchNormOnly(train="random"))
    assert torch.equal(random.model.conv.weight, one.model.conv.weight)
    assert torch.equal(random.model.bn.weight, one.model.bn.weight)
    binary = built(BatchNormOnly(weight_init="binary"))
    assert torch.equal(binary.model.bn.weight, one.model.bn.weight)
    assert len(binary.model.conv.weight.abs().unique()) == 1
    kept = built(BatchNormOnly(batchnorm_init="keep"))
    assert (kept.model.bn.weight == 1).all()
    assert torch.equal(kept.model.conv.weight, one.model.conv.weight)


def test_training_all_from_the_tasks_own_start_trains_to_the_same_bits_as_no_method():
    run, _ = trained(BatchNormOnly(train="all", batchnorm_init="keep"))
    plain, _ = trained()
    assert all(torch.equal(a, b) for a, b in zip(numbers(run).values(), numbers(plain).values(), strict=True))


def test_disabled_features_are_in_the_record_by_depth():
    run, record = trained(BatchNormOnly(threshold=0.2))
    layers = [(n, m) for n, m in run.model.named_modules() if isinstance(m, nn.BatchNorm2d)]
    shares = {n: (m.weight.abs() < 0.2).double().mean().item() for n, m in layers}
    names = [f"disabled/{i:03d}/{n}" for i, (n, _) in enumerate(layers)]
    assert sorted(record.extras) == sorted(["disabled", "disabled at start", *names])
    for name, share in zip(names, shares.values(), strict=True):
        assert record.extras[name] == pytest.approx(share)
    gammas = torch.cat([m.weight.detach() for _, m in layers])
    assert record.extras["disabled"] == pytest.approx((gammas.abs() < 0.2).double().mean().item())
    start = built(BatchNormOnly(threshold=0.2))
    gammas = torch.cat([m.weight for m in start.model.modules() if isinstance(m, nn.BatchNorm2d)])
    assert record.extras["disabled at start"] == pytest.approx((gammas.abs() < 0.2).double().mean().item())


def test_freezing_saves_flops():
    _, frozen = trained(BatchNormOnly())
    _, whole = trained(BatchNormOnly(train="all"))
    assert 0.6 < frozen.flops / whole.flops < 0.7


def test_a_stopped_run_goes_on_to_the_same_bits(tmp_path):
    method = BatchNormOnly(train="random/batchnorm")
    whole, record = trained(method)
    first = Run(Pictures(), Pictures.recipe.with_methods([method]), folder=tmp_path, checkpoint_every=0.0)
    first.train()
    max(tmp_path.iterdir()).unlink()  # back to the checkpoint of the step before the last
    again, resumed = trained(method, folder=tmp_path)
    assert again.steps == 4
    assert all(torch.equal(a, b) for a, b in zip(numbers(again).values(), numbers(whole).values(), strict=True))
    assert resumed.extras == record.extras


def test_parameters_that_a_task_names_itself_are_sifted():
    run = built(BatchNormOnly(), task=Groups)
    assert [group["lr"] for group in run.optimizer.param_groups] == [0.01]  # of the first group nothing is left
    assert all(p.requires_grad for p in held(run))
    with pytest.raises(CannotTreat, match="'two': one of its optimizers is left with nothing"):
        built(BatchNormOnly(), task=Two)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)])
def test_it_works_with_other_methods_in_any_order(order):
    methods = [BatchNormOnly(), GhostBatchNorm(ghost_batch_size=4, scale_lr=False), LAMB(lr=0.01)]
    run, _ = trained(*(methods[i] for i in order))
    assert all(p.requires_grad for p in held(run))
    assert sum(p.numel() for p in held(run)) == 168


def test_what_it_cannot_treat_is_refused():
    with pytest.raises(CannotTreat, match="cannot treat task 'no-norm': it has no batch norm to start 'uniform'"):
        built(BatchNormOnly(), task=NoNorm)
    with pytest.raises(CannotTreat, match="must have parameters of part 'batchnorm' to train; it has output"):
        built(BatchNormOnly(batchnorm_init="keep"), task=NoNorm)
    _, record = trained(BatchNormOnly(train="output", batchnorm_init="keep"), task=NoNorm)
    assert record.extras == {}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"train": "batchnrom"}, "unknown part to train 'batchnrom'; did you mean 'batchnorm'"),
        ({"train": "batchnorm/"}, "unknown part to train ''"),
        ({"batchnorm_init": "zero"}, "unknown batchnorm_init 'zero'"),
        ({"weight_init": "zero"}, "unknown weight_init 'zero'"),
        ({"per_channel": 0}, "per_channel must be positive, got 0"),
        ({"threshold": 0.0}, "threshold must be positive, got 0"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises((AssayError, TypeError)) as caught:  # TypeError where the tests check types
        BatchNormOnly(**settings)
    if isinstance(caught.value, AssayError):
        assert message in str(caught.value)


def test_it_is_written_on_the_command_line_with_slashes():
    (method,) = parse_arm("bn-only:train=batchnorm/output,weight_init=binary,threshold=0.02")
    assert method == BatchNormOnly("batchnorm/output", weight_init="binary", threshold=0.02)
    with pytest.raises(UnknownName, match="did you mean 'uniform'"):
        parse_arm("bn-only:batchnorm_init=unifrom")


@pytest.mark.parametrize(
    ("spec", "size"), [("digits", 2 * (32 + 64)), ("digits:model=resnet8", 2 * (16 * 3 + 32 * 3 + 64 * 3))]
)
def test_the_digits_can_be_treated(spec, size):
    task = load(spec)
    record = Run(task, task.recipe.with_methods([BatchNormOnly()]), budget="1steps", evaluations=0).train()
    assert record.status == "finished"
    assert record.trainable == size
