"""What a log holds, read by each tool's own reader: figures by name, each a list of (step, value)."""

import csv
import json
import time
from collections import defaultdict
from pathlib import Path

Figures = dict[str, list[tuple[int, float]]]


def logs(kind: str, folder: Path) -> dict[str, tuple[Figures, dict]]:
    """Every run's figures and hyperparameters, by `arm seed-...`."""
    return {name: (dict(figures), settings) for name, figures, settings in READERS[kind](folder)}


def _tensorboard(folder: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import plugin_data_pb2

    for place in sorted({path.parent for path in folder.rglob("events.*")}):
        events = EventAccumulator(str(place), size_guidance={"scalars": 0}).Reload()
        figures = {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
        settings = {}
        for tag in events.summary_metadata:
            data_of = events.SummaryMetadata(tag).plugin_data
            if data_of.plugin_name != "hparams":
                continue
            data = plugin_data_pb2.HParamsPluginData.FromString(data_of.content)
            given = data.session_start_info.hparams
            settings |= {name: getattr(value, value.WhichOneof("kind")) for name, value in given.items()}
        yield f"{place.parent.name} {place.name}", figures, settings


def _csv(folder: Path):
    for path in sorted(folder.rglob("metrics.csv")):
        figures = defaultdict(list)
        with open(path, newline="") as file:
            for row in csv.DictReader(file):
                step = int(row.pop("step"))
                for name, text in row.items():
                    if text:
                        figures[name].append((step, float(text)))
        settings = json.loads(path.with_name("hparams.json").read_text())
        yield f"{path.parent.parent.name} {path.parent.name}", figures, settings


def _wandb(folder: Path):
    from wandb.proto.wandb_internal_pb2 import Record

    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        figures, settings, name = defaultdict(list), {}, ""
        end = time.monotonic() + 30
        while not (records := [Record.FromString(data) for data in _leveldb_log(path.read_bytes())]) or not (
            records[-1].HasField("exit") or time.monotonic() > end
        ):  # W&B's own process writes it, a moment after its `finish` has returned
            time.sleep(0.05)
        for record in records:
            if record.HasField("run"):
                name = record.run.display_name
                settings |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
            if record.HasField("config"):
                settings |= {item.key: json.loads(item.value_json) for item in record.config.update}
            if record.HasField("history"):
                items = record.history.item
                row = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}
                for figure, value in row.items():
                    if not figure.startswith(("_", "trainer/")):
                        figures[figure].append((row["trainer/global_step"], value))
        yield name, figures, settings


def _leveldb_log(data: bytes):
    """The records of a file in LevelDB's log format, after the seven bytes by which W&B begins it."""
    at, whole = 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
        size, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        whole += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # full, last
            yield whole
            whole = b""


def _mlflow(folder: Path):
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    for experiment in client.search_experiments():
        for run in client.search_runs([experiment.experiment_id]):
            figures = {
                name: [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, name)]
                for name in run.data.metrics
            }
            yield run.info.run_name, figures, run.data.params


READERS = {"tensorboard": _tensorboard, "csv": _csv, "wandb": _wandb, "mlflow": _mlflow}
