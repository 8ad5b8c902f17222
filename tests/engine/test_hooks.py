from dataclasses import dataclass

import pytest
import torch
from torch import nn
from workloads import Blobs, Ones

from assay.engine import Method, Recipe, Run
from assay.engine.recipe import make_optimizer
from assay.errors import CannotTreat

HOOKS = ("setup", "batch", "step", "objective", "gradients", "updated", "epoch", "finish", "evaluation")


def recorder(name: str, log: list[str]) -> Method:
    class Recorder(Method):
        def setup(self, run):
            assert not hasattr(run, "optimizers")
            log.append(f"{name}.setup")

        def batch(self, run, batch):
            log.append(f"{name}.batch")
            return batch

        def step(self, run, batch, proceed):
            log.append(f"{name}.step(")
            loss = proceed(batch)
            log.append(f"){name}.step")
            return loss

        def objective(self, run, batch, proceed):
            log.append(f"{name}.objective(")
            loss = proceed(batch)
            log.append(f"){name}.objective")
            assert loss.requires_grad
            return loss

        def gradients(self, run):
            assert run.updating == "main"
            assert all(p.grad is not None for p in run.model.parameters())
            log.append(f"{name}.gradients")

        def updated(self, run):
            assert all(p.grad is None for p in run.model.parameters())
            log.append(f"{name}.updated")

        def epoch(self, run):
            assert run.epochs == int(run.epochs)
            log.append(f"{name}.epoch")

        def finish(self, run):
            assert run.progress == 1.0
            log.append(f"{name}.finish")

        def evaluation(self, run):
            assert not run.model.training
            log.append(f"{name}.evaluation")

    Recorder.name = name
    # a run works on a deep copy of its methods: they share this list because it is closed over
    return Recorder()


class Quiet(Ones):
    def evaluate(self, run, examples, batch_size=500):
        self.log.append("evaluate")
        return super().evaluate(run, examples, batch_size)


def test_each_hook_is_called_at_its_place_and_in_the_recipes_order():
    log: list[str] = []
    task = Quiet(samples=8)
    task.log = log
    recipe = Recipe(batch_size=4).with_methods([recorder("a", log), recorder("b", log)])
    Run(task, recipe, budget="1epoch", evaluations=0).train()
    step = (
        "a.batch b.batch a.step( b.step( a.objective( b.objective( )b.objective )a.objective "
        "a.gradients b.gradients a.updated b.updated )b.step )a.step"
    )
    judge = "a.evaluation b.evaluation evaluate"
    expected = f"a.setup b.setup {step} {step} a.epoch b.epoch a.finish b.finish {judge} {judge}"
    assert log == expected.split()


def test_a_method_may_set_how_many_examples_an_evaluation_reads_at_a_time():
    class Few(Method):
        name = "few"

        def finish(self, run):
            run.evaluation_batch_size = 3

    sizes = []

    class Sized(Ones):
        def outcomes(self, model, batch):
            sizes.append(len(batch.ids))
            return super().outcomes(model, batch)

    Run(Sized(samples=8), Recipe(batch_size=4).with_methods([Few()]), budget="1epoch", evaluations=2).train()
    assert sizes == [8, 3, 3, 2]  # halfway on, and after finish


def test_a_hook_that_is_not_overridden_is_not_called(monkeypatch):
    def never(*args):
        raise AssertionError("a no-op hook was called")

    for hook in HOOKS:
        monkeypatch.setattr(Method, hook, never)
    run = Run(Ones(), Recipe(batch_size=4).with_methods([Method(), Method()]), budget="1epoch")
    assert run.train().status == "finished"


def test_one_method_object_serves_many_runs():
    @dataclass
    class Counter(Method):
        name = "counter"

        def setup(self, run):
            assert not hasattr(self, "calls")
            self.calls = 0

        def updated(self, run):
            self.calls += 1

    method = Counter()
    recipe = Recipe(batch_size=4).with_methods([method])
    runs = [Run(Ones(), recipe, budget="3steps") for _ in range(2)]
    for run in runs:
        run.train()
    assert [run.methods[0].calls for run in runs] == [3, 3]
    assert not hasattr(method, "calls")


def test_training_again_gives_the_same_record():
    run = Run(Blobs(noisy=True), budget="12steps")
    assert run.train().metrics == run.train().metrics


def test_setup_may_replace_model_loss_splits_optimizer_and_schedule():
    class Replace(Method):
        name = "replace"

        def setup(self, run):
            run.model = nn.Sequential(run.model, nn.Linear(1, 1))
            plain = run.loss
            run.loss = lambda *args, **kwargs: 2 * plain(*args, **kwargs)
            run.splits = type(run.splits)(run.splits.train, run.splits.valid, run.splits.valid)
            run.make_optimizer = lambda parameters: torch.optim.RMSprop(parameters, lr=1e-3)
            run.make_schedule = lambda o, total: torch.optim.lr_scheduler.LambdaLR(o, lambda t: 1 - t / total)

    run = Run(Ones(), Recipe(batch_size=4).with_methods([Replace()]), budget="4steps")
    record = run.train()
    assert run.forward_module is run.model
    assert type(run.optimizer) is torch.optim.RMSprop
    assert run.optimizer.param_groups[0]["lr"] == 0.0
    assert record.parameters == 6
    assert record.metrics["test"] == record.metrics["valid"] != {}
    assert record.curve[0]["train_loss"] == pytest.approx(2 * record.metrics["valid"]["error"], rel=0.2)


@pytest.mark.parametrize("precision", ["32-true", "64-true", "bf16-mixed"])
def test_the_model_that_finish_leaves_is_the_one_that_is_judged(precision):
    class Zero(nn.Module):
        def forward(self, x):
            return x[:, :1] * 0

    class Swap(Method):
        name = "swap"

        def finish(self, run):
            run.model = Zero()

    recipe = Recipe(batch_size=4, precision=precision).with_methods([Swap()])
    record = Run(Ones(), recipe, budget="4steps").train()
    assert record.metrics["valid"] == {"error": 1.0}
    assert record.curve[-1]["valid/error"] == 1.0


def test_setup_decides_which_modules_train():
    class Freeze(Method):
        name = "freeze"

        def setup(self, run):
            run.model[1].eval()

    run = Run(Blobs(noisy=True), Recipe().with_methods([Freeze()]), budget="4steps")
    run.train()
    assert torch.equal(run.model[1].running_mean, torch.zeros(16))
    assert run.model[0].training


def test_a_method_is_refused_before_anything_is_built():
    class Pictures(Method):
        name = "pictures"
        requires = frozenset({"images", "classification"})

    class Unbuildable(Blobs):
        def splits(self, seed):
            raise AssertionError("built")

    with pytest.raises(CannotTreat, match=r"'pictures' cannot treat task 'blobs': it needs images, .* classification"):
        Run(Unbuildable(), Recipe().with_methods([Pictures()]))


def test_settings_are_the_dataclass_fields():
    @dataclass
    class Two(Method):
        size: int = 3
        rate: float = 0.5
        name = "two"

    assert Two().settings() == {"size": 3, "rate": 0.5}
    assert Recipe().with_methods([Two(size=4)]).describe()["methods"] == [{"name": "two", "size": 4, "rate": 0.5}]


def test_clipping_comes_after_the_gradients_hook_and_bounds_the_norm():
    class Blow(Method):
        name = "blow"

        def gradients(self, run):
            for p in run.model.parameters():
                p.grad.fill_(1000.0)

    recipe = Recipe(lr=1.0, momentum=0.0, batch_size=4, clip_norm=0.5).with_methods([Blow()])
    run = Run(Ones(), recipe, budget="1step", evaluations=0)
    run.build()
    before = [p.detach().clone() for p in run.model.parameters()]
    run.train()
    moved = torch.cat([(a - b).flatten() for a, b in zip(before, run.model.parameters(), strict=True)])
    assert moved.norm().item() == pytest.approx(0.5, rel=1e-5)


def test_clipping_is_what_a_loop_of_torchs_own_calls_does():
    recipe = Recipe(lr=0.5, batch_size=16, clip_norm=0.1)
    run = Run(Blobs(), recipe, budget="6steps", evaluations=0)
    run.build()
    model, stream = run.model, run.stream
    optimizer = make_optimizer(recipe, model.parameters())
    for _ in range(6):
        batch = stream.next()
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(batch.x), batch.y).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
    by_hand = [p.detach().clone() for p in model.parameters()]
    run.train()
    assert all(torch.equal(a, b) for a, b in zip(by_hand, run.model.parameters(), strict=True))


def test_backward_for_one_optimizer_leaves_the_others_gradients_alone():
    class Two(Ones):
        def model(self):
            return nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 1)})

        def parameters(self, model):
            return {name: list(part.parameters()) for name, part in model.items()}

        def step(self, run, batch):
            loss = run.forward_module["b"](run.forward_module["a"](batch.x)).square().mean()
            run.backward(loss, "a")
            assert all(p.grad is None for p in run.model["b"].parameters())
            assert all(p.grad is not None for p in run.model["a"].parameters())
            run.update("a")
            return loss

        def outcomes(self, model, batch):
            return {"error": model["b"](model["a"](batch.x)).square().mean(1)}

    for precision in ("32-true", "64-true", "bf16-mixed"):
        run = Run(Two(), Recipe(batch_size=4, precision=precision), budget="3steps")
        start = Run(Two(), Recipe(batch_size=4, precision=precision))
        start.build()
        assert run.train().status == "finished"
        for name in ("a", "b"):
            same = torch.equal(start.model[name].weight, run.model[name].weight)
            assert same == (name == "b")
