"""The small commands: what there is to compare, and what has been."""

import inspect
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from assay.cli.compare import STORE

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def tasks(as_json: AsJson = False) -> None:
    """List the tasks that have a name, built in or a plugin's."""
    from assay.tasks import available

    if as_json:
        typer.echo(json.dumps(available()))
    else:
        print_table(["task", "what it is"], [[name, line] for name, line in available().items()])


def methods(as_json: AsJson = False) -> None:
    """List the methods that a run can be given, with their options."""
    from assay.papers import methods as factories

    found: dict[str, dict[str, Any]] = {
        name: {
            "summary": (inspect.getdoc(factory) or "").partition("\n")[0],
            "options": {
                key: None if p.default is p.empty else p.default
                for key, p in inspect.signature(factory).parameters.items()
            },
        }
        for name, factory in sorted(factories().items())
    }
    if as_json:
        typer.echo(json.dumps(found))
        return
    options = {
        name: ", ".join(k if v in (None, "") else f"{k}={v}" for k, v in method["options"].items())
        for name, method in found.items()
    }
    print_table(["method", "options", "what it does"], [[n, options[n], m["summary"]] for n, m in found.items()])


def fetch(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Such as cifar10 or fashion-mnist.")],
    data_dir: Annotated[Path | None, typer.Option(help="By default $ASSAY_DATA, else ~/.cache/assay/data.")] = None,
) -> None:
    """Download a data set from its official place, and check it."""
    from assay.data.fetch import fetch as download
    from assay.data.locate import data_dir as folder

    typer.echo(download(name, folder(data_dir)))


def trials(
    store: Annotated[str, typer.Option(help="An SQLite file or a PostgreSQL URL.")] = STORE, as_json: AsJson = False
) -> None:
    """List the trials that a store holds, with their verdicts."""
    from assay.errors import AssayError
    from assay.trials import Store

    if "://" not in store and not Path(store).is_file():
        raise AssayError(f"no store at {store}; `assay compare` makes one")
    found = Store(store).trials()
    if as_json:
        rows = [
            {"trial": n, "created": r.created, "question": r.question, "command": r.command,
             "verdicts": {c.arm: c.verdict for c in r.comparisons}}
            for n, r in found
        ]  # fmt: skip
        typer.echo(json.dumps(rows))
        return
    print_table(
        ["trial", "made", "question", "verdicts"],
        [
            [
                str(n),
                r.created[:16].replace("T", " "),
                r.question,
                "\n".join(f"{c.arm}: {c.verdict}" for c in r.comparisons),
            ]
            for n, r in found
        ],
    )


def print_table(headings: list[str], rows: list[list[str]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*headings, box=box.SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        table.add_row(*map(Text, row))
    Console().print(table)
