"""What is stored stays, whoever else writes; what cannot be used is said in one line."""

import itertools
import math
import sqlite3
import struct
import time
from pathlib import Path

import numpy as np
import pytest

from assay.cli.compare import STORE
from assay.engine import Metric, Record
from assay.errors import AssayError
from assay.trials import ArmResult, Store, TrialResult
from assay.trials.folders import alone_in
from assay.trials.worker import context

METRIC = Metric("accuracy", "max", 0.0)


def record(seed: int = 0) -> Record:
    outcomes = {"test/accuracy": np.linspace(0, 1, 7, dtype=np.float32)}
    settings = {"task": {"name": "tiny", "settings": {}}, "recipe": {"lr": 0.1}, "vary": ["init"], "budget": "3steps"}
    return Record(
        **settings, seed=seed, metrics={"test": {"accuracy": 0.5}}, extras={"ratio": float("nan")}, outcomes=outcomes
    )


def test_a_run_comes_back_as_it_was(place):
    Store(place).put("k", record())
    found = Store(place).get("k")
    assert found is not None
    assert found.metrics == {"test": {"accuracy": 0.5}}
    assert np.isnan(found.extras["ratio"])
    assert found.outcomes["test/accuracy"].dtype == np.float32
    np.testing.assert_array_equal(found.outcomes["test/accuracy"], record().outcomes["test/accuracy"])
    assert Store(place).get("another") is None
    assert Store(place).known(["another", "k"]) == {"k"}


ODD = [math.nan, math.inf, -math.inf, -0.0, 5e-324, 1.7976931348623157e308, 0.1, 2.0**53 + 2]


def test_odd_numbers_come_back_to_the_bit(place):
    given = record(seed=2**63 - 1)
    given.extras = dict(zip("abcdefgh", ODD, strict=True))
    given.metrics, given.curve = {"test": given.extras}, [given.extras]
    with np.errstate(over="ignore"):
        given.outcomes = {"test/accuracy": np.array(ODD, np.float32), "test/none": np.zeros(0, np.float32)}
    Store(place).put("k", given)
    found = Store(place).get("k")
    assert found is not None
    for back in (found.metrics["test"], found.extras, found.curve[0]):
        assert {k: struct.pack("d", v) for k, v in back.items()} == {
            k: struct.pack("d", v) for k, v in given.extras.items()
        }
    assert found.outcomes["test/accuracy"].tobytes() == given.outcomes["test/accuracy"].tobytes()
    assert found.outcomes["test/none"].shape == (0,)
    assert found.seed == 2**63 - 1


TEXTS = {
    "long": "a" * 100_000,
    "unicode": "Ünïcödé 測試 \U0001f9ea \u202e العربية e\u0301",
    "SQL": "x'); DROP TABLE runs; DELETE FROM trials; --\"`$$ \\ %s %(key)s :key ? {0}",
    "NUL": "a\0b",
    "half of a pair": "a\ud800b",
    "lines": "a\nb\r\n\tc",
    "empty": "",
}


@pytest.mark.parametrize("odd", TEXTS.values(), ids=TEXTS)
def test_any_text_comes_back_and_does_nothing(place, odd):
    store = Store(place)
    given = record()
    given.task["name"] = odd
    given.extras = {odd: 1.0}
    store.put("k", given)
    found = store.get("k")
    assert found is not None
    assert found.to_json() == given.to_json()
    arm = ArmResult(odd, {}, "3steps", [record()])
    store.put_trial(TrialResult(odd, {"name": odd}, METRIC, "3steps", [0], ["init"], 0.0, 0.95, [arm], []))
    ((_, trial),) = store.trials()
    assert (trial.question, trial.task, trial.arms[0].name) == (odd, {"name": odd}, odd)
    assert len(store.runs()) == 1


@pytest.mark.parametrize("key", ["' OR '1'='1", "'; DROP TABLE runs; --", "%", "_", "\\", "x" * 1000])
def test_a_key_is_only_ever_compared(place, key):
    store = Store(place)
    store.put("k", record())
    assert store.get(key) is None
    assert store.known([key]) == set()
    with store.leases() as leases:
        assert leases.free([key]) == [key]
    assert [key for key, _ in store.runs()] == ["k"]


def test_the_first_record_of_a_key_stays(place):
    store = Store(place)
    assert store.put("k", record(seed=1))
    assert not store.put("k", record(seed=2))
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


def test_another_process_in_the_folder_of_a_run_keeps_it(tmp_path):
    store = Store(tmp_path / "s.sqlite")
    with alone_in(store.folder("a"), patience=0.0):
        store.put("a", record())
        assert store.folder("a").is_dir()
    store.put("a", record())
    assert not store.checkpoints.exists()


def test_a_shared_store_has_checkpoints_where_the_default_store_has(tmp_path, monkeypatch, postgres):
    monkeypatch.chdir(tmp_path)
    assert Store(postgres.new()).checkpoints == Path(STORE).parent / "store-checkpoints"
    assert Store(STORE).checkpoints == Path(STORE).parent / "store-checkpoints"


def test_trials_are_numbered_in_order(place):
    store = Store(place)
    for question in ("first?", "second?"):
        trial = TrialResult(question, {"name": "tiny"}, METRIC, "3steps", [0], ["init"], 0.0, 0.95, [], [])
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
    for number in range(start, start + 10):
        store.put(f"{number}", record(seed=number))


def test_eight_processes_write_at_once_and_nothing_is_lost_or_doubled(place):
    starts = range(0, 40, 5)  # each writes half of what the next one writes; none finds the store made
    writers = [context().Process(target=write_many, args=(place, start)) for start in starts]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(120)
    assert [writer.exitcode for writer in writers] == [0] * 8
    assert sorted(run.seed for _, run in Store(place).runs()) == list(range(45))


def write_for_ever(location: str) -> None:
    store, big = Store(location), record()
    big.outcomes = {"test/accuracy": np.zeros(100_000, np.float32)}
    for number in itertools.count(len(store.runs())):
        store.put(f"{number:06}", big)


def test_a_writer_that_is_killed_leaves_whole_runs_and_no_lock(place):
    for _ in range(2):
        writer = context().Process(target=write_for_ever, args=(place,))
        before = len(Store(place).runs())
        writer.start()
        end = time.monotonic() + 120
        while len(Store(place).runs()) <= before:
            assert time.monotonic() < end
            time.sleep(0.01)
        writer.kill()
        writer.join()
        store = Store(place, patience=5.0)
        keys = [key for key, _ in store.runs()]
        assert sorted(keys) == [f"{number:06}" for number in range(len(keys))], "one after another, none in part"
        records = [store.get(key) for key in keys]
        assert {len(found.outcomes["test/accuracy"]) for found in records if found} <= {100_000, 7}
        assert store.put(f"{len(keys):06}", record())
        with store.leases() as leases:
            assert leases.claim("unheard of")


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
