import pickle

import numpy as np
import pytest
import torch

from assay.data.corruptions import CORRUPTIONS, HELD_OUT, corrupt
from assay.data.images import LabelledImages
from assay.engine import Method, Run
from assay.engine.task import batches
from assay.errors import AssayError, UnknownName
from assay.tasks import load
from assay.tasks.classification import Pixels, Streams
from assay.tasks.corrupted import corrupted, read_shift

ALL = [kind for kind in CORRUPTIONS if kind not in HELD_OUT]


def pixels(count=20, first=5):
    """Every second of `count` RGB pictures from the `first`."""
    levels = np.random.default_rng(0).integers(0, 256, (first + 2 * count, 3, 8, 8), np.uint8)
    data = LabelledImages(levels, np.arange(len(levels)) % 10)
    return Pixels(data, np.arange(first, len(levels), 2), (0.5,) * 3, (0.25,) * 3)


def everything(examples):
    return examples.batch(torch.arange(len(examples)))


def test_training_stays_clean_and_what_is_judged_is_corrupted():
    clean, shifted = load("digits").splits(3), load("digits:corruption=contrast+jpeg,severity=4").splits(3)
    assert torch.equal(everything(clean.train)[0], everything(shifted.train)[0])
    assert [part.kind for part in shifted.test.parts] == ["contrast", "jpeg"]
    assert [part.kind for part in shifted.valid.parts] == list(HELD_OUT)
    assert {part.severity for part in (*shifted.test.parts, *shifted.valid.parts)} == {4}


@pytest.mark.parametrize("part", ["valid", "test"])
def test_each_picture_is_there_once_with_its_label(part):
    clean, shifted = (
        everything(getattr(load(s).splits(3), part)) for s in ("digits", "digits:corruption=jpeg,severity=1")
    )
    nearest = torch.cdist(shifted[0].flatten(1), clean[0].flatten(1)).argmin(1)
    assert (nearest.bincount(minlength=300) == 1).float().mean() > (0.95 if part == "test" else 0.7)
    assert (shifted[1] == clean[1][nearest]).float().mean() > 0.95
    assert torch.equal(shifted[1].bincount(), clean[1].bincount())


def test_a_stream_holds_its_own_pictures_corrupted():
    clean = pixels()
    streams = corrupted(clean, ["contrast", "brightness", "jpeg"], 3, seed=7)
    assert [len(part) for part in streams.parts] == [7, 7, 6]
    order = np.random.default_rng(7).permutation(20)
    assert sorted(order) == list(range(20))
    start = 0
    for part in streams.parts:
        rows = clean.rows[order[start : start + len(part)]]
        x, y = everything(part)
        levels = corrupt(clean.data.images[rows], part.kind, 3, np.random.default_rng(0))  # no noise among these
        torch.testing.assert_close(x, torch.from_numpy(levels).float().div(255).sub(0.5).div(0.25))
        assert y.tolist() == clean.data.labels[rows].tolist()
        start += len(part)


def test_streams_laid_end_to_end_are_one_part():
    streams = corrupted(pixels(), ["gaussian_noise", "brightness"], 3, seed=7)
    x, y = everything(streams)
    want = [everything(part) for part in streams.parts]
    assert torch.equal(x, torch.cat([part[0] for part in want]))
    assert torch.equal(y, torch.cat([part[1] for part in want]))
    ids = torch.tensor([13, 2, 19, 9, 10])
    assert torch.equal(streams.batch(ids)[0], x[ids])


def test_every_run_is_judged_on_the_same_and_the_two_parts_have_noise_of_their_own():
    one, same = (everything(load("digits:corruption=gaussian_noise").splits(3).test)[0] for _ in range(2))
    assert torch.equal(one, same)
    first, second = (everything(corrupted(pixels(), ["gaussian_noise"], 3, seed)) for seed in (0, 1))
    assert not torch.equal(first[0], second[0])


def test_digits_that_are_corrupted_have_the_range_of_clean_ones():
    x, _ = everything(load("digits:corruption=impulse_noise").splits(0).test)
    assert x.shape == (300, 1, 8, 8)
    assert (x.min(), x.max()) == (-1, 1)
    task = load("digits:corruption=brightness,severity=1")
    levels = task.splits(0).test.parts[0].clean
    torch.testing.assert_close(everything(levels)[0], everything(load("digits").splits(0).test)[0], rtol=0, atol=0.004)


def test_no_batch_crosses_two_streams_and_each_begins_an_evaluation():
    seen = []

    class Watching(Method):
        name = "watching"

        def finish(self, run):
            run.evaluation_batch_size = 60

        def evaluation(self, run):
            seen.append("begin")

    task = load("digits:corruption=contrast+jpeg")
    outcomes = task.outcomes
    task.outcomes = lambda model, batch: (seen.append(len(batch.ids)), outcomes(model, batch))[1]
    run = Run(task, task.recipe.with_methods([Watching()]), budget="1steps", evaluations=0)
    record = run.train()
    assert seen == ["begin", *["begin", 60, 40] * 3, "begin", *["begin", 60, 60, 30] * 2]
    assert record.outcomes["test/accuracy"].shape == (300,)
    assert record.metrics["test"]["accuracy"] == pytest.approx(record.outcomes["test/accuracy"].mean())


def test_outcomes_are_in_the_order_of_the_streams():
    task = load("digits:corruption=contrast+jpeg")
    run = Run(task, budget="2epochs", evaluations=0)
    found = run.train().outcomes["test/accuracy"]
    parts = run.splits.test.parts
    with torch.no_grad():
        want = [
            task.outcomes(run.model.eval(), b)["accuracy"] for p in parts for b in batches(p, 500, torch.device("cpu"))
        ]
    assert found.tolist() == torch.cat(want).tolist()


def test_settings_tell_clean_and_corrupted_apart_and_travel():
    task = load("digits:corruption=contrast+jpeg,severity=2")
    assert task.settings() == load("digits").settings() | {"corruption": "contrast+jpeg", "severity": 2}
    assert pickle.loads(pickle.dumps(task)).shift == task.shift
    assert load("digits:corruption=all").shift.kinds == tuple(ALL)


def test_a_kind_that_is_tested_is_not_validated_by():
    assert read_shift("gamma+contrast", 3).held_out == ("speckle_noise", "gaussian_blur")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("corruption=contrst", "unknown corruption 'contrst'; did you mean 'contrast'"),
        ("corruption=contrast+contrast", "corruption 'contrast' is given twice"),
        ("corruption=contrast,severity=0", "severity must be a whole number from 1 to 5, got 0"),
        (f"corruption={'+'.join(HELD_OUT)}", "must leave one of speckle_noise, gaussian_blur, gamma to validate by"),
        ("corruption=contrast,severity=2.5", "severity must be a whole number, got '2.5'"),
    ],
)
@pytest.mark.parametrize("name", ["digits", "fashion-mnist", "cifar10"])
def test_what_cannot_be_done_is_told_before_anything_runs(name, text, message):
    with pytest.raises(AssayError, match=message):
        load(f"{name}:{text}")
    with pytest.raises(UnknownName):
        load(f"{name}:corruptions=contrast")


def test_a_part_can_only_be_shifted_where_it_is_pictures():
    with pytest.raises(TypeError, match="splits must be of Pixels"):
        read_shift("contrast", 1).of(load("digits").splits(0))


@pytest.mark.parametrize(("name", "shape"), [("fashion-mnist", (1, 28, 28)), ("cifar10", (3, 32, 32))])
def test_public_pictures_are_corrupted_as_bytes_before_they_are_normalised(name, shape, monkeypatch):
    module = f"assay.tasks.{name.replace('-', '_')}"
    rng = np.random.default_rng(0)
    made = [LabelledImages(rng.integers(0, 256, (n, *shape), np.uint8), np.arange(n) % 10) for n in (5020, 60)]
    monkeypatch.setattr(f"{module}._read", lambda *_: made)
    monkeypatch.setattr(f"{module}.{type(load(name)).__name__}._paths", lambda self: ())
    clean, shifted = (
        load(f"{name}:train_size=20,{s},severity=3").splits(0) for s in ("augment=no", "corruption=contrast")
    )
    assert isinstance(shifted.test, Streams)
    assert (len(shifted.train), len(shifted.valid), len(shifted.test)) == (20, 5000, 60)
    part, pixel = shifted.test.parts[0], clean.test
    x, y = everything(part)
    levels = pixel.data.images[pixel.rows[part.positions]] / 255
    mean = levels.mean((1, 2, 3), keepdims=True)
    want = (255 * torch.from_numpy(mean + 0.3 * (levels - mean)) - pixel.mean) / pixel.std
    torch.testing.assert_close(x, want.float(), rtol=0, atol=0.51 / pixel.std.min().item())
    assert y.tolist() == pixel.data.labels[part.positions].tolist()
