"""All papers as one table: what there is, how far each has got, and what came out."""

import sys
from pathlib import Path
from textwrap import shorten

from assay.claims.card import FAMILIES, Paper
from assay.papers import papers, standing

BEGIN, END = "<!-- papers -->", "<!-- /papers -->"


def markdown_table() -> str:
    """One row a paper, by family: slug with a link to arXiv, title, status, and the verdict of those checked.

    Raises:
        AssayError: evidence cannot be read.
    """
    cards = papers()
    rows = ["| paper | title | status |", "| --- | --- | --- |"]
    for family in FAMILIES:
        rows.append(f"| **{family[0].upper()}{family[1:]}** | | |")
        rows += [_row(card) for card in cards if card.family == family]
    return "\n".join(rows)


def _row(card: Paper) -> str:
    name = f"[{card.slug}](https://arxiv.org/abs/{card.arxiv})" if card.arxiv else card.slug
    status, evidence = standing(card)
    state = f"{status}: {evidence['verdict']}" if evidence else status
    return f"| {name} | {shorten(card.title, 90, placeholder=' …')} | {state} |"


def rewrite(text: str) -> str:
    """`text` with the table between its markers made anew.

    Raises:
        ValueError: `text` lacks the markers.
    """
    before, found, rest = text.partition(BEGIN)
    _, closed, after = rest.partition(END)
    if not found or not closed:
        raise ValueError(f"text must have {BEGIN} and {END} around the table")
    return f"{before}{BEGIN}\n{markdown_table()}\n{END}{after}"


if __name__ == "__main__":
    for path in map(Path, sys.argv[1:]):
        path.write_text(rewrite(path.read_text()))
