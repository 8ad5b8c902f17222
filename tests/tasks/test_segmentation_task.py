"""Pixel-wise classes of made-up pictures: what the task is made of, and what it is judged by."""

import pytest
import torch
from sklearn.metrics import jaccard_score

from assay.data.shapes import CLASSES
from assay.engine import Batch, Run
from assay.errors import AssayError
from assay.tasks import load
from assay.tasks.segmentation import Segmentation

SMALL = "segmentation:train_size=64,side=16,width=4"


def test_the_seed_makes_all_three_parts():
    task = Segmentation(train_size=32)
    one, again, other = (task.splits(seed) for seed in (0, 0, 1))
    assert [len(part) for part in (one.train, one.valid, one.test)] == [32, 256, 512]
    assert torch.equal(one.test.x, again.test.x)
    assert not torch.equal(one.test.x, other.test.x)
    assert not torch.equal(one.train.x[:32], one.test.x[:32])


def test_miou_is_that_of_all_test_pixels_together_however_they_are_batched():
    task = load(SMALL)
    run = Run(task, task.recipe, 0, "1steps")
    run.build()
    found = {size: task.evaluate(run, run.splits.test, size) for size in (500, 60)}
    with torch.no_grad():
        called = run.model(run.splits.test.x).argmax(1)  # in train mode, as it was in both evaluations
    run.model.eval()
    with torch.no_grad():
        called = run.model(run.splits.test.x).argmax(1)
    y = run.splits.test.y
    judged = run.evaluate(run.splits.test)
    assert judged.metrics["miou"] == pytest.approx(jaccard_score(y.flatten(), called.flatten(), average="macro"))
    assert judged.metrics["pixel_accuracy"] == pytest.approx((y == called).double().mean().item())
    assert set(judged.outcomes) == {"pixel_accuracy", "loss"}
    assert judged.outcomes["loss"].shape == (512,)
    assert set(found[60].metrics) == {metric.name for metric in task.metrics}
