import copy

import numpy as np
import pytest
import torch
from scipy.stats import kendalltau

from assay.data.images import LabelledImages
from assay.engine import Run
from assay.errors import AssayError
from assay.methods.calibration import Calibration
from assay.metrics.calibration.report import calibration_report
from assay.models.mlp_space import SPACE, draw
from assay.tasks import load


@pytest.fixture
def task(tmp_path, monkeypatch):
    """The space on made-up pictures."""
    (tmp_path / "fashion_mnist.npz").write_text("one")
    generator = np.random.default_rng(0)

    def pictures(size):
        labels = np.arange(size) % 10
        levels = generator.integers(0, 100, (size, 1, 28, 28), np.uint8)
        levels[np.arange(size), 0, labels, labels] += 150  # something to learn
        return LabelledImages(levels, labels)

    data = pictures(5600), pictures(400)
    monkeypatch.setattr("assay.tasks.fashion_mnist._read", lambda *_: data)
    return load("network-space:networks=4,train_size=100", data_dir=tmp_path)


def test_a_seed_draws_the_networks_and_both_arms_train_the_same(task):
    runs = [
        Run(task, task.recipe.with_methods(methods), seed=seed, budget="4steps", evaluations=0)
        for seed, methods in ((1, []), (1, [Calibration()]), (2, []))
    ]
    records = [run.train() for run in runs]
    names = [list(dict(run.model.named_children())) for run in runs]
    assert names[0] == names[1] != names[2]
    assert len(set(names[0])) == 4
    plain, treated = (dict(run.model.named_children()) for run in runs[:2])
    for name in names[0]:
        for key, tensor in plain[name].state_dict().items():
            assert torch.equal(treated[name][0].state_dict()[key], tensor)
        assert f"calibration/temperature_{name}" in records[1].extras
    assert records[0].metrics["test"]["accuracy"] == records[1].metrics["test"]["accuracy"]
    assert records[0].metrics["test"]["ece"] != records[1].metrics["test"]["ece"]


def test_a_network_trains_as_it_would_alone(task):
    run = Run(task, seed=1, budget="3steps", evaluations=0)
    run.build()
    still = [n for n in run.model.children() if not any(isinstance(m, torch.nn.Dropout) for m in n.modules())]
    network = still[0]  # dropout would draw from the generator that all share
    alone = copy.deepcopy(network)
    optimizer = run.make_optimizer(list(alone.parameters()))
    schedule = run.make_schedule(optimizer, run.total_steps)
    for _ in range(3):
        batch = run.stream.next()
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(alone(batch.x), batch.y).backward()
        optimizer.step()
        schedule.step()
        run._losses.append(run._count(batch).detach())
        for running in run.schedules.values():
            running.step()
    for mine, other in zip(network.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(mine, other)


def test_figures_are_those_of_the_networks_one_by_one(task):
    run = Run(task, seed=3, budget="6steps", evaluations=0)
    record = run.train()
    x, y = run.splits.test.batch(torch.arange(400))
    with torch.no_grad():
        reports = [calibration_report(network.eval()(x), y) for network in run.model.children()]
    found = record.metrics["test"]
    assert found["ece"] == pytest.approx(np.mean([r["ece_15"] for r in reports]), abs=1e-5)
    assert found["accuracy"] == pytest.approx(np.mean([r["accuracy"] for r in reports]))
    tau = kendalltau([r["ece_15"] for r in reports], [r["ece_500"] for r in reports]).statistic
    assert found["agreement"] == pytest.approx(tau)


@pytest.mark.parametrize("count", [1, 161])
def test_too_few_or_too_many_networks_are_refused(count):
    with pytest.raises(AssayError, match=r"networks must lie in 2..160"):
        load(f"network-space:networks={count}")


def test_the_digits_serve_too():
    task = load("network-space:networks=2,data=digits")
    record = Run(task, budget="1steps", evaluations=0).train()
    assert record.metrics["test"]["accuracy"] > 0
    with pytest.raises(AssayError, match="the digits come in one size"):
        load("network-space:data=digits,train_size=100")


def test_the_space_has_different_networks_with_different_names():
    assert len({a.name for a in SPACE}) == len(SPACE) == 160
    torch.manual_seed(0)
    assert len(set(draw(160))) == 160
    network = SPACE[-1].network(6, 3)
    assert network(torch.randn(2, 6)).shape == (2, 3)
    with pytest.raises(ValueError, match=r"count must lie in 1..160"):
        draw(0)
