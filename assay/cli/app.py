"""What can be typed."""

from typing import Annotated

import typer

import assay
from assay.cli.compare import compare
from assay.cli.listings import fetch, methods, tasks, trials
from assay.cli.mistakes import Commands
from assay.cli.papers import check, papers, show


def _version(asked: bool) -> bool:
    if asked:
        typer.echo(f"assay {assay.__version__}")
        raise typer.Exit
    return asked


def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Does this published training method help my model, on my data, at my budget?"""


# plain text: loading rich would double the time that --help takes
app = typer.Typer(
    cls=Commands,
    callback=_common,
    rich_markup_mode=None,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(compare)
app.command()(tasks)
app.command()(methods)
app.command()(trials)
app.command()(papers)
app.command()(show)
app.command()(check)
data = typer.Typer(help="Data sets of the built-in tasks.", rich_markup_mode=None, no_args_is_help=True)
data.command()(fetch)
app.add_typer(data, name="data")


def main() -> None:
    """The command line."""
    app()
