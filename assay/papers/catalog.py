"""All cards at once: which papers there are, and how far each has got. Nothing heavy is imported."""

from importlib import import_module
from textwrap import shorten

from assay.claims.card import FAMILIES, Paper, Status
from assay.claims.check import load_evidence
from assay.errors import UnknownName
from assay.papers import slugs


def papers() -> tuple[Paper, ...]:
    """Every card, sorted by slug."""
    return tuple(_card(slug) for slug in slugs())


def paper(slug: str) -> Paper:
    """The card of one paper.

    Raises:
        UnknownName: no paper has this slug.
    """
    known = slugs()
    if slug not in known:
        raise UnknownName("paper", slug, known)
    return _card(slug)


def status(paper: Paper) -> Status:
    """Planned while nothing implements it, checked once evidence is saved.

    Raises:
        AssayError: the evidence cannot be read.
    """
    if load_evidence(paper.slug) is not None:
        return "checked"
    return "implemented" if paper.objects else "planned"


def markdown_table() -> str:
    """One row a paper, by family: slug with a link to arXiv, title, status, and the verdict of those checked."""
    every = papers()
    rows = ["| paper | title | status |", "| --- | --- | --- |"]
    for family in FAMILIES:
        rows.append(f"| **{family[0].upper()}{family[1:]}** | | |")
        rows += [_row(paper) for paper in every if paper.family == family]
    return "\n".join(rows)


def _row(paper: Paper) -> str:
    name = f"[{paper.slug}](https://arxiv.org/abs/{paper.arxiv})" if paper.arxiv else paper.slug
    evidence = load_evidence(paper.slug)
    state = f"checked: {evidence['verdict']}" if evidence else status(paper)
    return f"| {name} | {shorten(paper.title, 90, placeholder=' …')} | {state} |"


def _card(slug: str) -> Paper:
    card: Paper = import_module(f"assay.papers.{slug.replace('-', '_')}").PAPER
    return card
