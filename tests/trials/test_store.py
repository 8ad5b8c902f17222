"""What is stored stays, whoever else writes; what cannot be used is said in one line."""

import sqlite3

import numpy as np
import pytest

from assay.engine import Metric, Record
from assay.errors import AssayError
from assay.trials import Store, TrialResult
from assay.trials.worker import context


def record(seed: int = 0) -> Record:
    outcomes = {"test/accuracy": np.linspace(0, 1, 7, dtype=np.float32)}
    settings = {"task": {"name": "tiny", "settings": {}}, "recipe": {"lr": 0.1}, "vary": ["init"], "budget": "3steps"}
    return Record(
        **settings, seed=seed, metrics={"test": {"accuracy": 0.5}}, extras={"ratio": float("nan")}, outcomes=outcomes
    )


def test_a_run_comes_back_as_it_was(tmp_path):
    Store(tmp_path / "s.sqlite").put("k", record())
    found = Store(tmp_path / "s.sqlite").get("k")
    assert found is not None
    assert found.metrics == {"test": {"accuracy": 0.5}}
    assert np.isnan(found.extras["ratio"])
    assert found.outcomes["test/accuracy"].dtype == np.float32
    np.testing.assert_array_equal(found.outcomes["test/accuracy"], record().outcomes["test/accuracy"])
    assert Store(tmp_path / "s.sqlite").get("another") is None


def test_the_first_record_of_a_key_stays(tmp_path):
    store = Store(tmp_path / "s.sqlite")
    store.put("k", record(seed=1))
    store.put("k", record(seed=2))
    assert [(key, run.seed) for key, run in store.runs()] == [("k", 1)]


def test_checkpoints_are_dropped_with_the_record_and_no_others(tmp_path):
    store = Store(tmp_path / "s.sqlite")
    for key in ("a", "b"):
        store.folder(key).mkdir(parents=True)
        (store.folder(key) / "step.pt").touch()
    assert store.folder("a") == tmp_path / "s-checkpoints" / "a"
    store.put("a", record())
    assert not store.folder("a").exists()
    assert store.folder("b").exists()
    store.put("b", record())
    assert not store.checkpoints.exists()


def test_trials_are_numbered_in_order(tmp_path):
    store = Store(tmp_path / "s.sqlite")
    metric = Metric("accuracy", "max", 0.0)
    for question in ("first?", "second?"):
        trial = TrialResult(question, {"name": "tiny"}, metric, "3steps", [0], ["init"], 0.0, 0.95, [], [])
        number = store.put_trial(trial)
    assert number == 2
    assert [(n, trial.question) for n, trial in store.trials()] == [(1, "first?"), (2, "second?")]


def test_any_sqlalchemy_url_is_a_place(tmp_path):
    Store(f"sqlite:///{tmp_path}/s.sqlite").put("k", record())
    assert Store(tmp_path / "s.sqlite").get("k") is not None
    memory = Store("sqlite://")
    memory.put("k", record())
    assert memory.get("k") is not None


def write_many(location: str, start: int) -> None:
    store = Store(location)
    for number in range(start, start + 40):
        store.put(f"{number}", record(seed=number))


def test_two_processes_write_at_once_and_nothing_is_lost_or_doubled(tmp_path):
    location = str(tmp_path / "s.sqlite")  # neither finds it made
    writers = [context().Process(target=write_many, args=(location, start)) for start in (0, 20)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert sorted(run.seed for _, run in Store(location).runs()) == list(range(60))


def filled(path) -> bytes:
    Store(path).put("k", record())
    return path.read_bytes()


def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("not a database\n" * 100)
    with pytest.raises(AssayError, match=r"notes\.txt is not a database"):
        Store(path)
    assert path.read_text() == "not a database\n" * 100


@pytest.mark.parametrize("kept", [5000, 9000, 13000])
def test_a_truncated_file_is_refused(tmp_path, kept):
    path = tmp_path / "s.sqlite"
    path.write_bytes(filled(tmp_path / "whole.sqlite")[:kept])
    with pytest.raises(AssayError, match=r"s\.sqlite is damaged"):
        Store(path).get("k")


def test_damaged_outcomes_are_told_of(tmp_path):
    path = tmp_path / "s.sqlite"
    filled(path)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE runs SET outcomes = substr(outcomes, 1, 50)")
    with pytest.raises(AssayError, match="outcomes of a run cannot be read"):
        Store(path).get("k")


def test_a_lock_that_outlasts_patience_is_told_of_and_reading_goes_on(tmp_path):
    path = tmp_path / "s.sqlite"
    filled(path)
    holder = sqlite3.connect(path)
    holder.execute("BEGIN IMMEDIATE")
    try:
        store = Store(path, patience=0.2)
        assert store.get("k") is not None
        with pytest.raises(AssayError, match=r"s\.sqlite is locked: another process .* 0\.2 seconds"):
            store.put("another", record())
    finally:
        holder.close()
    store.put("another", record())
    assert len(store.runs()) == 2


def test_a_read_only_store_can_be_read_but_says_that_it_cannot_be_written(tmp_path):
    path = tmp_path / "s.sqlite"
    filled(path)
    store = Store(f"sqlite:///file:{path}?mode=ro&uri=true")
    assert store.get("k") is not None
    with pytest.raises(AssayError, match="cannot be written: the file or its folder is read-only"):
        store.put("another", record())


@pytest.mark.parametrize(
    ("place", "says"),
    [
        ("/proc/nowhere/s.sqlite", "cannot make the folder of store /proc/nowhere/s.sqlite"),
        ("/dev/full", "store /dev/full cannot grow: the disk is full"),
        (".", "store . cannot be opened"),
        ("nonsense://host/name", "cannot open store 'nonsense://host/name'"),
    ],
)
def test_a_place_that_cannot_be_used_is_named(place, says):
    with pytest.raises(AssayError) as error:
        Store(place)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_a_store_of_a_newer_assay_is_refused(tmp_path):
    path = tmp_path / "s.sqlite"
    filled(path)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE assay_meta SET schema = 99")
    with pytest.raises(AssayError, match="newer assay: it has schema 99"):
        Store(path)


def test_a_password_is_not_repeated():
    with pytest.raises(AssayError) as error:
        Store("postgresql://me:secret@localhost:1/none")
    assert "secret" not in str(error.value)
