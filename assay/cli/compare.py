"""`assay compare`: a trial, its report, and its verdicts on the terminal."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from assay import options
from assay.cli.mistakes import debug, line
from assay.cli.output import check_writable, default_report
from assay.errors import AssayError

if TYPE_CHECKING:
    from assay.trials.tune import Space

STORE = ".assay/store.db"


def compare(
    task: Annotated[
        str,
        typer.Argument(
            metavar="TASK", help="A name from `assay tasks`, or your own: FILE.py:NAME; options follow a colon."
        ),
    ],
    arms: Annotated[
        list[str],
        typer.Option(
            "--with",
            metavar="METHOD[:OPTION=VALUE,...][+METHOD...]",
            help="An arm to set against the baseline: one method, or several joined by +. Repeat it for more arms.",
        ),
    ],
    seeds: Annotated[int, typer.Option(help="Runs of each arm.")] = 5,
    budget: Annotated[
        str | None, typer.Option(help="Of each run: 10epochs, 500steps, 60s, 1e12flops. By default the task's own.")
    ] = None,
    metric: Annotated[str | None, typer.Option(help="What is compared; by default the task's first.")] = None,
    smallest_effect: Annotated[
        float,
        typer.Option(help="The smallest gain that counts, in the metric's unit (accuracy: 0.005 is half a point)."),
    ] = 0.0,
    confidence: Annotated[float, typer.Option(help="Of all intervals together.")] = 0.95,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE,...", help="Settings of every arm: lr, batch_size, ..."),
    ] = None,
    vary: Annotated[str, typer.Option(help="What a seed redraws: init, order, split.")] = "init,order",
    tune: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[=VALUE/VALUE...]",
            help="A setting to tune in every arm, the baseline too, on the validation split: among values, or around "
            "the present one. Repeat it for more settings.",
        ),
    ] = None,
    tune_trials: Annotated[int, typer.Option(help="Tuning runs of each arm.")] = 8,
    equal_flops: Annotated[
        bool,
        typer.Option("--equal-flops/--no-equal-flops", help="Set an arm that costs more also against more baseline."),
    ] = True,
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder of data sets; by default $ASSAY_DATA, else ~/.cache/assay/data.")
    ] = None,
    store: Annotated[
        str, typer.Option(help="Where runs are kept and found again: an SQLite file or a database URL.")
    ] = STORE,
    out: Annotated[
        Path | None,
        typer.Option(help="The report, .html; JSON and CSV go beside it. By default .assay/reports/TASK-ARMS.html."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the result as JSON, and nothing else, on stdout.")
    ] = False,
    executor: Annotated[
        str | None, typer.Option(help="pool (of processes; the default on a CPU) or serial (the default on a GPU).")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Processes of the pool; by default one a core.")] = None,
    threads: Annotated[int, typer.Option(help="CPU threads of a run.")] = 1,
    accelerator: Annotated[str, typer.Option(help="cpu, cuda or auto.")] = "cpu",
    tracebacks: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Train TASK with and without methods, from the same seeds at an equal budget, and say what helps.

    What has been run before is taken from the store; a stopped trial goes on where it was.
    """
    debug.set(tracebacks)
    from assay.trials.worker import warm_up

    if executor != "serial" and accelerator == "cpu" and workers != 1:
        warm_up()  # the workers' imports go on beside this process's own

    from rich.console import Console

    from assay import tasks, trials
    from assay.cli.progress import Bars
    from assay.cli.table import verdicts
    from assay.papers import parse_arm
    from assay.trials import report

    loaded = tasks.load(task, data_dir=data_dir)
    recipe = loaded.recipe.with_settings(options.parse(",".join(settings or [])))
    treated = [trials.Arm(text, recipe.with_methods(parse_arm(text))) for text in arms]
    place = out or default_report(loaded.name, arms)
    check_writable(place)
    people = Console(stderr=True)
    with Bars(people) as bars:
        result = trials.compare(
            loaded,
            [trials.Arm("baseline", recipe), *treated],
            seeds=seeds,
            budget=budget,
            metric=metric,
            vary=[part.strip() for part in vary.split(",")],
            smallest_effect=smallest_effect,
            confidence=confidence,
            tune=_spaces(tune or []),
            tune_trials=tune_trials,
            equal_flops=equal_flops,
            store=store,
            executor=executor,
            workers=workers,
            threads=threads,
            accelerator=accelerator,
            command=line.get(),
            on_progress=bars,
        )
    report.write_report(result, place)
    if as_json:
        typer.echo(report.as_json(result))
    else:
        Console().print(verdicts(result))
        if result.reused:
            typer.echo(f"{result.reused} runs were in {store} already.")
        typer.echo(f"Report: {place}")


def _spaces(texts: Iterable[str]) -> "dict[str, Space]":
    """`lr` and `lr=0.01/0.1` as what to tune: around the present value, or among these."""
    spaces: dict[str, Space] = {}
    for text in texts:
        name, equals, values = (part.strip() for part in text.partition("="))
        parts = [value.strip() for value in values.split("/")]
        if not name or (equals and not all(parts)):
            raise AssayError(f"cannot read --tune {text!r}; write --tune lr, or --tune lr=0.01/0.1/1")
        if name in spaces:
            raise AssayError(f"--tune gives {name!r} twice")
        spaces[name] = list(parts) if equals else None
    return spaces
