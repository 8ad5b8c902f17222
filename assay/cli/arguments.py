"""What a trial is asked for on the command line: by `assay compare` to run it, by `assay plan` to price it."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from assay import options
from assay.errors import AssayError

if TYPE_CHECKING:
    from assay.engine import Task
    from assay.trials import Arm
    from assay.trials.tune import Space

TaskName = Annotated[
    str,
    typer.Argument(
        metavar="TASK", help="A name from `assay tasks`, or your own: FILE.py:NAME; options follow a colon."
    ),
]
ArmTexts = Annotated[
    list[str],
    typer.Option(
        "--with",
        metavar="METHOD[:OPTION=VALUE,...][+METHOD...]",
        help="An arm to set against the baseline: one method, or several joined by +. Repeat it for more arms.",
    ),
]
Seeds = Annotated[int, typer.Option(help="Runs of each arm.")]
BudgetText = Annotated[
    str | None, typer.Option(help="Of each run: 10epochs, 500steps, 60s, 1e12flops. By default the task's own.")
]
MetricName = Annotated[str | None, typer.Option(help="What is compared; by default the task's first.")]
SmallestEffect = Annotated[
    float,
    typer.Option(help="The smallest gain that counts, in the metric's unit (accuracy: 0.005 is half a point)."),
]
Confidence = Annotated[float, typer.Option(help="Of all intervals together.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE,...", help="Settings of every arm: lr, batch_size, ..."),
]
Vary = Annotated[str, typer.Option(help="What a seed redraws: init, order, split.")]
Tune = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME[=VALUE/VALUE...]",
        help="A setting to tune in every arm, the baseline too, on the validation split: among values, or around "
        "the present one. Repeat it for more settings.",
    ),
]
TuneTrials = Annotated[int, typer.Option(help="Settings tried for each arm.")]
TuneSeeds = Annotated[int, typer.Option(help="Runs of each setting tried, which is judged by their mean.")]
EqualFlops = Annotated[
    bool,
    typer.Option("--equal-flops/--no-equal-flops", help="Set an arm that costs more also against more baseline."),
]
DataDir = Annotated[
    Path | None, typer.Option(help="Folder of data sets; by default $ASSAY_DATA, else ~/.cache/assay/data.")
]
StoreAt = Annotated[
    str,
    typer.Option(
        help="Where runs are kept and found again: an SQLite file, or postgresql://USER@HOST/DATABASE to share them."
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(help="The report, .html; JSON and CSV go beside it. By default .assay/reports/TASK-ARMS.html."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON, and nothing else, on stdout.")]
ExecutorName = Annotated[
    str | None, typer.Option(help="pool (of processes; the default on a CPU), serial (the default on a GPU) or ray.")
]
Workers = Annotated[
    int | None, typer.Option(help="Processes of the pool, by default one a core; of Ray, runs at a time.")
]
Address = Annotated[
    str | None,
    typer.Option(metavar="HOST:PORT|auto", help="Of the Ray cluster; without one, Ray is started on this machine."),
]
CpusPerRun = Annotated[int | None, typer.Option(help="CPUs that Ray sets aside for a run, and its threads; 1.")]
GpusPerRun = Annotated[float, typer.Option(help="GPUs that Ray sets aside for a run: 0, 1 or a fraction.")]
Threads = Annotated[int | None, typer.Option(help="CPU threads of a run; 1.")]
Accelerator = Annotated[str, typer.Option(help="cpu, cuda or auto.")]
Devices = Annotated[
    int, typer.Option(help="Devices that share each run, a process each: GPUs, or cores of a CPU. See docs/devices.md.")
]
Strategy = Annotated[
    str | None, typer.Option(help="How they share it: ddp (the default) or fsdp, which divides the network too.")
]
LogBy = Annotated[
    str | None,
    typer.Option("--log", help="Log every run by tensorboard, csv, wandb (offline) or mlflow; see docs/logs.md."),
]
LogDir = Annotated[Path | None, typer.Option(help="Folder of the logs; by default .assay/logs.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def task_and_arms(
    task: str, arms: Sequence[str], settings: Sequence[str] | None, data_dir: Path | None
) -> "tuple[Task, list[Arm]]":
    """The task, and the baseline with the arms that are set against it.

    Raises:
        AssayError: something in the texts is unknown or cannot be read.
    """
    from assay import tasks, trials
    from assay.papers import parse_arm

    loaded = tasks.load(task, data_dir=data_dir)
    recipe = loaded.recipe.with_settings(options.parse(",".join(settings or [])))
    treated = [trials.Arm(text, recipe.with_methods(parse_arm(text))) for text in arms]
    return loaded, [trials.Arm("baseline", recipe), *treated]


def spaces(texts: Iterable[str]) -> "dict[str, Space]":
    """`lr` and `lr=0.01/0.1` as what to tune: around the present value, or among these."""
    found: dict[str, Space] = {}
    for text in texts:
        name, equals, values = (part.strip() for part in text.partition("="))
        parts = [value.strip() for value in values.split("/")]
        if not name or (equals and not all(parts)):
            raise AssayError(f"cannot read --tune {text!r}; write --tune lr, or --tune lr=0.01/0.1/1")
        if name in found:
            raise AssayError(f"--tune gives {name!r} twice")
        found[name] = list(parts) if equals else None
    return found
