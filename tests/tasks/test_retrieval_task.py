"""An old model's gallery, and what new ones find in it."""

import pytest
import torch

from assay.engine import Batch, Recipe, Run
from assay.errors import AssayError, CannotTreat
from assay.methods.bt2 import BT2
from assay.models.embedder import BT2Embedder, Embedder
from assay.tasks import load
from assay.tasks.retrieval import Retrieval

ALL = ("init", "order", "split")


def trained(methods=(), seed=0, budget="10epochs", task=None, **options):
    task = task or Retrieval()
    run = Run(task, task.recipe.with_methods(methods), seed, budget, vary=ALL, evaluations=1, **options)
    return run, run.train()


def test_the_old_model_is_of_its_seed_and_leaves_chance_alone():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    one, again, other = (Retrieval().splits(seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    ids = torch.arange(50)
    assert torch.equal(one.test.batch(ids)[1][1], again.test.batch(ids)[1][1])
    assert torch.equal(one.test.batch(ids)[0], other.test.batch(ids)[0]), "the test items are always the same"
    assert not torch.equal(one.test.batch(ids)[1][1], other.test.batch(ids)[1][1])
    x, (labels, old) = one.train.batch(torch.arange(1197))
    assert (x.shape, old.shape) == ((1197, 1, 8, 8), (1197, 8))
    torch.testing.assert_close(old.norm(dim=1), torch.ones(1197))
    assert labels.unique().tolist() == list(range(10))


def test_the_old_model_tells_apart_what_it_knew():
    _, (labels, old) = Retrieval().splits(0).test.batch(torch.arange(300))
    similar = old @ old.T
    mine = labels < 5
    same = (labels[:, None] == labels) & mine[:, None] & ~torch.eye(300, dtype=torch.bool)
    differ = (labels[:, None] != labels) & mine[:, None] & mine
    assert similar[same].mean() > similar[differ].mean() + 0.7


def test_alone_a_new_model_finds_its_own_and_not_the_old_one_s():
    _, record = trained()
    found = record.metrics["test"]
    assert found["new_on_new"] > 0.85
    assert found["new_on_old"] < 0.4
    assert found["old_on_old"] > 0.5
    assert record.outcomes["test/new_on_old"].shape == (300,)


@pytest.mark.parametrize("method", [BT2(), BT2(mode="bct"), BT2(mode="bct", old=0.0, added_dim=0)])
def test_backward_compatible_ones_find_both(method):
    run, record = trained([method])
    found = record.metrics["test"]
    assert found["new_on_new"] > 0.85
    assert found["new_on_old"] > 0.5
    assert isinstance(run.model, BT2Embedder if method.mode == "bt2" else Embedder)


def test_what_bt2_follows_is_the_run_without_methods_and_its_cost_is_counted():
    alone, record = trained(budget="2epochs", test=False)
    run, both = trained([BT2()], budget="2epochs")
    assert both.flops > 1.9 * record.flops
    x, (labels, old) = run.splits.train.batch(torch.arange(64))
    with torch.no_grad():
        followed = alone.model.eval()(x).embedding
        run.model.eval()
        batch = Batch(x, (labels, old), torch.arange(64))
        output = run.model(x)
        pull = (1 - (followed * output.feature).sum(1).mean()).item()
        with_pull = run.objective(batch).item()
    assert pull > 0
    method_without, _ = trained([BT2(new=0.0)], budget="2epochs")
    with torch.no_grad():
        method_without.model.load_state_dict(run.model.state_dict())
        method_without.model.eval()
        assert with_pull - method_without.objective(batch).item() == pytest.approx(pull, abs=1e-5)


def test_the_same_seed_gives_the_same_bits_though_a_model_is_trained_inside():
    runs = [trained([BT2()], budget="1epochs")[0] for _ in range(2)]
    for a, b in zip(*(run.model.parameters() for run in runs), strict=True):
        assert torch.equal(a, b)


def test_a_stopped_run_goes_on_to_the_same_bits(tmp_path):
    from assay.errors import Interrupted

    _, whole = trained([BT2()], budget="6epochs")
    task = Retrieval()
    recipe = task.recipe.with_methods([BT2()])
    first = Run(task, recipe, 0, "6epochs", vary=ALL, evaluations=1, folder=tmp_path, watch=lambda run: run.stop())
    with pytest.raises(Interrupted):
        first.train()
    second = Run(task, recipe, 0, "6epochs", vary=ALL, evaluations=1, folder=tmp_path).train()
    assert second.metrics == whole.metrics
    assert second.flops == whole.flops


def test_another_architecture_may_take_over():
    run, record = trained([BT2()], budget="6epochs", task=Retrieval(model="cnn", old_model="mlp", dim=12, old_dim=6))
    assert record.status == "finished"
    assert run.model(torch.zeros(2, 1, 8, 8)).embedding.shape == (2, 16)
    assert record.metrics["test"]["new_on_old"] > 0.3


def test_clothes_are_read_where_they_are(data_dir):
    task = load("retrieval:data=fashion-mnist", data_dir=data_dir)
    run = Run(task, task.recipe, 0, "1steps", vary=ALL, evaluations=1)
    assert run.train().status == "finished"
    assert len(run.splits.train) == 2000


def test_a_bigger_old_part_than_there_is_room_for_is_refused():
    task = Retrieval(dim=2, old_dim=8)
    with pytest.raises(
        CannotTreat, match="'bt2' cannot treat task 'retrieval': new_dim \\+ added_dim must be at least"
    ):
        Run(task, task.recipe.with_methods([BT2()]), 0, "1steps", vary=ALL).train()


def test_other_tasks_are_refused_by_name():
    with pytest.raises(CannotTreat, match="'bt2' cannot treat task 'digits': it needs retrieval"):
        Run(load("digits"), Recipe(methods=(BT2(),)), 0, "1steps")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"influence": -1.0}, "influence must be at least 0"),
        ({"old": -1.0}, "old must be at least 0"),
        ({"scale": 0.0}, "scale must be positive"),
        ({"added_dim": -1}, "added_dim must be at least 0"),
    ],
)
def test_bad_settings_are_refused(options, says):
    with pytest.raises(AssayError, match=says):
        BT2(**options)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"dim": 1}, "dim and old_dim must be at least 2"),
        ({"old_classes": 11}, "old_classes must lie in 2..10, got 11"),
    ],
)
def test_bad_options_are_refused(options, says):
    with pytest.raises(AssayError, match=says):
        Retrieval(**options)
