"""`assay papers`, `show` and `check`: the cards, their evidence, and how it is made."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from assay.cli import arguments
from assay.cli.compare import STORE
from assay.cli.listings import AsJson, print_table
from assay.cli.mistakes import debug
from assay.errors import AssayError

if TYPE_CHECKING:
    from assay.claims.card import Paper


def papers(
    search: Annotated[str, typer.Option(help="Only those with this word in title, authors or summary.")] = "",
    status: Annotated[
        Literal["planned", "implemented", "checked"] | None, typer.Option(help="Only those of this status.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the papers: what is built, and what came of its claim."""
    from assay.papers import papers as cards
    from assay.papers import standing

    standings = [(card, *standing(card)) for card in cards() if search.lower() in _text(card)]
    found = [(c, s, evidence["verdict"] if evidence else None) for c, s, evidence in standings if status in (None, s)]
    if as_json:
        rows = [
            {"slug": c.slug, "title": c.title, "status": s, "verdict": v, "objects": list(c.objects)}
            for c, s, v in found
        ]
        typer.echo(json.dumps(rows))
        return
    print_table(["paper", "year", "title", "status", "verdict"],
                [[c.slug, str(c.year), c.title, s, v or ""] for c, s, v in found])  # fmt: skip


def show(slug: Annotated[str, typer.Argument(metavar="SLUG")], as_json: AsJson = False) -> None:
    """Show a paper's card: facts, objects, the paper's own figures, the claim and its evidence."""
    from assay.papers import paper, standing

    card = paper(slug)
    status, evidence = standing(card)
    if as_json:
        typer.echo(json.dumps(card.describe() | {"status": status, "evidence": evidence}))
        return
    from rich.console import Console

    from assay.cli.card import rendered

    Console().print(rendered(card, status, evidence))


def check(
    slug: Annotated[str | None, typer.Argument(metavar="[SLUG]", help="A paper from `assay papers`.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Every paper that has a claim.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Seconds: does it run? Gives no verdict.")] = False,
    save: Annotated[bool, typer.Option("--save", help="Write what came out to results/SLUG.json.")] = False,
    store: Annotated[str, typer.Option(help="Where runs are kept: a stopped check goes on.")] = STORE,
    data_dir: Annotated[Path | None, typer.Option(help="Folder of data sets; by default $ASSAY_DATA.")] = None,
    executor: arguments.ExecutorName = None,
    workers: arguments.Workers = None,
    address: arguments.Address = None,
    tracebacks: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Run the claim of a paper as its card fixed it, and say what came out."""
    debug.set(tracebacks)
    from rich.console import Console

    from assay.claims.check import Check, evidence_from, save_evidence
    from assay.cli.progress import Bars
    from assay.cli.table import verdicts
    from assay.papers import paper
    from assay.papers import papers as cards

    if (slug is None) != every:
        raise AssayError("give one paper or --all")
    if quick and save:
        raise AssayError("a quick check is no evidence and is not saved; leave out --quick or --save")
    chosen = [card for card in cards() if card.claim] if slug is None else [paper(slug)]
    for card in chosen:
        if card.claim is None:
            raise AssayError(f"paper {card.slug!r} is planned: it has no claim to check yet")
        with Bars(Console(stderr=True)) as bars:
            how = Check(card.claim, quick, store, data_dir, executor or "pool", workers, address, bars)
            result = card.claim.trial(how)
        Console().print(verdicts(result))
        if quick:
            typer.echo(f"{card.slug}: ran to the end; a quick check gives no verdict")
            continue
        evidence = evidence_from(card, how, result)
        typer.echo(f"{card.slug}: {evidence['verdict']}")
        if save:
            typer.echo(f"Evidence: {save_evidence(evidence)}")


def _text(card: "Paper") -> str:
    return " ".join([card.slug, card.title, *card.authors, card.summary, card.family]).lower()
