import json
import runpy
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

import tests.losses.two_view_oracle as oracle
from assay.engine import Run
from assay.errors import AssayError, CannotTreat
from assay.papers import make_method
from assay.tasks import load
from assay.trials import Arm, compare


def built(spec="contrastive", methods=(), **settings):
    task = load(spec)
    run = Run(
        task,
        task.recipe.with_settings(settings).with_methods(map(make_method, methods)),
        budget="4steps",
        vary=task.varies,
        evaluations=1,
    )
    run.build()
    return run


def loss_of(run, batch):
    """The loss of a step by the definition, from the embeddings of its batch."""
    with torch.no_grad():
        run.model.train()
        z = run.model(batch.x.flatten(0, 1)).z
    return z[0::2].numpy(), z[1::2].numpy()


@pytest.mark.parametrize("spec", ["contrastive", "contrastive:data=clusters"])
def test_a_run_trains_and_every_metric_has_a_figure(spec):
    task = load(spec)
    record = Run(task, task.recipe.with_settings({"batch_size": 16}), budget="3steps", evaluations=1).train()
    assert record.status == "finished"
    assert set(record.metrics["test"]) == {metric.name for metric in task.metrics}
    assert set(record.outcomes) == {f"{part}/{name}" for part in ("valid", "test") for name in ("knn", "probe")}
    for name in ("knn", "probe"):
        figure = record.metrics["test"][name]
        assert figure == pytest.approx(record.outcomes[f"test/{name}"].mean(), rel=1e-5)
    assert 0 < record.metrics["test"]["npc"] < 1


def test_a_step_s_two_views_are_of_one_picture_and_differ():
    run = built(batch_size=8)
    batch = run.stream.next()
    assert batch.x.shape == (8, 2, 1, 8, 8)
    assert not torch.equal(batch.x[:, 0], batch.x[:, 1])
    plain, y = run.splits.train.batch(batch.ids)
    assert plain.shape == (8, 1, 8, 8)
    assert torch.equal(y, batch.y)
    near = (batch.x - plain[:, None]).flatten(2).norm(dim=2).mean()
    far = (batch.x - plain[:, None].roll(1, 0)).flatten(2).norm(dim=2).mean()
    assert near < far


@pytest.mark.parametrize(
    ("method", "by_hand"),
    [
        ("", lambda a, b: oracle.info_nce(a, b, 0.1)),
        ("dcl:form=info-nce,temperature=0.3", lambda a, b: oracle.info_nce(a, b, 0.3)),
        ("dcl", lambda a, b: oracle.dcl(a, b, 0.1)),
        (
            "dcl:form=dclw,temperature=0.2,sigma=0.7",
            lambda a, b: oracle.dcl(a, b, 0.2, 2 * oracle.vmf_weights(a, b, 0.7)),
        ),
        ("contrastive-temperature:form=contrastive,temperature=2", lambda a, b: oracle.info_nce(a, b, 2.0)),
        ("contrastive-temperature:alpha=0.2,warmup=0", lambda a, b: oracle.hard(a, b, 1.0, 3)),
        ("contrastive-temperature:alpha=0.2", lambda a, b: oracle.info_nce(a, b, 1.0)),  # not warm yet
        ("contrastive-temperature:form=simple", lambda a, b: oracle.hard_simple(a, b, 1 / 14, None)),
        (
            "contrastive-temperature:form=hard-simple,alpha=0.2,warmup=0",
            lambda a, b: oracle.hard_simple(a, b, 1 / 3, 3),
        ),
    ],
)
def test_a_step_minimises_the_loss_that_its_method_names(method, by_hand):
    run = built(methods=[method] if method else [], batch_size=8)
    batch = run.stream.next()
    z1, z2 = loss_of(run, batch)
    assert run.objective(batch).item() == pytest.approx(np.mean(by_hand(z1, z2)), rel=1e-4)
    z = torch.stack([torch.from_numpy(z1), torch.from_numpy(z2)], 1)
    each = run.loss(z, None, reduction="none")
    assert each.shape == (8,)
    torch.testing.assert_close(run.loss(z, None, reduction="sum"), each.sum())
    torch.testing.assert_close(run.loss(z, None), each.mean())


def test_the_choice_of_negatives_narrows_as_the_run_goes_on():
    run = built(methods=["contrastive-temperature:alpha=0.1,warmup=0.5"], batch_size=16)
    z = torch.randn(16, 2, 5, generator=torch.Generator().manual_seed(0))
    values = []
    for _ in range(3):
        values.append(run.loss(z, None).item())
        run.take_step()
    assert values[0] > values[1] > values[2]
    assert values[0] == pytest.approx(np.mean(oracle.info_nce(z[:, 0], z[:, 1], 1.0)), rel=1e-5)
    assert values[2] == pytest.approx(np.mean(oracle.hard(z[:, 0], z[:, 1], 1.0, 3)), rel=1e-5)


def test_points_about_six_directions_are_drawn_by_the_split():
    splits = load("contrastive:data=clusters").splits(5)
    again, other = (load("contrastive:data=clusters").splits(seed) for seed in (5, 6))
    ids = torch.arange(192)
    x, y = splits.train.batch(ids)
    assert torch.equal(x, again.train.batch(ids)[0])
    assert not torch.equal(x, other.train.batch(ids)[0])
    assert not torch.equal(x, splits.test.batch(ids)[0])
    torch.testing.assert_close(x.norm(dim=1), torch.ones(192))
    assert torch.bincount(y).tolist() == [32] * 6
    means, unseen = (
        torch.stack([part.batch(ids)[0][y == c].mean(0) for c in range(6)]) for part in (splits.train, splits.test)
    )
    assert ((means * unseen).sum(1) > 0).all()  # the parts have their directions in common


@pytest.mark.parametrize("data", ["fashion-mnist", "cifar10"])
def test_pictures_of_the_public_sets_train_too(data_dir, data):
    task = load(f"contrastive:data={data},train_size=64", data_dir=data_dir)
    run = Run(task, task.recipe.with_settings({"batch_size": 8}), budget="2steps", vary=task.varies)
    run.build()
    batch = run.stream.next()
    assert batch.x.shape[:2] == (8, 2)
    plain, _ = run.splits.train.batch(batch.ids)
    assert batch.x.shape[2:] == plain.shape[1:]
    assert batch.x.min() >= plain.new_tensor(-3)
    assert run.objective(batch).isfinite()
    assert task.fixed_test


@pytest.mark.parametrize(("data", "overlaps"), [("digits", True), ("clusters", False)])
def test_splits_of_points_that_each_seed_makes_are_not_corrected_for_overlap(data, overlaps):
    task = load(f"contrastive:data={data},width=2")
    arms = [
        Arm("base", task.recipe.with_settings({"batch_size": 8})),
        Arm("dcl", task.recipe.with_settings({"batch_size": 8}).with_methods([make_method("dcl")])),
    ]
    result = compare(
        task, arms, seeds=2, budget="1steps", vary=task.varies, evaluations=0, executor="serial", store=None
    )
    assert ("overlapping splits" in result.comparisons[0].method) is overlaps


def test_settings_tell_the_options_apart_and_are_plain():
    found = [
        load(spec).settings()
        for spec in ("contrastive", "contrastive:temperature=0.2", "contrastive:width=16", "contrastive:data=clusters")
    ]
    assert len({json.dumps(settings, sort_keys=True) for settings in found}) == 4


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("contrastive:data=cifar100", "did you mean 'cifar10'"),
        ("contrastive:temperature=0", "temperature must be positive and finite, got 0"),
        ("contrastive:width=0", "width must be positive, got 0"),
        ("contrastive:train_size=50", "train_size needs data=fashion-mnist or data=cifar10; digits has one size"),
        ("contrastive:data=fashion-mnist,train_size=5", r"train_size must lie in 10..55000, got 5"),
    ],
)
def test_options_out_of_range_are_refused(spec, message):
    with pytest.raises(AssayError, match=message):
        load(spec)


def test_a_batch_of_one_picture_is_refused():
    run = built(batch_size=1)
    with pytest.raises(AssayError, match="needs batch_size 2 or more, or there are no negatives"):
        run.take_step()


@pytest.mark.parametrize("method", ["dcl", "contrastive-temperature"])
@pytest.mark.parametrize("task", ["digits", "text"])
def test_other_tasks_are_refused_by_name(method, task):
    with pytest.raises(CannotTreat, match=f"method '{method}' cannot treat task '{task}': it needs contrastive"):
        Run(load(task), load(task).recipe.with_methods([make_method(method)]))


@pytest.mark.parametrize("method", ["cutmix", "label-smoothing"])
def test_methods_of_labels_are_refused_on_it(method):
    with pytest.raises(CannotTreat, match="it needs classification"):
        Run(load("contrastive"), load("contrastive").recipe.with_methods([make_method(method)]))


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("dcl:temperature=0", "temperature must be positive and finite, got 0"),
        ("dcl:form=dclw,sigma=0", "sigma must be positive, got 0"),
        ("dcl:form=dclv", "unknown form 'dclv'; did you mean 'dcl"),
        ("contrastive-temperature:temperature=-1", "temperature must be positive and finite, got -1"),
        ("contrastive-temperature:alpha=0", r"alpha must lie in \(0, 1\], got 0"),
        ("contrastive-temperature:warmup=2", r"warmup must lie in \[0, 1\], got 2"),
        ("contrastive-temperature:form=harder", "did you mean 'hard'"),
    ],
)
def test_settings_of_a_method_out_of_range_are_refused(method, message):
    with pytest.raises(AssayError, match=message):
        make_method(method)


def test_the_sweep_draws_a_point_for_each_temperature_and_loss(tmp_path, monkeypatch):
    out = tmp_path / "curve.svg"
    monkeypatch.setattr("sys.argv", ["", str(out), "--temperatures", "0.2", "2", "--budget", "2steps"])
    runpy.run_path(str(Path(__file__).parents[2] / "examples" / "uniformity_tolerance.py"), run_name="__main__")
    drawn = ElementTree.parse(out).getroot()
    tags = [element.tag.rpartition("}")[2] for element in drawn.iter()]
    assert tags.count("circle") == 4
    assert tags.count("polyline") == 2
