import math
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from assay.data.images import LabelledImages
from assay.engine import Batch, Run, Task
from assay.engine.task import batches
from assay.errors import AssayError, MissingData
from assay.models.cnn import SmallCNN
from assay.models.mlp import MLP
from assay.models.resnet import cifar_resnet
from assay.tasks import load

CPU = torch.device("cpu")
Loader = Callable[..., Task]


def images(size: int, *shape: int) -> LabelledImages:
    """As many pictures as the real set has, in little memory: each starts one byte after the one before it."""
    channels, height, width = shape
    levels = np.random.default_rng(0).integers(0, 256, size + channels * height * width, np.uint8)
    strides = (1, height * width, width, 1)
    return LabelledImages(np.lib.stride_tricks.as_strided(levels, (size, *shape), strides), np.arange(size) % 10)


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Loader:
    """Loads any built-in task, its data made up where the real one would have to be downloaded."""
    for name in (
        *(f"cifar-10-batches-bin/data_batch_{i}.bin" for i in range(1, 6)),
        "cifar-10-batches-bin/test_batch.bin",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "fashion_mnist.npz").write_text("one")
    monkeypatch.setattr("assay.tasks.cifar10._read", lambda *_: (images(50_000, 3, 32, 32), images(10_000, 3, 32, 32)))
    monkeypatch.setattr(
        "assay.tasks.fashion_mnist._read", lambda *_: (images(60_000, 1, 28, 28), images(10_000, 1, 28, 28))
    )
    return lambda spec: load(spec, data_dir=tmp_path)


SPECS = [
    "digits",
    "cifar10:train_size=64",
    "fashion-mnist:train_size=64",
    "text:width=16,depth=1,context=16",
    "text:model=lstm,width=16,context=16",
    "text:model=gru,width=16,depth=2,context=16",
]


class Few:
    """The first examples of a split, so that an evaluation is short."""

    def __init__(self, examples, size: int) -> None:
        self.examples, self.size = examples, size

    def __len__(self) -> int:
        return self.size

    def batch(self, ids, generator=None):
        return self.examples.batch(ids, generator)


@pytest.mark.parametrize("spec", SPECS)
def test_two_steps_train_and_every_metric_has_an_outcome_an_example(small: Loader, spec: str) -> None:
    task = small(spec)
    recipe = task.recipe.with_settings({"batch_size": 8})
    run = Run(task, recipe, budget="2steps", vary=task.varies, evaluations=1)
    run.build()
    before = [p.clone() for p in run.model.parameters()]
    for _ in range(2):
        loss = task.step(run, run.stream.next())
        assert loss.isfinite()
    assert any(not torch.equal(p, q) for p, q in zip(before, run.model.parameters(), strict=True))
    found = run.evaluate(Few(run.splits.test, 20))
    assert set(found.metrics) == {metric.name for metric in task.metrics}
    means = [metric for metric in task.metrics if metric.name != "ece"]  # which is no mean over examples
    assert set(found.outcomes) == {metric.name for metric in means}
    for metric in means:
        assert found.outcomes[metric.name].shape == (20,)
        assert found.metrics[metric.name] == pytest.approx(found.outcomes[metric.name].mean(), rel=1e-5)


@pytest.mark.parametrize("spec", SPECS)
def test_equal_seeds_give_equal_batches_and_weights(small: Loader, spec: str) -> None:
    found = []
    for seed in (3, 3, 4):
        run = Run(small(spec), seed=seed, vary=small(spec).varies)
        run.build()
        batch = run.stream.next()
        found.append((batch.x, batch.y, torch.cat([p.detach().flatten() for p in run.model.parameters()])))
    for one, same, other in zip(*found, strict=True):
        assert torch.equal(one, same)
        assert not torch.equal(one, other)


@pytest.mark.parametrize("spec", SPECS)
def test_the_loss_of_each_sample_averages_to_the_loss(small: Loader, spec: str) -> None:
    task = small(spec)
    torch.manual_seed(0)
    model = task.model().eval()
    x, y = task.splits(0).valid.batch(torch.arange(6))
    outputs = model(x)
    each = task.loss(outputs, y, reduction="none")
    assert each.shape == (6,)
    torch.testing.assert_close(each.mean(), task.loss(outputs, y))
    torch.testing.assert_close(each.sum(), task.loss(outputs, y, reduction="sum"))


@pytest.mark.parametrize("spec", SPECS)
def test_settings_tell_the_options_apart_and_are_plain(small: Loader, spec: str) -> None:
    import json

    settings = small(spec).settings()
    assert json.loads(json.dumps(settings)) == settings
    assert len(settings["data"]) == 16
    for option in spec.partition(":")[2].split(","):
        name, _, value = option.partition("=")
        if name:
            assert str(settings[name]) == value


def test_settings_follow_the_content_of_the_files(small: Loader, tmp_path: Path) -> None:
    before = small("fashion-mnist").settings()
    (tmp_path / "fashion_mnist.npz").write_text("other")
    after = small("fashion-mnist").settings()
    assert before["data"] != after["data"]
    assert {**before, "data": ""} == {**after, "data": ""}


@pytest.mark.parametrize("name", ["cifar10", "fashion-mnist"])
def test_missing_data_is_told_before_anything_runs(tmp_path: Path, name: str) -> None:
    with pytest.raises(MissingData, match=f"assay data fetch {name}"):
        Run(load(name, data_dir=tmp_path)).identity()


# Digits -----------------------------------------------------------------------------------------------------------


def test_digits_parts_share_no_picture_and_have_every_class_alike() -> None:
    task = load("digits")
    splits = task.splits(11)
    parts = (splits.train, splits.valid, splits.test)
    assert [len(part) for part in parts] == [1197, 300, 300]
    seen: set[bytes] = set()
    for part in parts:
        x, y = part.batch(torch.arange(len(part)))
        pictures = {picture.numpy().tobytes() for picture in x}
        assert not seen & pictures
        seen |= pictures
        share = torch.bincount(y, minlength=10) / len(part)
        assert (share - 0.1).abs().max() < 0.005  # of the whole: 174 to 183 of 1797
        assert x.shape[1:] == (1, 8, 8)
        assert x.min() == -1
        assert x.max() == 1
    assert len(seen) == 1797


def test_digits_are_split_anew_by_the_seed() -> None:
    one, same, other = (load("digits").splits(seed).test.batch(torch.arange(300))[0] for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_digits_are_learnt_in_three_epochs() -> None:
    task = load("digits")
    record = Run(task, budget="3epochs", evaluations=1).train()
    assert record.metrics["test"]["accuracy"] > 0.9  # guessing gives 0.1


@pytest.mark.parametrize(
    ("spec", "described", "made"),
    [
        ("digits", "cnn, width 32, depth 2", lambda: SmallCNN(10, width=32, depth=2)),
        ("digits:model=mlp", "mlp, 256 and 256, dropout 0.0", lambda: MLP([64, 256, 256, 10], dropout=0.0)),
        (
            "digits:model=resnet14",
            "resnet14, width 16, shortcut B",
            lambda: cifar_resnet(14, channels=1, batchnorm_init="fixed"),
        ),
    ],
)
def test_the_networks_of_the_digits_are_what_they_are_called(spec: str, described: str, made) -> None:
    task = load(spec)
    assert task.settings()["model"] == described
    assert set(task.settings()) == {"data", "model", "sizes"}
    torch.manual_seed(0)
    model = task.model()
    torch.manual_seed(0)
    for (name, found), (other, wanted) in zip(model.named_parameters(), made().named_parameters(), strict=True):
        assert name == other
        assert torch.equal(found, wanted)


def test_the_resnets_of_the_digits_train_as_many_batch_norm_parameters_as_the_papers() -> None:
    for depth, size in ((14, 1120), (20, 1568), (32, 2464)):
        model = load(f"digits:model=resnet{depth}").model()
        assert sum(2 * m.num_features for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)) == size


def test_dropout_is_only_for_the_perceptron() -> None:
    with pytest.raises(AssayError, match="dropout needs model=mlp; the resnet14 has none"):
        load("digits:model=resnet14,dropout=0.5")
    with pytest.raises(AssayError, match="unknown model 'resnet15'; did you mean 'resnet14'"):
        load("digits:model=resnet15")


# Public images ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "most"), [("cifar10", 45_000), ("fashion-mnist", 55_000)])
def test_the_seed_carves_the_validation_part_from_the_training_images(small: Loader, name: str, most: int) -> None:
    for size in (None, 100):
        task = small(name if size is None else f"{name}:train_size={size}")
        splits, again, other = task.splits(5), task.splits(5), task.splits(6)
        assert (len(splits.train), len(splits.valid), len(splits.test)) == (size or most, 5000, 10_000)
        assert not set(splits.train.rows) & set(splits.valid.rows)
        assert splits.valid.rows.tolist() == again.valid.rows.tolist()
        assert splits.valid.rows.tolist() != other.valid.rows.tolist()
        assert splits.test.rows.tolist() == other.test.rows.tolist() == list(range(10_000))
        for part in (splits.train, splits.valid):
            assert np.bincount(part.data.labels[part.rows]).tolist() == [len(part) // 10] * 10


def test_only_training_images_are_augmented_and_only_where_asked(small: Loader) -> None:
    ids = torch.arange(40)
    for augment in (True, False):
        splits = small(f"cifar10:augment={augment}").splits(0)
        plain, _ = splits.train.batch(ids)
        drawn, _ = splits.train.batch(ids, torch.Generator().manual_seed(0))
        assert torch.equal(plain, drawn) is not augment
        valid, _ = splits.valid.batch(ids, torch.Generator().manual_seed(0))
        assert torch.equal(valid, splits.valid.batch(ids)[0])


def test_levels_are_normalised_by_channel(small: Loader) -> None:
    x, _ = small("cifar10").splits(0).test.batch(torch.arange(2))
    level = images(1, 3, 32, 32).images[0].astype(np.float64) / 255
    for channel, (mean, std) in enumerate([(0.4914, 0.2470), (0.4822, 0.2435), (0.4465, 0.2616)]):
        np.testing.assert_allclose(x[0, channel], (level[channel] - mean) / std, atol=1e-5)


def test_real_clothes_are_normalised_to_mean_zero_and_deviation_one(data_dir: Path) -> None:
    splits = load("fashion-mnist", data_dir=data_dir).splits(0)
    assert (len(splits.train), len(splits.valid), len(splits.test)) == (55_000, 5000, 10_000)
    x, y = splits.valid.batch(torch.arange(5000))
    assert x.mean().item() == pytest.approx(0, abs=0.02)
    assert x.std().item() == pytest.approx(1, abs=0.02)
    assert torch.bincount(y).tolist() == [500] * 10


# Text -------------------------------------------------------------------------------------------------------------


def write_text(folder: Path, size: int) -> tuple[Path, bytes]:
    content = bytes(i * i % 251 for i in range(size))
    path = folder / "text.txt"
    path.write_bytes(content)
    return path, content


def test_targets_are_the_bytes_that_follow_and_parts_come_one_after_another(tmp_path: Path) -> None:
    path, content = write_text(tmp_path, 2000)
    splits = load("text", path=str(path), context=16).splits(0)
    end = 0
    for part, size in ((splits.train, 1800), (splits.valid, 100), (splits.test, 100)):
        assert len(part) == (size - 1) // 16
        for i in range(len(part)):
            x, y = part.batch(torch.tensor([i]))
            start = end + 16 * i
            assert x[0].tolist() == list(content[start : start + 16])
            assert y[0].tolist() == list(content[start + 1 : start + 17])
        end += size


def test_a_uniform_guesser_needs_eight_bits_a_byte(tmp_path: Path) -> None:
    path, _ = write_text(tmp_path, 2000)
    task = load("text", path=str(path), context=16, width=16)
    model = task.model()
    torch.nn.init.zeros_(model.readout.weight)
    for batch in batches(task.splits(0).valid, 100, CPU):
        outcomes = task.outcomes(model, batch)["bits_per_byte"]
        assert outcomes.shape == (6,)
        assert outcomes.tolist() == pytest.approx([8.0] * 6, rel=1e-6)
    assert task.metrics[0].worst == 8.0


def test_bits_of_a_window_are_the_mean_over_its_bytes(tmp_path: Path) -> None:
    path, _ = write_text(tmp_path, 2000)
    task = load("text", path=str(path), context=16, width=16)
    torch.manual_seed(0)
    model = task.model().double()
    torch.nn.init.normal_(model.readout.weight)
    x, y = task.splits(0).valid.batch(torch.arange(3))
    found = task.outcomes(model, Batch(x, y, torch.arange(3)))["bits_per_byte"]
    chances = torch.softmax(model(x), dim=2)
    for i in range(3):
        bits = [-math.log2(chances[i, t, y[i, t]].item()) for t in range(16)]
        assert found[i].item() == pytest.approx(sum(bits) / 16, rel=1e-9)


def test_text_settings_know_the_content_and_not_the_place(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    one, content = write_text(tmp_path, 2000)
    two, _ = write_text(tmp_path / "elsewhere", 2000)
    assert load("text", path=str(one)).settings() == load("text", path=str(two)).settings()
    two.write_bytes(content[:-1])
    assert load("text", path=str(one)).settings() != load("text", path=str(two)).settings()


def test_the_transformer_and_its_settings_are_what_they_were_before_there_were_other_models() -> None:
    settings = load("text").settings()
    assert {k: v for k, v in settings.items() if k != "data"} == {
        "corpus": "Python's standard library", "context": 64, "width": 128, "depth": 2, "heads": 4,
    }  # fmt: skip
    gru = load("text:model=gru").settings()
    assert {k: v for k, v in gru.items() if k not in ("data", "corpus")} == {
        "context": 64, "width": 128, "depth": 1, "model": "gru",
    }  # fmt: skip


def test_a_recurrent_network_has_no_heads() -> None:
    with pytest.raises(AssayError, match="heads needs model=transformer; the lstm has none"):
        load("text:model=lstm,heads=2")
    with pytest.raises(AssayError, match="did you mean 'gru'"):
        load("text:model=grru")


def test_a_text_too_short_for_its_windows_is_told(tmp_path: Path) -> None:
    path, _ = write_text(tmp_path, 339)
    with pytest.raises(AssayError, match="text must have at least 340 bytes, got 339"):
        load("text", path=str(path), context=16).splits(0)
    path, _ = write_text(tmp_path, 340)
    assert len(load("text", path=str(path), context=16).splits(0).test) == 1
    with pytest.raises(MissingData, match="no text file at"):
        load("text:path=nowhere.txt").settings()


def test_a_sentence_over_and_over_is_learnt_by_heart(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes(b"the quick brown fox jumps over the lazy dog; " * 200)
    task = load("text", path=str(path), context=32, width=32, depth=1)
    record = Run(task, budget="120steps", evaluations=1).train()
    assert record.metrics["test"]["bits_per_byte"] < 1  # the frequencies of its letters alone leave 4.3


def test_the_default_text_is_no_degenerate_file() -> None:
    _, y = load("text").splits(0).train.batch(torch.arange(2000))
    content = bytes(y.flatten().tolist())
    assert len(zlib.compress(content)) > 0.1 * len(content)


def test_fewer_examples_of_a_text_are_spread_over_it_and_change_no_other_split(tmp_path):
    file = tmp_path / "text.txt"
    file.write_bytes(bytes(range(256)) * 40)
    few, everything = (load(f"text:context=16,{size}path={file}").splits(0) for size in ("train_size=10,", ""))
    apart = len(everything.train) // 10
    assert len(few.train) == 10
    for mine, other in zip(
        few.train.batch(torch.arange(10)), everything.train.batch(apart * torch.arange(10)), strict=True
    ):
        assert torch.equal(mine, other)
    assert len(few.valid) == len(everything.valid)
    with pytest.raises(AssayError, match="train_size must be at most"):
        load(f"text:context=16,train_size=100000,path={file}").splits(0)
    with pytest.raises(AssayError, match="train_size must be positive, got 0"):
        load(f"text:context=16,train_size=0,path={file}")
