"""`assay plan`: what a trial or the check of a paper would cost, before it is run."""

import json
from collections.abc import Mapping
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from assay.cli import arguments
from assay.cli.mistakes import debug
from assay.errors import AssayError

if TYPE_CHECKING:
    from assay.claims.card import Paper
    from assay.trials.gpus import Gpu
    from assay.trials.plan import Plan

UNUSED = typer.Option(hidden=True, help="Taken so that a line of `assay compare` can be priced as it stands.")


def plan(
    asked: Annotated[
        str, typer.Argument(metavar="SLUG|TASK", help="A paper from `assay papers`; or, --with METHOD, a task.")
    ],
    arms: Annotated[
        list[str] | None,
        typer.Option(
            "--with", metavar="METHOD[:OPTION=VALUE,...][+METHOD...]", help="This and all that follows as in compare."
        ),
    ] = None,
    gpu: Annotated[str | None, typer.Option(help="Price it on one such GPU, too: h100, a100, l4, ...")] = None,
    price: Annotated[float | None, typer.Option(help="Of the GPU, in dollars an hour.")] = None,
    utilisation: Annotated[
        float | None, typer.Option(help="Share of the GPU's peak rate that is reached, instead of an assumed range.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Of a paper: price its quick check.")] = False,
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
    as_json: arguments.AsJson = False,
    executor: arguments.ExecutorName = None,
    workers: arguments.Workers = None,
    address: arguments.Address = None,
    cpus_per_run: arguments.CpusPerRun = None,
    gpus_per_run: arguments.GpusPerRun = 0.0,
    threads: arguments.Threads = None,
    accelerator: arguments.Accelerator = "cpu",
    tracebacks: arguments.Debug = False,
    store: Annotated[str | None, UNUSED] = None,
    out: Annotated[Path | None, UNUSED] = None,
    log: Annotated[str | None, UNUSED] = None,
    log_dir: Annotated[Path | None, UNUSED] = None,
    devices: Annotated[int, UNUSED] = 1,
    strategy: Annotated[str | None, UNUSED] = None,
) -> None:
    """Price a trial, or the check of a paper, by a few steps of each arm: FLOPs, time, money, memory.

    Takes the line of `assay compare` as it stands. Nothing is kept; runs done before are priced like all others, and
    runs that several devices share as on one.
    """
    debug.set(tracebacks)
    on = _gpu(gpu, price, utilisation)
    trial: dict[str, Any] = {
        "seeds": seeds,
        "budget": budget,
        "metric": metric,
        "smallest_effect": smallest_effect,
        "confidence": confidence,
        "vary": vary,
        "tune": tune,
        "tune_trials": tune_trials,
        "tune_seeds": tune_seeds,
        "equal_flops": equal_flops,
        "threads": threads,
        "cpus_per_run": cpus_per_run,
        "gpus_per_run": gpus_per_run,
        "accelerator": accelerator,
    }
    card = None if arms else _card(asked, trial | {"set": settings})
    if card is not None:
        from assay.claims.check import Pricing
        from assay.claims.check import price as price_of

        if card.claim is None:
            raise AssayError(f"paper {card.slug!r} is planned: it has no claim to price yet")
        how = Pricing(
            card.claim, quick, data_dir=data_dir, executor=executor or "pool", workers=workers, address=address
        )
        found = price_of(how)
    elif quick:
        raise AssayError("--quick is for papers; a trial has its --seeds and --budget")
    else:
        from assay.trials.plan import plan as plan_of

        task, treated = arguments.task_and_arms(asked, arms or [], settings, data_dir)
        trial |= {"vary": [part.strip() for part in vary.split(",")], "tune": arguments.spaces(tune or [])}
        found = plan_of(task, treated, **trial, executor=executor, workers=workers, address=address)
    if as_json:
        typer.echo(json.dumps(_json(found, card, on, price, utilisation)))
        return
    from rich.console import Console

    from assay.cli.prices import rendered

    Console().print(rendered(found, card, on, price, utilisation))


def _gpu(name: str | None, price: float | None, utilisation: float | None) -> "Gpu | None":
    if name is None:
        for option, value in (("--price", price), ("--utilisation", utilisation)):
            if value is not None:
                raise AssayError(f"{option} is of a GPU; say which with --gpu")
        return None
    from assay.trials.gpus import estimate, gpu

    found = gpu(name)
    estimate(found, 0.0, price=price, utilisation=utilisation)  # refuses what is out of range before anything is run
    return found


def _card(asked: str, trial: Mapping[str, Any]) -> "Paper":
    """The card of the paper `asked`, whose claim leaves nothing of a `trial` open."""
    from assay.papers import paper, slugs

    if asked not in slugs():
        raise AssayError(f"what is to be set against {asked!r}? give --with METHOD, or the name of a paper alone")
    usual = {"set": None} | {name: parameter.default for name, parameter in signature(plan).parameters.items()}
    for name, value in trial.items():
        if value != usual[name]:
            option = name.replace("_", "-")
            raise AssayError(f"--{option} is fixed by the claim of {asked!r}; it is for trials of your own")
    return paper(asked)


def _json(
    plan: "Plan", card: "Paper | None", on: "Gpu | None", price: float | None, utilisation: float | None
) -> dict[str, Any]:
    from dataclasses import asdict

    found = plan.to_json()
    if on is not None:
        found["gpu"] = asdict(plan.on(on, price=price, utilisation=utilisation))
    if card is not None:
        from assay.claims.scale import price_scale

        found |= {"paper": card.slug, "paper_scale": card.paper_scale, "scales": []}
        for scale in card.scales:
            priced = price_scale(scale)
            row = asdict(priced)
            if on is not None:
                row["gpu"] = asdict(priced.on(on, price=price, utilisation=utilisation))
            found["scales"].append(row)
    return found
