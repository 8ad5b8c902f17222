"""`assay compare`: a trial, its report, and its verdicts on the terminal."""

import typer

from assay.cli import arguments
from assay.cli.mistakes import debug, line
from assay.cli.output import check_writable, default_report

STORE = ".assay/store.db"


def compare(
    task: arguments.TaskName,
    arms: arguments.ArmTexts,
    seeds: arguments.Seeds = 5,
    budget: arguments.BudgetText = None,
    metric: arguments.MetricName = None,
    smallest_effect: arguments.SmallestEffect = 0.0,
    confidence: arguments.Confidence = 0.95,
    settings: arguments.Settings = None,
    vary: arguments.Vary = "init,order",
    tune: arguments.Tune = None,
    tune_trials: arguments.TuneTrials = 8,
    tune_seeds: arguments.TuneSeeds = 1,
    equal_flops: arguments.EqualFlops = True,
    data_dir: arguments.DataDir = None,
    store: arguments.StoreAt = STORE,
    out: arguments.Out = None,
    as_json: arguments.AsJson = False,
    executor: arguments.ExecutorName = None,
    workers: arguments.Workers = None,
    address: arguments.Address = None,
    cpus_per_run: arguments.CpusPerRun = None,
    gpus_per_run: arguments.GpusPerRun = 0.0,
    threads: arguments.Threads = None,
    accelerator: arguments.Accelerator = "cpu",
    devices: arguments.Devices = 1,
    strategy: arguments.Strategy = None,
    log: arguments.LogBy = None,
    log_dir: arguments.LogDir = None,
    tracebacks: arguments.Debug = False,
) -> None:
    """Train TASK with and without methods, from the same seeds at an equal budget, and say what helps.

    What has been run before is taken from the store; a stopped trial goes on where it was.
    """
    debug.set(tracebacks)
    from assay.trials.worker import warm_up

    if executor in (None, "pool") and accelerator == "cpu" and workers != 1:
        warm_up()  # the workers' imports go on beside this process's own

    from rich.console import Console

    from assay import trials
    from assay.cli.progress import Bars
    from assay.cli.table import verdicts
    from assay.trials import report
    from assay.trials.urls import without_password

    loaded, asked = arguments.task_and_arms(task, arms, settings, data_dir)
    place = out or default_report(loaded.name, arms)
    check_writable(place)
    people = Console(stderr=True)
    with Bars(people) as bars:
        result = trials.compare(
            loaded,
            asked,
            seeds=seeds,
            budget=budget,
            metric=metric,
            vary=[part.strip() for part in vary.split(",")],
            smallest_effect=smallest_effect,
            confidence=confidence,
            tune=arguments.spaces(tune or []),
            tune_trials=tune_trials,
            tune_seeds=tune_seeds,
            equal_flops=equal_flops,
            store=store,
            executor=executor,
            workers=workers,
            address=address,
            cpus_per_run=cpus_per_run,
            gpus_per_run=gpus_per_run,
            threads=threads,
            accelerator=accelerator,
            devices=devices,
            strategy=strategy,
            log=log,
            log_dir=log_dir,
            command=line.get(),
            on_progress=bars,
        )
    report.write_report(result, place)
    if as_json:
        typer.echo(report.as_json(result))
    else:
        Console().print(verdicts(result))
        if result.reused:
            typer.echo(f"{result.reused} runs were in {without_password(store)} already.")
        typer.echo(f"Report: {place}")
