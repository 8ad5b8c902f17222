import pytest
import torch
import torch.nn.functional as F
from torch import nn

from assay.engine import Recipe, Run, Splits, TensorExamples
from assay.errors import AssayError, CannotTreat, UnknownName
from assay.integrations import Session
from assay.methods.adadagrad import AdAdaGrad
from assay.methods.agvm import AGVM
from assay.methods.conadv import ConAdv
from assay.methods.cutmix import CutMix
from assay.methods.hard_minibatch import HardMiniBatch
from assay.methods.label_smoothing import LabelSmoothing
from assay.methods.lamb import LAMB
from assay.methods.weight_standardization import WeightStandardization
from assay.nn.split_batch_norm import SplitBatchNorm
from assay.tasks import load


def run_of(*methods, spec="digits", budget="5steps", folder=None, **settings):
    task = load(spec)
    settings = {"batch_size": 16} | settings
    how = {"folder": folder, "checkpoint_every": 0.0} if folder else {}
    recipe = task.recipe.with_settings(settings).with_methods(methods)
    return Run(task, recipe, budget=budget, evaluations=0, test=False, **how)


def weights(*methods, **settings):
    run = run_of(*methods, **settings)
    assert run.train().status == "finished"
    return [p.detach() for p in run.model.parameters()]


def equal(some, others):
    return all(torch.equal(a, b) for a, b in zip(some, others, strict=True))


@pytest.mark.parametrize("staleness", [0, 1, 2])
def test_a_run_is_the_recursion_written_out(staleness):
    """A linear network by hand: batches in the order of a plain run, pixels in [0, 1] from inputs in [-1, 1]."""

    class Linear(type(load("digits"))):
        def model(self):
            return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

    epsilon, lr = 0.05, 0.2
    recipe = Recipe(lr=lr, momentum=0.0, batch_size=32)
    made = Run(Linear(), recipe.with_methods([ConAdv(epsilon, staleness=staleness)]), budget="6steps", evaluations=0)
    plain = Run(Linear(), recipe, evaluations=0)
    plain.build()
    w, b = (p.detach().double() for p in plain.model[1].parameters())
    data, past = [plain.stream.next() for _ in range(8)], []
    for t in range(6):
        past.append((w, b))
        y = data[t].y
        x = data[t].x.flatten(1).double()
        parts = [x]
        if t >= staleness:
            old_w, old_b = past[t - staleness]
            sign = (((x @ old_w.T + old_b).softmax(1) - F.one_hot(y, 10)) @ old_w).sign()
            parts.append((x + 2 * epsilon * sign).clamp(-1, 1))
        gw, gb = torch.zeros_like(w), torch.zeros_like(b)
        for part in parts:
            p = (part @ w.T + b).softmax(1) - F.one_hot(y, 10)
            gw, gb = gw + p.T @ part / len(y), gb + p.mean(0)
        w, b = w - lr * gw, b - lr * gb
    made.train()
    torch.testing.assert_close(made.model[1].weight.double(), w, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(made.model[1].bias.double(), b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("spec", ["digits", "digits:model=mlp"])
def test_concurrent_and_sequential_runs_have_the_same_bits_and_flops(spec):
    found = {}
    for concurrent in (False, True):
        run = run_of(ConAdv(concurrent=concurrent, random_start=0.5), spec=spec)
        record = run.train()
        found[concurrent] = [p.detach() for p in run.model.parameters()], record.flops
    assert equal(found[False][0], found[True][0])
    assert found[False][1] == found[True][1]


@pytest.mark.parametrize("method", [ConAdv(concurrent=True), ConAdv(staleness=2, random_start=0.5, targeted=True)])
def test_a_stopped_run_goes_on_to_the_same_bits(method, tmp_path):
    whole = weights(method)
    weights(method, folder=tmp_path)
    max(tmp_path.iterdir()).unlink()  # from the checkpoint before the last
    assert equal(weights(method, folder=tmp_path), whole)


def test_the_stream_is_left_where_it_is():
    run, plain = run_of(ConAdv()), run_of()
    run.build()
    plain.build()
    for _ in range(100):  # over the ends of epochs
        expected = plain.stream.next()
        batch = run.stream.next()
        run.objective(batch)
        run.methods[0].gradients(run)
        assert torch.equal(batch.ids, expected.ids)
        assert run.epochs == plain.epochs


def test_attacks_are_counted_and_the_first_step_has_none_to_learn_from():
    plain = run_of(budget="1steps").train().flops
    attack = run_of(ConAdv(), budget="1steps").train().flops - plain
    forward = plain / 3
    assert 1.5 * forward < attack < 2.1 * forward  # forward, and backward without the weights' gradients
    assert run_of(ConAdv(), budget="4steps").train().flops == pytest.approx(4 * attack + 7 * plain, rel=0.05)


def test_what_remains_is_the_plain_network():
    run = run_of(ConAdv())
    run.build()
    assert any(isinstance(layer, SplitBatchNorm) for layer in run.model.modules())
    record = run.train()
    plain = run_of().train()
    assert record.parameters == plain.parameters
    assert not any(isinstance(layer, SplitBatchNorm) for layer in run.model.modules())
    run = run_of(ConAdv(split_bn=False))
    run.build()
    assert not any(isinstance(layer, SplitBatchNorm) for layer in run.model.modules())


def test_arms_begin_with_the_same_weights():
    plain, treated = run_of(), run_of(ConAdv())
    plain.build()
    treated.build()
    assert torch.equal(plain.model.features[0].weight, treated.model.features[0].weight)


@pytest.mark.parametrize(
    "methods",
    [
        [ConAdv(), LAMB("lars-2017", lr=3.0)],
        [LAMB(lr=0.01), ConAdv()],
        [LabelSmoothing(0.1), ConAdv(reduction="mean", adv_weight=0.5)],
        [ConAdv(), WeightStandardization(norm="bcn-estimate")],
        [WeightStandardization(norm="bcn-estimate"), ConAdv()],
    ],
)
def test_it_works_with_others(methods):
    weights(*methods)


@pytest.mark.parametrize("precision", ["bf16-mixed", "64-true"])
def test_other_precisions_have_the_same_bits_in_both_forms(precision):
    one, other = (weights(ConAdv(concurrent=c), precision=precision) for c in (False, True))
    assert equal(one, other)


def test_label_smoothing_acts_on_both_losses():
    run = run_of(LabelSmoothing(0.3), ConAdv(staleness=0, adv_weight=0.5, reduction="mean", split_bn=False))
    run.build()
    batch = run.stream.next()
    found = run.objective(batch)
    moved = run.methods[1]._adversary.start(batch.x, batch.y).x
    clean, other = (F.cross_entropy(run.model(x), batch.y, label_smoothing=0.3) for x in (batch.x, moved))
    torch.testing.assert_close(found, (clean + 0.5 * other) / 1.5)


def test_a_network_that_was_trained_is_harder_to_attack():
    task, epsilon = "digits:attack=linf,epsilon=0.1", 0.1
    found = {}
    for name, methods in {"plain": [], "conadv": [ConAdv(epsilon)]}.items():
        run = run_of(*methods, spec=task, budget="40steps", batch_size=64)
        found[name] = run.train().metrics["valid"]
    assert found["conadv"]["robust_accuracy"] > found["plain"]["robust_accuracy"] + 0.1
    assert found["conadv"]["accuracy"] > 0.9


def test_what_it_cannot_treat_is_refused():
    class Unknown(type(load("digits"))):
        pixels = None

    class Soft(type(load("digits"))):
        def splits(self, seed):
            x, y = super().splits(seed).train.batch(torch.arange(64))
            soft = TensorExamples(x, F.one_hot(y, 10).float())
            return Splits(soft, soft, soft)

    with pytest.raises(CannotTreat, match="does not say what its pixels are"):
        Run(Unknown(), Recipe().with_methods([ConAdv()]))
    with pytest.raises(CannotTreat, match="cannot be combined with 'cutmix'"):
        run_of(ConAdv(), CutMix(prob=1.0))
    for method in (AGVM(), AdAdaGrad(), HardMiniBatch()):  # in parts, or with a stream that cannot be looked ahead in
        with pytest.raises(CannotTreat, match=f"cannot be combined with '{method.name}'"):
            run_of(ConAdv(), method)
    with pytest.raises(CannotTreat, match="its targets must be classes"):
        Run(Soft(), Recipe().with_methods([ConAdv()])).train()
    with pytest.raises(CannotTreat, match="not tested on several devices"):
        Run(load("digits"), Recipe().with_methods([ConAdv()]), devices=2)
    with pytest.raises(CannotTreat, match=r"method 'conadv' needs run\.stream"):
        Session(nn.Linear(2, 2), [ConAdv()], F.cross_entropy, Recipe(), traits={"classification", "images"})


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"epsilon": -0.1}, "epsilon must be at least 0"),
        ({"step_size": 0.0}, "step_size must be positive"),
        ({"staleness": -1}, "staleness must be at least 0, got -1"),
        ({"random_start": 2.0}, r"random_start must lie in \[0, 1\], got 2"),
        ({"adv_weight": -1.0}, "adv_weight must be at least 0, got -1"),
    ],
)
def test_settings_out_of_range_are_refused(settings, says):
    with pytest.raises(AssayError, match=says):
        ConAdv(**settings)
    with pytest.raises((UnknownName, TypeError), match="reduction"):  # the checks of types may come first
        ConAdv(reduction="max")
