import pytest
import torch
from torch import nn

from assay.data.adversarial import PGD
from assay.engine import Recipe, Run
from assay.errors import AssayError, CannotTreat
from assay.losses.comp_sum import comp_sum_loss
from assay.losses.smooth_adversarial import shifted, smooth_adversarial_loss
from assay.methods.adversarial_training import AdversarialTraining
from assay.methods.comp_sum import CompSum
from assay.methods.cutmix import CutMix
from assay.methods.label_smoothing import LabelSmoothing
from assay.metrics.robust_accuracy import robust
from assay.tasks import load

SPEC = "digits:model=mlp"
ATTACKED = "digits:model=mlp,attack=linf,epsilon=0.1"
ADVERSARIAL = [
    CompSum(epsilon=0.1, rho=0.5, nu=0.3, steps=2),
    AdversarialTraining(epsilon=0.1, steps=2),
    AdversarialTraining(loss="cross-entropy", epsilon=0.8, steps=2, norm="l2"),
]


def run_of(*methods, spec=SPEC, budget="4steps", **settings):
    task = load(spec)
    how = {"evaluations": settings.pop("evaluations", 0), "folder": settings.pop("folder", None)}
    if how["folder"]:
        how["checkpoint_every"] = 0.0
    return Run(task, task.recipe.with_settings(settings).with_methods(methods), budget=budget, **how)


def weights(*methods, **settings):
    run = run_of(*methods, **settings)
    assert run.train().status == "finished"
    return [p.detach() for p in run.model.parameters()]


def test_tau_one_trains_to_the_weights_of_cross_entropy():
    for mine, plain in zip(weights(CompSum()), weights(), strict=True):
        assert torch.equal(mine, plain)
    assert not torch.allclose(weights(CompSum(tau=2.0))[0], weights()[0])


def test_evaluation_keeps_the_cross_entropy():
    run = run_of(CompSum(tau=2.0))
    record = run.train()
    x, y = run.splits.test.batch(torch.arange(300))
    with torch.no_grad():
        assert record.metrics["test"]["loss"] == pytest.approx(nn.functional.cross_entropy(run.model(x), y).item())


def test_methods_named_after_it_act_on_its_loss_and_before_it_are_refused():
    run = run_of(CompSum(tau=1.7), LabelSmoothing(0.3))
    run.build()
    logits, y = torch.randn(5, 10), torch.arange(5)
    torch.testing.assert_close(run.loss(logits, y), comp_sum_loss(logits, y, 1.7, label_smoothing=0.3))
    with pytest.raises(CannotTreat, match="name it before the methods that change the loss"):
        run_of(LabelSmoothing(0.3), CompSum(tau=1.7)).build()


def test_the_adversarial_objective_is_the_smooth_adversarial_loss():
    method = CompSum(tau=1.5, epsilon=0.1, rho=0.5, nu=0.3, steps=3)
    run = run_of(method)
    run.build()
    batch = run.stream.next()
    state = run.generator("comp-sum").get_state()
    found = run.objective(batch)
    run.generator("comp-sum").set_state(state)
    attack = PGD(0.1, 3, start="gaussian", mean=(0.5,), std=(0.5,))
    moved = shifted(attack, run.model, batch.x, batch.y, run.generator("comp-sum"))
    assert (moved - batch.x).abs().max() == pytest.approx(0.2)  # pixels of [0, 1] are inputs of [-1, 1]
    want = smooth_adversarial_loss(run.model(batch.x), run.model(moved), batch.y, tau=1.5, rho=0.5, nu=0.3)
    torch.testing.assert_close(found, want)


def trained_against(*methods):
    settings = {"spec": ATTACKED, "optimizer": "adam", "lr": 0.003, "momentum": 0.9, "weight_decay": 0.0}
    return run_of(*methods, budget="50steps", **settings).train().metrics["valid"]


@pytest.fixture(scope="module")
def plain():
    return trained_against()


@pytest.mark.parametrize("method", ADVERSARIAL, ids=["comp-sum", "trades", "cross-entropy"])
def test_adversarial_training_makes_a_network_robust(method, plain):
    treated = trained_against(method)
    assert treated["robust_accuracy"] > plain["robust_accuracy"] + 0.05
    assert treated["accuracy"] > 0.8


@pytest.mark.parametrize("method", ADVERSARIAL, ids=["comp-sum", "trades", "cross-entropy"])
@pytest.mark.parametrize("precision", ["bf16-mixed", "64-true"])
def test_other_precisions(method, precision):
    weights(method, budget="2steps", precision=precision)


@pytest.mark.parametrize("method", ADVERSARIAL, ids=["comp-sum", "trades", "cross-entropy"])
def test_a_stopped_run_goes_on_to_the_same_bits(method, tmp_path):
    whole = weights(method)
    weights(method, folder=tmp_path)
    max(tmp_path.iterdir()).unlink()  # from the checkpoint before the last
    for again, once in zip(weights(method, folder=tmp_path), whole, strict=True):
        assert torch.equal(again, once)


def test_robust_accuracy_is_a_tasks_figure_and_the_same_for_equal_weights():
    run = run_of(spec=ATTACKED)
    record = run.train()
    assert run.task.metrics[0].name == "robust_accuracy"
    x, y = run.splits.test.batch(torch.arange(300))
    attack = PGD(0.1, 20, mean=(0.5,), std=(0.5,))
    found = robust(run.model.eval(), x, y, attack, torch.Generator().manual_seed(0))
    assert record.outcomes["test/robust_accuracy"].tolist() == found.float().tolist()
    assert record.metrics["test"]["robust_accuracy"] < record.metrics["test"]["accuracy"]
    assert load(SPEC).settings().keys() < load(ATTACKED).settings().keys()


def test_settings_are_those_that_have_a_use():
    assert CompSum(tau=1.5).settings() == {"tau": 1.5, "epsilon": 0.0}
    assert set(CompSum(epsilon=0.1).settings()) == {"tau", "epsilon", "rho", "nu", "steps", "step_size", "norm"}
    assert "beta" not in AdversarialTraining(loss="cross-entropy").settings()


def test_what_cannot_be_attacked_is_refused():
    class Unknown(type(load(SPEC))):
        pixels = None

    for method in ADVERSARIAL:
        with pytest.raises(CannotTreat, match="does not say what its pixels are"):
            Run(Unknown(), Recipe().with_methods([method]))
        with pytest.raises(CannotTreat, match="cannot be combined with 'cutmix'"):
            run_of(method, CutMix(prob=1.0))
    Run(Unknown(), Recipe().with_methods([CompSum(tau=0.5)])).build()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CompSum(tau=-1.0), "tau must be at least 0"),
        (lambda: CompSum(rho=0.0), "rho must be positive"),
        (lambda: CompSum(nu=-1.0), "nu must be at least 0"),
        (lambda: CompSum(epsilon=-0.1), "epsilon must be at least 0"),
        (lambda: AdversarialTraining(beta=-1.0), "beta must be at least 0, got -1"),
        (lambda: AdversarialTraining(steps=-1), "steps must be at least 0"),
        (lambda: load("digits:epsilon=0.1"), "epsilon needs attack=linf or attack=l2"),
        (lambda: load("digits:attack=linf"), "attack=linf needs a positive epsilon"),
    ],
)
def test_settings_out_of_range_are_refused(make, message):
    with pytest.raises(AssayError, match=message):
        make()
