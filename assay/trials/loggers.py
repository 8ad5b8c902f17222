"""The loggers of Lightning that a run can be logged by, each going on where a run goes on.

Nothing here reaches a network: Weights & Biases writes its offline folders, MLflow a database beside them.
"""

import csv
import logging
import os
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assay.trials.files import json_text, write_whole
from assay.trials.logs import Name

if TYPE_CHECKING:
    from assay.trials.logs import Sink


class TensorBoard:
    """`FOLDER/task/arm/run/events...`. A run that goes on adds a file, which says from which step on TensorBoard is to
    forget what the earlier ones hold."""

    def __init__(self, folder: Path, name: Name, after: int) -> None:
        from lightning_fabric.loggers.tensorboard import TensorBoardLogger

        self.fresh = not self.has(folder, name)
        self._settings = name.settings
        self._logger = TensorBoardLogger(folder, name.folders, name.run, purge_step=None if self.fresh else after + 1)

    @staticmethod
    def has(folder: Path, name: Name) -> bool:
        """Whether there is a log of the run."""
        return any((folder / name.folders / name.run).glob("events.*"))

    def log(self, figures: Mapping[str, float], step: int) -> None:
        self._logger.log_metrics(figures, step)
        self._logger.save()

    def end(self, figures: Mapping[str, float], step: int) -> None:
        self._logger.log_hyperparams(self._settings, dict(figures), step)

    def close(self, how: str) -> None:
        self._logger.finalize(how)


class Csv:
    """`FOLDER/task/arm/run/metrics.csv`, hyperparameters in `hparams.json`. A run that goes on has the rows up to its
    checkpoint written anew, since Lightning's logger begins each file anew."""

    def __init__(self, folder: Path, name: Name, after: int) -> None:
        from lightning_fabric.loggers.csv_logs import CSVLogger

        rows = _rows(self._file(folder, name))
        self.fresh = not self.has(folder, name)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Experiment logs directory .* exists")
            self._logger = CSVLogger(folder, name.folders, name.run)
            write_whole(Path(self._logger.log_dir, "hparams.json"), json_text(name.settings), what="hyperparameters")
            self._logger.experiment  # noqa: B018 - it is made when it is first asked for
        self.kept = [(figures, step) for figures, step in rows if step <= after]
        for figures, step in self.kept:
            self._logger.log_metrics(dict(figures), step)
        self._logger.save()

    @staticmethod
    def _file(folder: Path, name: Name) -> Path:
        return folder / name.folders / name.run / "metrics.csv"

    @staticmethod
    def has(folder: Path, name: Name) -> bool:
        """Whether there is a log of the run."""
        return Csv._file(folder, name).exists()

    def log(self, figures: Mapping[str, float], step: int) -> None:
        self._logger.log_metrics(dict(figures), step)
        self._logger.save()

    def end(self, figures: Mapping[str, float], step: int) -> None:
        self.log(figures, step)

    def close(self, how: str) -> None:
        self._logger.finalize(how)


class WeightsAndBiases:
    """`FOLDER/wandb/offline-run-...`, one a run, with the run's key as its id; `wandb sync` sends it.

    An offline folder cannot be gone on with. A run that goes on gets a new one instead of it, with what the old one had
    up to the checkpoint; to know that, its rows are kept as CSV, too.
    """

    def __init__(self, folder: Path, name: Name, after: int) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # which is sent off from offline runs, too
        import wandb
        from lightning.pytorch.loggers import WandbLogger

        for old in _offline(folder, name):
            shutil.rmtree(old, ignore_errors=True)  # W&B's own process may still be at it, and leave an empty shell
        self._rows = Csv(folder, name, after)
        self.fresh = self._rows.fresh
        folder.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            mode="offline",
            dir=str(folder),
            project=name.task,
            group=name.arm,
            name=f"{name.arm} {name.run}",
            id=name.key,
            config=name.settings,
            reinit="create_new",  # a run of the user's own in this process is left alone
            settings=wandb.Settings(silent=True, console="off", x_disable_stats=True),
        )
        self._run.define_metric("trainer/global_step")
        self._run.define_metric("*", step_metric="trainer/global_step")
        self._logger = WandbLogger(experiment=self._run, offline=True)
        for figures, step in self._rows.kept:
            self._logger.log_metrics(figures, step)

    @staticmethod
    def has(folder: Path, name: Name) -> bool:
        """Whether there is a log of the run."""
        return bool(_offline(folder, name))

    def log(self, figures: Mapping[str, float], step: int) -> None:
        self._rows.log(figures, step)
        self._logger.log_metrics(figures, step)

    def end(self, figures: Mapping[str, float], step: int) -> None:
        self.log(figures, step)

    def close(self, how: str) -> None:
        self._rows.close(how)
        self._run.finish(exit_code=0 if how == "success" else 1)


class MLflow:
    """`FOLDER/mlflow.db`, an experiment a task. What MLflow has it keeps, so that a run that goes on is silent until it
    comes to steps not logged before."""

    def __init__(self, folder: Path, name: Name, after: int) -> None:
        from lightning.pytorch.loggers import MLFlowLogger

        known = _mlflow_run(folder, name)
        self.fresh = known is None
        tags = {"assay.key": name.key, "assay.arm": name.arm}
        self._logger = MLFlowLogger(
            name.task, f"{name.arm} {name.run}", tracking_uri=_uri(folder), tags=tags, run_id=known
        )
        client, run = self._logger.experiment, str(self._logger.run_id)
        self._reached: dict[str, int] = {}
        if known is None:
            self._logger.log_hyperparams(name.settings)
            return
        client.update_run(run, "RUNNING")
        for figure in client.get_run(run).data.metrics:
            self._reached[figure] = max(point.step for point in client.get_metric_history(run, figure))

    @staticmethod
    def has(folder: Path, name: Name) -> bool:
        """Whether there is a log of the run."""
        return _mlflow_run(folder, name) is not None

    def log(self, figures: Mapping[str, float], step: int) -> None:
        news = {name: value for name, value in figures.items() if step > self._reached.get(name, -1)}
        if news:
            self._logger.log_metrics(news, step)

    def end(self, figures: Mapping[str, float], step: int) -> None:
        self.log(figures, step)

    def close(self, how: str) -> None:
        self._logger.finalize({"stopped": "KILLED"}.get(how, how))


SINKS: "dict[str, type[Sink]]" = {
    "tensorboard": TensorBoard,
    "csv": Csv,
    "wandb": WeightsAndBiases,
    "mlflow": MLflow,
}


def mlflow_experiment(folder: Path, task: str) -> str:
    """The id of a task's experiment; it and MLflow's database are made if they are not there."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow.tracking import MlflowClient

    logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)  # it tells of each table that it makes
    folder.mkdir(parents=True, exist_ok=True)
    client = MlflowClient(_uri(folder))
    found = client.get_experiment_by_name(task)
    return str(client.create_experiment(task) if found is None else found.experiment_id)


def _uri(folder: Path) -> str:
    return f"sqlite:///{folder / 'mlflow.db'}"


def _mlflow_run(folder: Path, name: Name) -> str | None:
    """The id that MLflow has given the run."""
    experiment = mlflow_experiment(folder, name.task)
    from mlflow.tracking import MlflowClient

    found = MlflowClient(_uri(folder)).search_runs([experiment], f"tags.`assay.key` = '{name.key}'")
    return str(found[0].info.run_id) if found else None


def _offline(folder: Path, name: Name) -> list[Path]:
    return list((folder / "wandb").glob(f"offline-run-*-{name.key}"))


def _rows(path: Path) -> list[tuple[dict[str, float], int]]:
    """Figures and step of each row; a last one that was cut off as its process died is left out."""
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        rows: list[dict[str, Any]] = [row for row in csv.DictReader(file) if None not in row.values()]
    return [
        ({name: float(text) for name, text in row.items() if name != "step" and text}, int(row["step"])) for row in rows
    ]
