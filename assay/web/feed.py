"""The catalog's Atom feed: a paper when its objects come in, and its evidence when it is made.

Source: RFC 4287. Identifiers depend on slug and date alone, so that a feed made anew repeats no entry as new.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING
from uuid import NAMESPACE_URL, uuid5
from xml.etree.ElementTree import Element, SubElement, indent, tostring

if TYPE_CHECKING:
    from assay.web.catalog import Entry

ATOM = "http://www.w3.org/2005/Atom"
EPOCH = "1970-01-01T00:00:00Z"  # a feed without entries must have a date too


def atom(papers: "Sequence[Entry]") -> str:
    """The feed as XML, newest entry first; links are relative to where the feed is."""
    news = []
    for paper in papers:
        card, page = paper.card, f"papers/{paper.card.slug}.html"
        if card.added:
            news.append((f"{card.added}T00:00:00Z", "implemented", card.title, card.summary, page))
        if paper.evidence and (finding := paper.finding):
            text = f"{card.claim.statement}. {finding.change} {finding.meaning}" if card.claim else finding.change
            news.append((paper.evidence["created"], finding.verdict.lower(), card.title, text, page))
    news.sort(reverse=True)
    feed = Element("feed", xmlns=ATOM)
    _text(feed, "title", "assay: papers and evidence")
    _text(feed, "id", _identifier("feed"))
    _text(feed, "updated", news[0][0] if news else EPOCH)
    _text(SubElement(feed, "author"), "name", "assay")
    SubElement(feed, "link", rel="alternate", type="text/html", href="index.html")
    for date, what, title, text, page in news:
        entry = SubElement(feed, "entry")
        _text(entry, "title", f"{title}: {what}")
        _text(entry, "id", _identifier(f"{page} {what} {date}"))
        _text(entry, "updated", date)
        _text(entry, "published", date)
        SubElement(entry, "link", rel="alternate", type="text/html", href=page)
        _text(entry, "summary", text)
    indent(feed)
    return f'<?xml version="1.0" encoding="utf-8"?>\n{tostring(feed, encoding="unicode")}\n'


def _text(parent: Element, tag: str, text: str) -> None:
    SubElement(parent, tag).text = text


def _identifier(what: str) -> str:
    return f"urn:uuid:{uuid5(NAMESPACE_URL, f'assay catalog: {what}')}"
