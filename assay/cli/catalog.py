"""`assay catalog` and `assay serve`: the papers, and the trials of this machine, in a browser."""

import signal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from assay.cli.compare import STORE
from assay.cli.mistakes import debug
from assay.errors import AssayError

Tracebacks = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def catalog(
    out: Annotated[
        Path, typer.Option(help="A folder: new, empty, or with an earlier catalog, which is replaced.")
    ] = Path("site"),
    tracebacks: Tracebacks = False,
) -> None:
    """Write the papers, their claims and the evidence as a static site."""
    debug.set(tracebacks)
    from assay.web.catalog import write_site

    write_site(out)
    typer.echo(f"Catalog: {out / 'index.html'}")


def serve(
    store: Annotated[str, typer.Option(help="Whose trials are shown: an SQLite file or a PostgreSQL URL.")] = STORE,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any that is free.")] = 8000,
    tracebacks: Tracebacks = False,
) -> None:
    """Show the papers and the trials of a store in the browser of this machine, until Ctrl-C.

    Trials that finish later are there when it is started again.
    """
    debug.set(tracebacks)
    found = "://" in store or Path(store).is_file()
    if not found and store != STORE:
        raise AssayError(f"no store at {store}; `assay compare` makes one")
    from assay.trials import Store
    from assay.web.catalog import write_site
    from assay.web.serve import LOOPBACK, server

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the folder goes in that case too
    with TemporaryDirectory(prefix="assay-") as place:
        site = Path(place) / "site"
        try:
            with server(site, port) as pages:
                write_site(site, trials=Store(store).trials() if found else [])
                typer.echo(f"Serving http://{LOOPBACK}:{pages.server_port}/ to this machine; Ctrl-C ends it")
                pages.serve_forever()
        except KeyboardInterrupt:
            typer.echo("")  # the terminal has just shown ^C
