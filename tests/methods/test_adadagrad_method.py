"""AdAdaGrad as a method of a run, against a loop of its own that goes through the samples one by one."""

import sys
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))

from unusual import DigitsGAN
from workloads import Blobs, NoisyGradients, bits

from assay.data.growing_batches import pass_order
from assay.engine import Method, Recipe, Run
from assay.errors import AssayError, CannotTreat, Interrupted, UnknownName
from assay.methods.adadagrad import AdAdaGrad
from assay.methods.cutmix import CutMix
from assay.methods.label_smoothing import LabelSmoothing
from assay.methods.normalized_gd import NormalizedGD
from assay.optim import AdaGradNorm
from assay.papers import make_method
from assay.tasks import load

RECIPE = Recipe(lr=0.05, batch_size=4, precision="64-true")


class Plain(Blobs):
    """Without augmentation, so that a sample is always the same."""

    def splits(self, seed):
        parts = super().splits(seed)
        parts.train.augment = None
        return parts


def trained(*methods, task=None, budget="600samples", recipe=RECIPE, **how):
    run = Run(task or Plain(), recipe.with_methods(methods), 1, budget, evaluations=2, **how)
    record = run.train()
    return run, record


def sizes(record):
    """The batch size of every step."""
    course = record.series["batch size"]
    ends = [step for step, _ in course[1:]] + [record.steps]
    return [int(b) for (step, b), end in zip(course, ends, strict=True) for _ in range(int(step), int(end))]


def flops(method, batch_size):
    """Of one step."""
    return trained(method, budget="1steps", recipe=RECIPE.with_settings({"batch_size": batch_size}))[1].flops


def one_by_one(budget, eta, make):
    """Sizes and weights of a loop that takes a sample at a time."""
    fresh = Run(Plain(), RECIPE, 1, "1steps")
    fresh.build()
    data, model = fresh.splits.train, fresh.model
    optimizer, b, drawn, found = make(model.parameters()), RECIPE.batch_size, 0, []
    order = torch.cat([pass_order(160, fresh.seed_for("order"), n) for n in range(20)])
    while drawn < budget:
        rows = []
        for i in order[drawn : drawn + b].tolist():
            model.zero_grad()
            cross_entropy(model(data.x[i : i + 1].double()), data.y[i : i + 1]).backward()
            rows.append([p.grad.clone() for p in model.parameters()])
        grads = [torch.stack(column) for column in zip(*rows, strict=True)]
        for p, g in zip(model.parameters(), grads, strict=True):
            p.grad = g.mean(0)
        optimizer.step()
        drawn += b
        found.append(b)
        variance = sum(g.var(0).sum() for g in grads)
        needed = variance / (eta**2 * sum(g.mean(0).square().sum() for g in grads))
        if needed > b:
            b = min(int(needed.ceil()), 160)
    return found, model


@pytest.mark.parametrize("part_size", [7, 256])
@pytest.mark.parametrize(
    ("optimizer", "make"),
    [
        ("adagrad", lambda p: torch.optim.Adagrad(p, 0.05)),
        ("adagrad-norm", lambda p: AdaGradNorm(p, 0.05)),
        ("recipe", lambda p: torch.optim.SGD(p, 0.05, momentum=0.9)),
    ],
)
def test_batches_grow_as_the_samples_one_by_one_say(optimizer, make, part_size):
    run, record = trained(AdAdaGrad(eta=0.9, optimizer=optimizer, part_size=part_size), budget="12steps")
    wanted, model = one_by_one(sum(sizes(record)), 0.9, make)
    assert sizes(record) == wanted
    assert wanted[-1] > 2 * wanted[0]
    assert record.samples == sum(wanted)
    torch.testing.assert_close(list(run.model.parameters()), list(model.parameters()))


@pytest.mark.parametrize("test", ["inner-product", "augmented", "coordinate"])
def test_parts_change_nothing_but_the_last_bits(test):
    method = {"test": test, "theta": 0.9, "nu": 3.0, "quantile": 0.5}
    whole, other = (trained(AdAdaGrad(**method, part_size=size), budget="240samples") for size in (256, 5))
    assert sizes(whole[1]) == sizes(other[1])
    assert sizes(whole[1])[-1] > 4
    torch.testing.assert_close(list(whole[0].model.parameters()), list(other[0].model.parameters()))


@pytest.mark.parametrize(
    "budget", ["320samples", "321samples", "160samples", "2epochs", "1.51epochs", "4samples", "3samples"]
)
@pytest.mark.parametrize("eta", [0.3, 0.9, 50.0])
def test_a_budget_of_samples_is_spent_to_the_last_and_counted_rightly(budget, eta):
    _, record = trained(AdAdaGrad(eta=eta), budget=budget)
    wanted = round(float(budget.removesuffix("epochs")) * 160) if "epochs" in budget else int(budget[:-7])
    assert sum(sizes(record)) == record.samples == wanted
    assert record.epochs == pytest.approx(wanted / 160)
    assert min(sizes(record)[-1:]) >= 2
    assert max(sizes(record)) <= 160


def test_growth_ends_at_its_limit_and_testing_with_it():
    _, record = trained(AdAdaGrad(eta=0.01, max_batch=50), budget="20steps")
    assert sizes(record) == [4] + [50] * 19
    of_fifty = RECIPE.with_settings({"batch_size": 50})
    constant = trained(AdAdaGrad(test="none"), budget="19steps", recipe=of_fifty)[1]
    assert record.flops == constant.flops + flops(AdAdaGrad(), 4)


def test_an_interval_tests_at_these_steps_alone():
    _, record = trained(AdAdaGrad(eta=0.9, interval=3), budget="12steps")
    assert all(step % 3 == 1 for step, _ in record.series["batch size"][1:])
    costs = [flops(AdAdaGrad() if i % 3 == 0 else AdAdaGrad(test="none"), b) for i, b in enumerate(sizes(record))]
    assert record.flops == sum(costs)
    assert 1.5 < costs[0] / flops(AdAdaGrad(test="none"), 4) < 3  # a test costs about what a step does


def test_without_growth_it_is_the_optimizer_alone():
    """The test draws nothing that training would have drawn: there is dropout."""
    noisy = Blobs(noisy=True)
    tested, record = trained(AdAdaGrad(eta=1e6), task=noisy, budget="30steps")
    alone, _ = trained(AdAdaGrad(test="none"), task=noisy, budget="30steps")
    assert sizes(record) == [4] * 30
    assert all(map(torch.equal, tested.model.state_dict().values(), alone.model.state_dict().values()))


def test_the_exact_test_is_of_all_training_data():
    run, _ = trained(AdAdaGrad(eta=0.9, exact=True, part_size=33), budget="1steps")
    fresh = Run(Plain(), RECIPE, 1, "1steps")
    fresh.build()
    losses = cross_entropy(fresh.model(fresh.splits.train.x.double()), fresh.splits.train.y, reduction="none")
    weights = list(fresh.model.parameters())
    rows = [torch.autograd.grad(loss, weights, retain_graph=True) for loss in losses]
    g = torch.stack([torch.cat([part.flatten() for part in row]) for row in rows])
    needed = g.var(0, correction=0).sum() / (0.81 * g.mean(0).square().sum())
    assert run.methods[0].state_dict() == {"batch_size": int(needed.ceil()), "steps": 1}


def test_the_schedule_goes_by_the_budget_however_the_batch_grows():
    recipe = RECIPE.with_settings({"schedule": "linear"})
    rates = []

    class Watch(Method):
        name = "watch"

        def gradients(self, run):
            rates.append((run.samples / 600, run.optimizer.param_groups[0]["lr"]))

    _, record = trained(AdAdaGrad(eta=0.9), Watch(), recipe=recipe)
    assert sizes(record)[-1] > 8
    for share, rate in rates:
        assert rate == pytest.approx(0.05 * (1 - share), abs=0.05 * 0.01)


class Stopping(Run):
    """Is asked to stop in its step number `last`."""

    last = 0

    def take_step(self):
        if self.steps + 1 == self.last:
            self.stop()
        return super().take_step()


@pytest.mark.parametrize("last", [1, 4, 7])
def test_a_stopped_run_goes_on_to_the_same_bits(tmp_path, last):
    def make(folder):
        methods = [AdAdaGrad("augmented", theta=0.4, interval=2, part_size=16), NoisyGradients()]
        recipe = Recipe(batch_size=4, schedule="cosine", lr=0.05).with_methods(methods)
        return Stopping(Blobs(noisy=True), recipe, 2, "300samples", evaluations=3, folder=folder)

    whole = make(None)
    expected = bits(whole, whole.train())
    assert expected["record"]["steps"] > last + 2
    assert len(expected["record"]["series"]["batch size"]) > 3
    stopped, again = make(tmp_path), make(tmp_path)
    stopped.last = last
    with pytest.raises(Interrupted):
        stopped.train()
    assert stopped.steps == last
    assert bits(again, again.train()) == expected


def test_other_losses_and_batch_norm_are_treated():
    for task, methods in ((Blobs(noisy=True), []), (Blobs(), [LabelSmoothing()])):
        _, record = trained(*methods, AdAdaGrad(eta=0.9), task=task, recipe=Recipe(lr=0.05, batch_size=4))
        assert record.status == "finished"
        assert sizes(record)[-1] > 4


def test_bfloat16_and_tokens():
    recipe = Recipe(lr=0.01, batch_size=4, precision="bf16-mixed")
    _, record = trained(AdAdaGrad(eta=0.9, part_size=16), recipe=recipe, budget="200samples")
    assert record.status == "finished"
    task = load("text:context=8,width=16,depth=1,heads=2")
    _, record = trained(AdAdaGrad(eta=0.2), task=task, recipe=Recipe(lr=0.01, batch_size=4), budget="3steps")
    assert sizes(record)[-1] > 4


def test_a_rate_of_its_own():
    run, _ = trained(AdAdaGrad(lr=0.25), budget="1steps")
    assert run.optimizer.defaults["lr"] == 0.25


@pytest.mark.filterwarnings("ignore:the run diverged")
@pytest.mark.parametrize("test", ["norm", "augmented", "coordinate"])
@pytest.mark.parametrize("lr", [1e4, 1e20, 1e30])
def test_a_diverging_run_is_an_outcome(test, lr):
    method = AdAdaGrad(test=test, optimizer="recipe")
    _, record = trained(method, recipe=Recipe(lr=lr, batch_size=4), budget="20steps")
    assert record.status == "diverged"


def test_settings_are_those_that_the_test_uses():
    assert AdAdaGrad(test="augmented").settings().keys() >= {"theta", "nu"}
    assert not AdAdaGrad(test="augmented").settings().keys() & {"eta", "quantile"}
    assert AdAdaGrad(test="none", eta=0.1).settings() == AdAdaGrad(test="none").settings()


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"test": "nrm"}, UnknownName, "did you mean 'norm'"),
        ({"optimizer": "adam"}, UnknownName, "unknown optimizer"),
        ({"test": "none", "optimizer": "recipe"}, AssayError, "change nothing"),
        ({"eta": 0.0}, AssayError, "eta must be positive"),
        ({"lr": -1.0}, AssayError, "lr must be positive"),
        ({"part_size": 0}, AssayError, "part_size must be positive"),
        ({"max_batch": 1}, AssayError, r"max_batch=1, got 2"),
        ({"interval": 0}, AssayError, "interval must be positive"),
    ],
)
def test_options_out_of_range_are_refused(options, kind, message):
    with pytest.raises(kind, match=message):
        make_method("adadagrad:" + ",".join(f"{name}={value}" for name, value in options.items()))


class Around(Method):
    name = "around"

    def step(self, run, batch, proceed):
        return proceed(batch)


class OwnStream(Plain):
    def stream(self, run):
        return super().stream(run)


@pytest.mark.parametrize(
    ("task", "methods", "settings", "message"),
    [
        (load("contrastive"), [AdAdaGrad()], {}, "objective need not be a mean over samples"),
        (DigitsGAN(), [AdAdaGrad()], {}, "cannot be done in parts"),
        (OwnStream(), [AdAdaGrad()], {}, "a stream of its own"),
        (Plain(), [AdAdaGrad()], {"batch_size": 1}, "batch_size of at least 2, got 1"),
        (Plain(), [AdAdaGrad(), Around()], {}, "cannot be combined with 'around'"),
        (load("digits"), [CutMix(), AdAdaGrad()], {}, "cannot be combined with 'cutmix'"),
        (load("digits"), [NormalizedGD(), AdAdaGrad()], {}, "cannot be combined with 'normalized-gd'"),
    ],
)
def test_what_cannot_be_tested_is_refused(task, methods, settings, message):
    with pytest.raises(CannotTreat, match=message):
        Run(task, Recipe().with_settings(settings).with_methods(methods))


def test_what_goes_around_it_is_welcome():
    _, record = trained(Around(), AdAdaGrad(), budget="3steps")
    assert record.steps == 3
