"""Pixel-wise classes of made-up pictures: what the task is made of, and what it is judged by."""

import pytest
import torch
from sklearn.metrics import jaccard_score

from assay.data.shapes import CLASSES
from assay.engine import Run
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
    assert not torch.equal(one.train.x, one.test.x[:32])


@pytest.mark.parametrize("batch_size", [500, 60])
def test_it_is_judged_by_all_test_pixels_together_however_they_are_batched(batch_size):
    task = load(SMALL)
    run = Run(task, task.recipe, 0, "2epochs")
    run.train()
    run.evaluation_batch_size = batch_size
    judged = run.evaluate(run.splits.test)
    x, y = run.splits.test.x, run.splits.test.y
    with torch.no_grad():
        logits = run.model.eval()(x)
    found = logits.argmax(1)
    want = {
        "miou": jaccard_score(y.flatten(), found.flatten(), average="macro"),
        "pixel_accuracy": (y == found).double().mean().item(),
        "loss": -logits.double().log_softmax(1).gather(1, y[:, None]).mean().item(),
    }
    assert judged.metrics == pytest.approx(want, rel=1e-5)
    assert list(judged.metrics) == [metric.name for metric in task.metrics]
    assert {name: len(values) for name, values in judged.outcomes.items()} == {"pixel_accuracy": 512, "loss": 512}


def test_the_loss_of_a_picture_is_the_mean_over_its_pixels():
    logits, y = torch.randn(3, len(CLASSES), 4, 5), torch.randint(len(CLASSES), (3, 4, 5))
    each = Segmentation().loss(logits, y, reduction="none")
    for i in range(3):
        torch.testing.assert_close(each[i], Segmentation().loss(logits[i : i + 1], y[i : i + 1]))
    torch.testing.assert_close(each.mean(), Segmentation().loss(logits, y))


def test_a_short_training_beats_calling_everything_ground():
    task = load("segmentation:train_size=256,side=16,width=8")
    run = Run(task, task.recipe, 0, "15epochs", evaluations=1)
    found = run.train().metrics["test"]
    ground = (run.splits.test.y == 0).double().mean().item()
    assert found["miou"] > 1.5 * ground / len(CLASSES)
    assert found["pixel_accuracy"] > ground


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"train_size": 3}, "train_size must lie in 4..50000, got 3"),
        ({"side": 8}, "side must lie in 16..128, got 8"),
        ({"side": 40}, "side must be a multiple of 16, got 40"),
        ({"width": 65}, "width must lie in 4..64, got 65"),
    ],
)
def test_bad_options_are_refused(options, says):
    with pytest.raises(AssayError, match=says):
        Segmentation(**options)
