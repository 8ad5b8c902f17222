import math
import warnings

import pytest
import torch
from torch import nn
from workloads import Blobs, Ones

from assay.engine import Evaluation, Method, Recipe, Run, TensorExamples


def bad_at(step, value):
    """A step whose loss is `value` at the `step`th step, and whose later losses are finite or not in turn."""

    def own(run, batch):
        at = run.steps + 1
        loss = run.objective(batch)
        if at < step:
            return loss
        return loss * value if at == step or at % 2 else loss

    return own


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("step", [1, 2, 63, 64, 65, 100])
def test_the_first_step_without_a_finite_loss_is_the_one_recorded(step, value):
    run = Run(Ones(bad_at(step, value)), Recipe(batch_size=4), budget="150steps", evaluations=0)
    record = run.train()
    assert (record.status, record.diverged_at) == ("diverged", step)
    assert record.metrics == record.outcomes == {}
    assert record.steps < step + 64


@pytest.mark.parametrize("evaluations", [1, 7, 50])
def test_the_step_does_not_depend_on_when_the_losses_are_read(evaluations, tmp_path):
    task = Ones(bad_at(23, math.nan))
    run = Run(
        task, Recipe(batch_size=4), budget="150steps", evaluations=evaluations, folder=tmp_path, checkpoint_every=0.0
    )
    assert run.train().diverged_at == 23
    assert (
        Run(
            task,
            Recipe(batch_size=4),
            budget="150steps",
            evaluations=evaluations,
            folder=tmp_path,
            checkpoint_every=0.0,
        )
        .train()
        .diverged_at
        == 23
    )


def test_a_run_that_blows_up_is_a_result_and_its_curve_is_finite():
    record = Run(Blobs(), Recipe(lr=1e20, momentum=0.0), budget="100steps", evaluations=100).train()
    assert record.status == "diverged"
    assert 1 <= record.diverged_at <= 20
    assert all(math.isfinite(value) for point in record.curve for value in point.values())
    assert record.to_json()["diverged_at"] == record.diverged_at


def test_an_exception_that_a_non_finite_loss_brings_about_is_divergence():
    def chokes(run, batch):
        if run.steps + 1 < 9:
            return run.objective(batch)
        if run.steps + 1 == 9:
            return run.objective(batch) * math.nan
        raise IndexError("argmax of nothing")

    with pytest.warns(UserWarning, match=r"diverged at step 9.*IndexError: argmax of nothing"):
        record = Run(Ones(chokes), Recipe(batch_size=4), budget="50steps", evaluations=0).train()
    assert (record.status, record.diverged_at) == ("diverged", 9)


def test_an_exception_that_broken_weights_bring_about_is_divergence():
    """The loss of step 5 is finite, its update is not, and step 6 fails before there is a loss to look at."""

    class Sampling(Ones):
        def objective(self, run, batch):
            probabilities = run.forward(batch.x).flatten().softmax(0)
            drawn = torch.multinomial(probabilities, 1)  # raises RuntimeError on nan
            return probabilities[drawn].sum()

    class Break(Method):
        name = "break"

        def gradients(self, run):
            if run.steps + 1 == 5:
                run.model.weight.grad.fill_(math.nan)

    recipe = Recipe(batch_size=4).with_methods([Break()])
    with pytest.warns(UserWarning, match=r"diverged at step 5.*RuntimeError"):
        record = Run(Sampling(), recipe, budget="50steps", evaluations=0).train()
    assert (record.status, record.diverged_at, record.steps) == ("diverged", 5, 5)


@pytest.mark.parametrize("error", [RuntimeError, ValueError, ZeroDivisionError, KeyError, AssertionError])
def test_a_bug_is_never_taken_for_divergence(error):
    def buggy(run, batch):
        if run.steps == 70:
            raise error("a bug")
        return run.objective(batch)

    with pytest.raises(error, match="a bug"):
        Run(Ones(buggy), Recipe(batch_size=4), budget="100steps").train()


def test_an_evaluation_that_chokes_on_broken_weights_is_divergence():
    class Strict(Ones):
        def evaluate(self, run, examples, batch_size=500):
            if not all(p.isfinite().all() for p in run.model.parameters()):
                raise ValueError("input contains NaN")
            return super().evaluate(run, examples, batch_size)

    class Break(Method):
        name = "break"

        def updated(self, run):
            if run.steps + 1 == 5:
                run.model.weight.data.fill_(math.inf)

    recipe = Recipe(batch_size=4).with_methods([Break()])
    with pytest.warns(UserWarning, match=r"diverged at step 5.*input contains NaN"):
        record = Run(Strict(), recipe, budget="5steps").train()
    assert (record.status, record.diverged_at) == ("diverged", 5)


def test_a_final_figure_that_is_not_finite_is_divergence():
    class NoFigure(Ones):
        def evaluate(self, run, examples, batch_size=500):
            return Evaluation({"error": math.nan if run.progress == 1 else 0.5}, {})

    record = Run(NoFigure(), Recipe(batch_size=4), budget="5steps", evaluations=5).train()
    assert (record.status, record.diverged_at, record.metrics) == ("diverged", 5, {})
    assert [point["steps"] for point in record.curve] == [1, 2, 3, 4]


def test_a_diverged_run_does_not_warn_and_a_method_s_figures_stay_json():
    class Log(Method):
        name = "log"

        def batch(self, run, batch):
            run.log("nothing", math.nan)
            run.log("something", run.steps)
            return batch

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        recipe = Recipe(batch_size=4).with_methods([Log()])
        record = Run(Ones(bad_at(3, math.nan)), recipe, budget="5steps").train()
    assert record.extras.keys() == {"something"}


@pytest.mark.parametrize("precision", ["32-true", "64-true", "bf16-mixed"])
def test_every_precision_trains(precision):
    recipe = Recipe(precision=precision, lr=0.05, schedule="cosine", clip_norm=1.0)
    run = Run(Blobs(), recipe, budget="20epochs")
    record = run.train()
    test = run.splits.test
    centres = torch.stack([run.splits.train.x[run.splits.train.y == c].mean(0) for c in range(4)])
    nearest = (torch.cdist(test.x, centres).argmin(1) == test.y).float().mean().item()  # Bayes' rule but for noise
    assert record.metrics["test"]["accuracy"] > nearest - 0.05
    assert record.curve[-1]["train_loss"] < 0.7 * record.curve[0]["train_loss"]
    expected = torch.float64 if precision == "64-true" else torch.float32
    assert {p.dtype for p in run.model.parameters()} == {expected}


def test_mixed_precision_computes_in_bfloat16_and_double_in_float64_in_training_and_evaluation():
    for precision, expected in (("bf16-mixed", torch.bfloat16), ("64-true", torch.float64), ("32-true", torch.float32)):
        seen = set()

        class Spy(nn.Linear):
            def forward(self, x, seen=seen):
                out = super().forward(x)
                seen.add((self.training, out.dtype))
                return out

        class Spied(Ones):
            def model(self, spy=Spy):
                return spy(3, 1)

        Run(Spied(), Recipe(precision=precision, batch_size=4), budget="5steps").train()
        assert seen == {(True, expected), (False, expected)}


def test_double_precision_is_double_throughout():
    """Bit for bit a float64 loop of torch's own calls: nothing on the way is rounded to float32."""

    class Regression(Ones):
        def splits(self, seed):
            x = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
            data = TensorExamples(x, x.sum(1, keepdim=True))
            return type(super().splits(seed))(data, data, None)

    recipe = Recipe(precision="64-true", batch_size=4)
    run = Run(Regression(), recipe, budget="20steps", evaluations=0)
    run.build()
    model, stream = run.model, run.stream
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(20):
        batch = stream.next()
        optimizer.zero_grad()
        nn.functional.mse_loss(model(batch.x.double()), batch.y).backward()
        optimizer.step()
    weight = model.weight.detach().clone()
    run.train()
    assert weight.dtype == torch.float64
    assert torch.equal(weight, run.model.weight)
    assert not torch.equal(weight, weight.float().double())


def test_half_precision_without_a_gpu_is_refused_before_it_is_tried():
    from assay.errors import AssayError

    with pytest.raises(AssayError, match="16-mixed needs a GPU"):
        Run(Ones(), Recipe(precision="16-mixed"))
    if not torch.cuda.is_available():
        with pytest.raises(AssayError, match="torch finds no such device"):
            Run(Ones(), accelerator="cuda")
    with pytest.raises(AssayError, match="must be cpu, cuda or auto, got 'tpu'"):
        Run(Ones(), accelerator="tpu")


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_run_prints_nothing(precision, capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Run(Blobs(), Recipe(precision=precision), budget="3steps").train()
    out, err = capfd.readouterr()
    assert out == err == ""
