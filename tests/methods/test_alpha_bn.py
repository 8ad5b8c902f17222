import copy

import pytest
import torch
from torch import nn

from assay.engine import Recipe, Run
from assay.errors import AssayError, CannotTreat
from assay.methods.alpha_bn import AlphaBN
from assay.methods.ghost_batch_norm import GhostBatchNorm
from assay.nn.alpha_batch_norm import AlphaBatchNorm, alpha_bn
from assay.nn.core_adapter import CoreAdapter
from assay.tasks import load

SPEC = "digits:corruption=contrast+gaussian_noise"
MODES = ["alpha", "target", "core", "entropy"]


def run_of(*methods, spec=SPEC, budget="1epochs", evaluations=2, **settings):
    task = load(spec)
    return Run(task, task.recipe.with_settings(settings).with_methods(methods), budget=budget, evaluations=evaluations)


def trained(*methods, **settings):
    run = run_of(*methods, **settings)
    record = run.train()
    assert record.status == "finished"
    return run, record


@pytest.fixture(scope="module")
def plain():
    return trained()


@pytest.mark.parametrize("mode", MODES)
def test_training_is_that_of_the_network_alone(mode, plain):
    run, record = trained(AlphaBN(mode=mode, alpha=0.5, lr=0.01, batch_size=30))
    if mode in ("core", "entropy"):
        run.model.reset()
        adapted = run.model.model
    else:
        adapted = run.model
    for name, tensor in plain[0].model.state_dict().items():
        assert torch.equal(adapted.state_dict()[name], tensor)
    assert record.curve[0]["valid/loss"] == plain[1].curve[0]["valid/loss"]
    assert record.curve[0]["train_loss"] == plain[1].curve[0]["train_loss"]
    assert record.metrics["test"] != plain[1].metrics["test"]
    assert (record.flops, record.steps) == (plain[1].flops, plain[1].steps)


def test_alpha_one_is_the_network_alone(plain):
    _, record = trained(AlphaBN(alpha=1.0))
    assert record.outcomes["test/accuracy"].tolist() == plain[1].outcomes["test/accuracy"].tolist()
    assert record.metrics["test"]["loss"] == pytest.approx(plain[1].metrics["test"]["loss"])


@pytest.mark.parametrize(("mode", "alpha"), [("alpha", 0.3), ("target", 0.0)])
def test_outcomes_are_those_of_each_stream_read_in_its_order(mode, alpha, plain):
    run, record = trained(AlphaBN(mode=mode, alpha=0.3, batch_size=40))
    model = alpha_bn(copy.deepcopy(plain[0].model).eval(), alpha).model
    found = []
    for part in run.splits.test.parts:
        x, y = part.batch(torch.arange(len(part)))
        with torch.no_grad():
            found += [model(xs).argmax(1) == ys for xs, ys in zip(x.split(40), y.split(40), strict=True)]
    assert record.outcomes["test/accuracy"].tolist() == torch.cat(found).float().tolist()


@pytest.mark.parametrize("mode", ["core", "entropy"])
@pytest.mark.parametrize("episodic", [False, True])
def test_each_stream_of_core_starts_from_the_trained_network(mode, episodic, plain):
    run, record = trained(AlphaBN(mode=mode, alpha=0.3, lr=0.03, batch_size=40, episodic=episodic))
    found = []
    for part in run.splits.test.parts:
        adapter = CoreAdapter(plain[0].model, 0.3, loss=mode, lr=0.03, episodic=episodic)
        x, y = part.batch(torch.arange(len(part)))
        found += [adapter(xs).argmax(1) == ys for xs, ys in zip(x.split(40), y.split(40), strict=True)]
    assert record.outcomes["test/accuracy"].tolist() == torch.cat(found).float().tolist()
    again = run.evaluate(run.splits.test)
    assert again.outcomes["loss"].tolist() == record.outcomes["test/loss"].tolist()


def test_settings_are_those_that_the_mode_has_a_use_for():
    assert AlphaBN(mode="target").settings() == {"mode": "target", "batch_size": 200}
    assert AlphaBN().settings() == {"mode": "alpha", "alpha": 0.9, "batch_size": 200}
    assert set(AlphaBN(mode="core").settings()) == {"mode", "alpha", "lr", "episodic", "batch_size"}


@pytest.mark.parametrize("mode", ["alpha", "core"])
@pytest.mark.parametrize("precision", ["bf16-mixed", "64-true"])
def test_other_precisions(mode, precision):
    run, record = trained(
        AlphaBN(mode=mode, alpha=0.5, batch_size=50), precision=precision, budget="2steps", evaluations=0
    )
    assert record.metrics["test"]["loss"] > 0
    dtype = torch.float64 if precision == "64-true" else torch.float32
    assert {p.dtype for p in run.model.parameters()} == {dtype}


def test_a_stopped_run_goes_on_to_the_same_bits(tmp_path):
    method = AlphaBN(mode="core", alpha=0.5, lr=0.03, batch_size=50)
    _, whole = trained(method)
    task = load(SPEC)
    settings = {"budget": "1epochs", "evaluations": 2, "folder": tmp_path, "checkpoint_every": 0.0}
    Run(task, task.recipe.with_methods([method]), **settings).train()
    for left in (1, 0):  # from the checkpoint before the last, and from the last itself
        if left:
            max(tmp_path.iterdir()).unlink()
        again = Run(task, task.recipe.with_methods([method]), **settings).train()
        assert again.outcomes["test/loss"].tolist() == whole.outcomes["test/loss"].tolist()


def test_works_after_ghost_batch_norm():
    run, _ = trained(GhostBatchNorm(ghost_batch_size=16), AlphaBN(alpha=0.4))
    assert [m.alpha for m in run.model.modules() if isinstance(m, AlphaBatchNorm)] == [0.4, 0.4]


def test_a_network_without_batch_norm_is_refused_before_it_is_trained():
    for mode in MODES:
        run = run_of(AlphaBN(mode=mode), spec="digits:model=mlp")
        with pytest.raises(CannotTreat, match="cannot treat task 'digits': model must hold a BatchNorm layer"):
            run.build()


def test_core_is_refused_where_there_are_no_classes():
    class Regression(type(load("digits"))):
        traits = frozenset({"images"})

        def model(self):
            return nn.BatchNorm2d(1)

    with pytest.raises(CannotTreat, match="mode=core needs classes"):
        Run(Regression(), Recipe().with_methods([AlphaBN(mode="core")]))
    Run(Regression(), Recipe().with_methods([AlphaBN()])).build()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alpha": 1.1}, r"alpha must lie in \[0, 1\], got 1.1"),
        ({"lr": 0.0}, "lr must be positive, got 0.0"),
        ({"batch_size": 0}, "batch_size must be positive, got 0"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(AssayError, match=message):
        AlphaBN(**settings)
