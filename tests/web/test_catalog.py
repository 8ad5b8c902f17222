"""The catalog's files: whole, linked to each other, escaped, and never in the place of something else."""

import errno
import json
import os
import re
from dataclasses import replace
from datetime import datetime
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit
from xml.etree import ElementTree

import pytest

import assay.claims.check
import assay.web.catalog
from assay.claims.card import Headline
from assay.claims.check import load_evidence
from assay.errors import AssayError
from assay.papers import paper, papers
from assay.web.catalog import entries, write_site
from tests.trials.make_result import make_result

EVIL = "<script>alert(1)</script>\"' onmouseover=x ]]>"
ATOM = "{http://www.w3.org/2005/Atom}"


class Page(HTMLParser):
    """What a page links to, its elements with their attributes, and its text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))
        self.links = [a[name] for _, a in self.elements for name in ("href", "src") if name in a]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += f"{data} "


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The catalog of the papers as they are, with two trials."""
    out = tmp_path_factory.mktemp("catalog") / "site"
    write_site(out, trials=[(1, make_result()), (7, make_result(question="Is it?"))])
    return out


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_every_paper_has_a_page_and_every_evidence_its_report(site):
    assert {path.stem for path in (site / "papers").iterdir()} == {card.slug for card in papers()}
    checked = {card.slug for card in papers() if load_evidence(card.slug)}
    assert {path.name for path in (site / "evidence").iterdir()} == {
        f"{slug}.{ending}" for slug in checked for ending in ("html", "json", "csv")
    }
    assert {path.name for path in (site / "trials").glob("*.html")} == {"1.html", "7.html"}


def test_every_link_leads_somewhere(site):
    followed = 0
    for path in site.rglob("*.html"):
        for link in Page(path).links:
            parts = urlsplit(link)
            if parts.scheme:
                assert parts.scheme == "https", link
                assert parts.netloc in ("arxiv.org", "github.com"), link
            else:
                assert (path.parent / unquote(parts.path)).is_file(), (path, link)
                followed += 1
    assert followed > 5 * len(papers())


def test_a_papers_page_has_its_facts_objects_figures_and_claim(site):
    for card in papers():
        text = " ".join(Page(site / "papers" / f"{card.slug}.html").text.split())
        facts = [card.title, *card.authors, str(card.year), card.summary, *card.objects]
        facts += [part for h in card.headline for part in (h.what, *(f"{k} {v}" for k, v in h.figures.items()))]
        if card.claim:
            facts += [card.claim.statement, card.claim.tuning, card.claim.power, *card.claim.arms.values()]
        assert [fact for fact in facts if " ".join(fact.split()) not in text] == [], card.slug


def test_a_papers_page_gives_the_interval_of_its_evidence(site):
    for slug in (card.slug for card in papers() if load_evidence(card.slug)):
        low, high = (float(end) for end in load_evidence(slug)["interval"])
        scale = 100 if load_evidence(slug)["trial"]["metric"]["unit"] == "%" else 1
        shown = re.search(r"interval: ([\d.]+)\D* to ([\d.]+)", Page(site / "papers" / f"{slug}.html").text)
        assert float(shown[1]) == pytest.approx(scale * abs(low), abs=0.1)
        assert float(shown[2]) == pytest.approx(scale * abs(high), abs=0.1)
        assert load_evidence(slug)["verdict"].capitalize() in Page(site / "papers" / f"{slug}.html").text


def test_a_papers_page_does_not_leave_out_the_other_comparisons(site):
    for slug in (card.slug for card in papers() if load_evidence(card.slug)):
        text = " ".join(Page(site / "papers" / f"{slug}.html").text.split())
        answer = text[text.index("What was found here") : text.index("The claim, fixed")]
        comparisons = load_evidence(slug)["trial"]["comparisons"]
        assert answer.count("95% interval: ") == len(comparisons), slug
        assert all(c["verdict"].capitalize() in answer and c["arm"] in answer for c in comparisons), slug


def test_made_again_it_is_the_same_to_the_byte(site, tmp_path):
    write_site(tmp_path / "again", trials=[(1, make_result()), (7, make_result(question="Is it?"))])
    assert files(tmp_path / "again") == files(site)


def test_pages_of_an_earlier_catalog_are_gone(tmp_path, monkeypatch):
    monkeypatch.setattr(assay.web.catalog, "papers", lambda: [paper("lamb"), paper("agvm")])
    write_site(tmp_path / "site", trials=[(1, make_result())])
    monkeypatch.setattr(assay.web.catalog, "papers", lambda: [paper("cutmix")])
    write_site(tmp_path / "site")
    assert [path.stem for path in (tmp_path / "site" / "papers").iterdir()] == ["cutmix"]
    assert not (tmp_path / "site" / "trials").exists()
    assert os.listdir(tmp_path) == ["site"]


def test_a_folder_with_something_else_is_left_as_it_is(tmp_path):
    (tmp_path / "index.html").write_text("<h1>My thesis</h1>")
    with pytest.raises(AssayError, match=r"it holds index.html, no part of a catalog; give an empty one"):
        write_site(tmp_path)
    assert files(tmp_path) == {"index.html": b"<h1>My thesis</h1>"}


def test_a_catalog_to_which_someone_added_is_left_as_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(assay.web.catalog, "papers", lambda: [paper("agvm")])
    write_site(tmp_path, trials=[])
    write_site(tmp_path)
    (tmp_path / "CNAME").write_text("papers.example")
    before = files(tmp_path)
    with pytest.raises(AssayError, match="it holds CNAME"):
        write_site(tmp_path)
    assert files(tmp_path) == before


def test_a_file_and_a_place_under_a_file_are_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(AssayError, match="it is a file; give a folder"):
        write_site(tmp_path / "file")
    with pytest.raises(AssayError, match=r"cannot write the catalog to .*: Not a directory"):
        write_site(tmp_path / "file" / "site")
    assert files(tmp_path) == {"file": b"mine"}


def test_a_full_disk_leaves_the_old_catalog_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(assay.web.catalog, "papers", lambda: [paper("agvm")])
    write_site(tmp_path / "site")
    before = files(tmp_path)

    def full(card):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(assay.web.catalog, "atom", full)
    with pytest.raises(AssayError, match=r"cannot write the catalog to .*site: No space left on device"):
        write_site(tmp_path / "site")
    assert files(tmp_path) == before


def test_a_folder_behind_a_link_is_written_and_the_link_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(assay.web.catalog, "papers", lambda: [paper("agvm")])
    (tmp_path / "real").mkdir()
    (tmp_path / "site").symlink_to("real")
    write_site(tmp_path / "site")
    assert (tmp_path / "site").is_symlink()
    assert (tmp_path / "real" / "index.html").is_file()


def test_what_users_and_cards_say_stays_text(tmp_path, monkeypatch):
    card = replace(paper("lamb"), title=EVIL, summary=EVIL, authors=(EVIL,), venue=EVIL, example=EVIL, paper_scale=EVIL)
    card = replace(card, headline=(Headline(EVIL, {EVIL: EVIL}),), claim=replace(card.claim, statement=EVIL, task=EVIL))
    monkeypatch.setattr(assay.web.catalog, "papers", lambda: [card])
    trial = make_result(levels={"baseline": 0.9, EVIL: 0.91}, question=EVIL)
    trial.task = {"name": EVIL, "settings": {}}
    write_site(tmp_path / "site", trials=[(1, trial)])
    plain = {"index.html": 1, "papers/lamb.html": 0, "trials.html": 0, "trials/1.html": 0}  # scripts of our own
    for name, scripts in plain.items():
        page = Page(tmp_path / "site" / name)
        assert [tag for tag, _ in page.elements].count("script") == scripts, name
        assert not any(key.startswith("on") for _, attributes in page.elements for key in attributes), name
        assert EVIL in page.text, name
    feed = ElementTree.parse(tmp_path / "site" / "feed.xml")
    assert EVIL in [entry.findtext(f"{ATOM}summary") for entry in feed.iter(f"{ATOM}entry")]


def test_no_template_lets_text_through_unescaped():
    folders = [Path(assay.__file__).parent / part / "templates" for part in ("web", "trials")]
    sources = [path.read_text() for folder in folders for path in folder.glob("*.html")]
    assert len(sources) > 6
    assert not any(re.search(r"\|\s*safe\b|autoescape", source) for source in sources)
    assert not re.search("innerHTML|insertAdjacentHTML|document.write|eval", (folders[0] / "catalog.js").read_text())


def test_the_feed_is_atom_with_an_entry_for_each_arrival_and_each_evidence(site):
    feed = ElementTree.parse(site / "feed.xml").getroot()
    assert feed.tag == f"{ATOM}feed"
    assert all(feed.findtext(f"{ATOM}{tag}") for tag in ("title", "id", "updated", f"author/{ATOM}name"))
    news = feed.findall(f"{ATOM}entry")
    added = [card for card in papers() if card.added]
    assert len(news) == len(added) + sum(load_evidence(card.slug) is not None for card in papers())
    for entry in news:
        assert all(entry.findtext(f"{ATOM}{tag}") for tag in ("title", "id", "updated", "summary"))
        assert (site / entry.find(f"{ATOM}link").get("href")).is_file()
    dates = [datetime.fromisoformat(entry.findtext(f"{ATOM}updated")) for entry in news]
    assert all(date.tzinfo for date in dates)
    assert dates == sorted(dates, reverse=True)
    assert datetime.fromisoformat(feed.findtext(f"{ATOM}updated")) == dates[0]
    ids = [entry.findtext(f"{ATOM}id") for entry in news]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"urn:uuid:[0-9a-f-]{36}", name) for name in ids)


def test_evidence_made_anew_is_a_new_entry_and_the_others_stay(tmp_path, monkeypatch):
    def ids():
        write_site(tmp_path / "site")
        return {
            entry.findtext(f"{ATOM}id") for entry in ElementTree.parse(tmp_path / "site/feed.xml").iter(f"{ATOM}entry")
        }

    checked = [card for card in papers() if load_evidence(card.slug)][:2]
    monkeypatch.setattr(assay.web.catalog, "papers", lambda: checked)
    before, slug = ids(), checked[0].slug
    changed = load_evidence(slug) | {"created": "2030-01-01T00:00:00+00:00"}
    load = assay.claims.check.load_evidence
    monkeypatch.setattr("assay.papers.load_evidence", lambda name: changed if name == slug else load(name))
    after = ids()
    assert len(before - after) == len(after - before) == 1


def test_evidence_with_an_end_that_is_not_finite_is_shown(monkeypatch, tmp_path):
    found = load_evidence(next(card.slug for card in papers() if load_evidence(card.slug)))
    trial = make_result(seeds=1, levels=dict.fromkeys(found["claim"]["decides"][::-1], 0.9))
    words = json.loads(assay.trials.report.as_json(trial))
    found |= {"trial": words, "interval": ["-Infinity", "Infinity"], "verdict": "inconclusive"}
    monkeypatch.setattr(assay.web.catalog, "papers", lambda: [paper(found["slug"])])
    monkeypatch.setattr("assay.papers.load_evidence", lambda name: found)
    write_site(tmp_path / "site")
    for name in ("index.html", f"papers/{found['slug']}.html"):
        text = Page(tmp_path / "site" / name).text
        assert "none can be given" in text
        assert not re.search(r"\b(nan|inf)\b", text, re.IGNORECASE)


def test_checked_papers_come_first():
    order = [entry.status for entry in entries()]
    assert order == sorted(order, key=["checked", "implemented", "planned"].index)
