import errno
import os
import pickle
import warnings

import pytest
import torch
from workloads import Blobs, NoisyGradients, bits

from assay.engine import Recipe, Run, checkpoint
from assay.engine.record import own_code
from assay.errors import AssayError, BadCheckpoint

KEY, OTHER = "a" * 40, "b" * 40


def state(value: float = 1.0) -> dict:
    return {"w": torch.full((3,), value), "n": 2, "s": "text", "curve": [{"a": 0.5}], "shapes": {((2, 3), (2,)): 1.0}}


def test_a_state_is_read_back_as_it_was(tmp_path):
    checkpoint.save(tmp_path, KEY, 7, state())
    found, problems = checkpoint.latest(tmp_path, KEY)
    assert torch.equal(found.pop("w"), torch.ones(3))
    assert found == {k: v for k, v in state().items() if k != "w"}
    assert problems == []


def test_an_empty_or_missing_folder_has_none(tmp_path):
    assert checkpoint.latest(tmp_path, KEY) == checkpoint.latest(tmp_path / "no", KEY) == (None, [])


def test_the_newest_two_are_kept(tmp_path):
    for step in (1, 2, 30, 400):
        checkpoint.save(tmp_path, KEY, step, state(step))
    assert sorted(int(path.name.split("-")[1]) for path in tmp_path.iterdir()) == [30, 400]
    assert checkpoint.latest(tmp_path, KEY)[0]["w"][0] == 400


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def empty(path):
    path.write_bytes(b"")


def vanish_as_folder(path):
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("harm", [truncate, flip, empty, vanish_as_folder])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_is_used(tmp_path, harm):
    checkpoint.save(tmp_path, KEY, 1, state(1))
    newest = checkpoint.save(tmp_path, KEY, 2, state(2))
    harm(newest)
    found, problems = checkpoint.latest(tmp_path, KEY)
    assert found["w"][0] == 1
    assert len(problems) == 1
    assert newest.name in problems[0]


def test_damaged_checkpoints_do_not_crowd_out_good_ones(tmp_path):
    """Two refused ones stand at later steps than those the resumed run writes."""
    for step in (50, 60):
        truncate(checkpoint.save(tmp_path, KEY, step, state()))
    assert checkpoint.latest(tmp_path, KEY)[0] is None
    for step in (10, 20):
        checkpoint.save(tmp_path, KEY, step, state(step))
        assert checkpoint.latest(tmp_path, KEY)[0]["w"][0] == step
    assert len(list(tmp_path.iterdir())) == 2


def test_runs_that_share_a_folder_leave_each_others_checkpoints_alone(tmp_path):
    for step in (100, 200):
        checkpoint.save(tmp_path, OTHER, step, state(step))
    for step in (1, 2, 3):
        checkpoint.save(tmp_path, KEY, step, state(step))
    assert checkpoint.latest(tmp_path, KEY)[0]["w"][0] == 3
    assert checkpoint.latest(tmp_path, OTHER)[0]["w"][0] == 200
    assert len(list(tmp_path.iterdir())) == 4


def test_a_folder_of_other_runs_only_is_said_to_be_one(tmp_path):
    checkpoint.save(tmp_path, OTHER, 1, state())
    found, problems = checkpoint.latest(tmp_path, KEY)
    assert found is None
    assert len(problems) == 1
    assert "belong to other runs" in problems[0]


def write(folder, key, content: bytes):
    """A file that looks like a checkpoint of `key` from the outside."""
    import hashlib

    folder.mkdir(exist_ok=True)
    path = folder / f"{key[:12]}-{9:012d}-{hashlib.sha256(content).hexdigest()[:16]}.pt"
    path.write_bytes(content)
    return path


def saved(content) -> bytes:
    import io

    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_a_pickle_with_code_in_it_is_refused_and_not_run(tmp_path, how):
    mark = tmp_path / "ran"
    content = saved({"state": Bomb(mark)}) if how == "torch" else pickle.dumps(Bomb(mark), protocol=2)
    path = write(tmp_path / "c", KEY, content)
    with pytest.raises(BadCheckpoint, match="cannot be read"):
        checkpoint.load(path, KEY)
    assert not mark.exists()
    torch.load(path, weights_only=False) if how == "torch" else pickle.loads(content)
    assert mark.exists()  # it would have run, had it been read carelessly


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (saved({"format": "assay-checkpoint-0", "key": KEY, "step": 9, "state": {}}), "not written by this version"),
        (saved([1, 2]), "not written by this version"),
        (saved({"format": checkpoint.FORMAT, "key": OTHER, "step": 9, "state": {}}), f"belongs to run {OTHER}"),
        (b"not a checkpoint at all", "cannot be read"),
    ],
    ids=["format", "list", "foreign", "text"],
)
def test_what_is_no_checkpoint_of_this_run_is_refused_in_one_line(tmp_path, content, says):
    with pytest.raises(BadCheckpoint, match=says) as caught:
        checkpoint.load(write(tmp_path, KEY, content), KEY)
    assert "\n" not in str(caught.value)


def test_a_file_by_another_name_is_refused(tmp_path):
    path = checkpoint.save(tmp_path, KEY, 1, state())
    with pytest.raises(BadCheckpoint, match="does not match its name"):
        checkpoint.load(path.rename(tmp_path / "mine.pt"), KEY)


def fails(*args, **kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("call", ["os.replace", "os.fsync", "builtins.open"])
def test_a_full_disk_is_one_line_and_leaves_what_was_there(tmp_path, monkeypatch, call):
    checkpoint.save(tmp_path, KEY, 1, state(1))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr(call, fails)
        with pytest.raises(AssayError, match=r"cannot write .*No space left on device") as caught:
            checkpoint.save(tmp_path, KEY, 2, state(2))
    assert "\n" not in str(caught.value)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert checkpoint.latest(tmp_path, KEY)[0]["w"][0] == 1


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(AssayError, match="cannot write a checkpoint into"):
        checkpoint.save(tmp_path / "file" / "below", KEY, 1, state())


def test_what_a_killed_process_left_half_written_is_harmless_and_does_not_stay(tmp_path):
    checkpoint.save(tmp_path, KEY, 1, state(1))
    (tmp_path / f"{KEY[:12]}.part").write_bytes(b"half of")
    assert checkpoint.latest(tmp_path, KEY)[0]["w"][0] == 1
    checkpoint.save(tmp_path, KEY, 2, state(2))
    assert not list(tmp_path.glob("*.part"))


# A run and its checkpoints --------------------------------------------------------------------------------------------


def make(folder=None, every=0.0, budget="30steps", task=None, **changes):
    recipe = Recipe(schedule="cosine", batch_size=16).with_methods([NoisyGradients()]).with_settings(changes)
    return Run(task or Blobs(noisy=True), recipe, budget=budget, folder=folder, checkpoint_every=every, evaluations=5)


def stopped(folder, at: int, **options) -> None:
    """A run that is stopped after step `at`."""
    run = make(folder, every=0.0, **options)
    run.watch = lambda run: run.stop() if run.steps == at else None
    with pytest.raises(AssayError, match="run stopped after"):
        run.train()


@pytest.fixture(scope="module")
def whole():
    run = make()
    return bits(run, run.train())


@pytest.mark.parametrize("harm", [truncate, flip, empty])
def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one_to_the_same_bits(tmp_path, whole, harm):
    stopped(tmp_path, at=12)
    newest = max(tmp_path.glob("*.pt"), key=lambda path: int(path.name.split("-")[1]))
    harm(newest)
    run = make(tmp_path)
    with pytest.warns(UserWarning, match=rf"{newest.name}.*the one before it is used"):
        assert bits(run, run.train()) == whole


def test_without_a_usable_checkpoint_a_run_starts_anew_and_says_so(tmp_path, whole):
    stopped(tmp_path, at=12)
    for path in tmp_path.glob("*.pt"):
        truncate(path)
    run = make(tmp_path)
    with pytest.warns(UserWarning, match="the run starts from its beginning"):
        assert bits(run, run.train()) == whole


def test_another_recipes_checkpoints_are_not_gone_on_from(tmp_path, whole):
    stopped(tmp_path, at=12, lr=0.2)
    run = make(tmp_path)
    with pytest.warns(UserWarning, match="belong to other runs.*starts from its beginning"):
        assert bits(run, run.train()) == whole


def test_a_finished_run_is_not_trained_again(tmp_path, whole):
    first = make(tmp_path)
    first.train()

    class NoTraining(Blobs):
        def step(self, run, batch):
            raise AssertionError("trained again")

    NoTraining.source = own_code(Blobs())
    again = make(tmp_path, task=NoTraining(noisy=True))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert again.key == first.key
        assert bits(again, again.train()) == whole


def test_a_run_whose_disk_is_full_stops_in_one_line_and_can_go_on(tmp_path, monkeypatch, whole):
    stopped(tmp_path, at=12)
    with monkeypatch.context() as patch:
        patch.setattr("os.replace", fails)
        with pytest.raises(AssayError, match="No space left on device"):
            make(tmp_path).train()
    run = make(tmp_path)
    assert bits(run, run.train()) == whole


def test_a_state_that_does_not_fit_is_one_line(tmp_path):
    stopped(tmp_path, at=12)

    class Wider(Blobs):
        def settings(self):
            return super().settings() | {"hidden": 16}  # it says that nothing has changed

    Wider.source = own_code(Blobs())
    run = make(tmp_path, task=Wider(noisy=True, hidden=17))
    with pytest.raises(BadCheckpoint, match="does not fit the run that wrote it"):
        run.train()


def test_figures_of_numpys_types_do_not_spoil_a_checkpoint(tmp_path):
    import numpy as np

    from assay.engine import Evaluation

    class Numpy(Blobs):
        def evaluate(self, run, examples, batch_size=500):
            return Evaluation({"score": np.float64(0.5), "other": np.float32(0.25)}, {})

    stopped(tmp_path, at=20, task=Numpy())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        record = make(tmp_path, task=Numpy()).train()
    assert [point["valid/score"] for point in record.curve] == [0.5] * 5
    assert all(type(value) is float for value in record.metrics["valid"].values())


def test_gradients_that_wait_for_a_later_step_are_kept(tmp_path):
    class Accumulating(Blobs):
        def step(self, run, batch):
            loss = run.objective(batch)
            run.backward(loss)
            if run.steps % 3 == 2:
                run.update()
            return loss

    def recipe_of(folder):
        recipe = Recipe(batch_size=16)
        return Run(Accumulating(), recipe, budget="12steps", folder=folder, checkpoint_every=0.0)

    run = recipe_of(None)
    expected = bits(run, run.train())
    for at in (4, 8):
        run = recipe_of(tmp_path)
        run.watch = lambda run, at=at: run.stop() if run.steps == at else None
        with pytest.raises(AssayError, match=f"stopped after {at} steps"):
            run.train()
    run = recipe_of(tmp_path)
    assert bits(run, run.train()) == expected
