"""The documentation as a site: built with warnings as errors and without a network, and looked at in a browser."""

import fcntl
import re
import subprocess
import sys
import threading
from html.parser import HTMLParser
from pathlib import Path

import pytest

from assay.papers import own_papers
from assay.web.serve import server
from tests.docs.blocks import PAGES, ROOT

DESK, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
LOOKED_AT = [
    "index",
    "verdicts",
    "papers/cutmix",
    "papers/index",
    "reference/nn/ghost_batch_norm",
    "reference/commands",
]
BUILD = """
import socket
def refuse(*_): raise OSError("the documentation is built without a network")
socket.socket.connect = socket.getaddrinfo = refuse
from mkdocs.__main__ import cli
cli()
"""


@pytest.fixture(scope="session")
def site(tmp_path_factory, worker_id) -> Path:
    """The site, built once however many workers the tests have."""
    common = tmp_path_factory.getbasetemp()
    out = (common if worker_id == "master" else common.parent) / "site"
    with out.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not out.exists():
            build = [sys.executable, "-c", BUILD, "build", "--strict", "--site-dir", str(out)]
            done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, timeout=600)
            assert done.returncode == 0, done.stderr
    return out


class Loads(HTMLParser):
    """What a page loads, as against what it links to."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.found += [
            value for name, value in attributes if tag != "a" and name in ("src", "href", "srcset") and value
        ]


def test_every_page_is_there_and_in_the_navigation(site):
    sections = "".join((site / f"{name}.html").read_text() for name in ("quickstart", "verdicts"))
    named = set(re.findall(r'<a href="([\w./-]+)\.html" class="md-nav__link', sections))
    assert {page.stem for page in PAGES[1:]} <= named | {"quickstart", "verdicts"}  # a page links to itself as "./"
    for card in own_papers():
        page = (site / "papers" / f"{card.slug}.html").read_text()
        for name in card.objects:
            assert re.search(rf'<a [^>]*href="../reference/[^>]*><code>{re.escape(name)}</code></a>', page), name
        assert (card.claim is None) == ("Repeat it" not in page)


def test_pages_load_nothing_from_elsewhere(site):
    pages = [page for page in site.rglob("*.html") if "catalog" not in page.parts]
    assert len(pages) > 150
    for page in pages:
        outside = [address for address in Loads(page.read_text()).found if "://" in address or address[:2] == "//"]
        assert not outside, page
    for sheet in site.rglob("*.css"):
        assert "url(http" not in sheet.read_text()


@pytest.mark.browser
@pytest.mark.parametrize("colours", ["light", "dark"])
@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_pages_fit_and_complain_of_nothing(browser, site, size, colours):
    context = browser.new_context(viewport=size, color_scheme=colours)
    page = context.new_page()
    said, asked = [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    for name in LOOKED_AT:
        page.goto((site / f"{name}.html").as_uri())
        page.wait_for_load_state("networkidle")
        assert page.locator("article h1").count() == 1, name
        assert page.evaluate("document.documentElement.scrollWidth") <= size["width"], name
        scheme = page.locator("body").get_attribute("data-md-color-scheme")
        assert scheme == {"light": "default", "dark": "slate"}[colours]
    context.close()
    assert said == []
    assert [address for address in asked if not address.startswith(site.as_uri())] == []


@pytest.mark.browser
def test_search_finds_a_paper_and_an_object(browser, site):
    with server(site) as pages:
        threading.Thread(target=pages.serve_forever, daemon=True).start()
        page = browser.new_page(viewport=DESK)
        for words, address in (("cutmix", "papers/cutmix.html"), ("to ghost batch norm", "ghost_batch_norm.html")):
            page.goto(f"http://127.0.0.1:{pages.server_port}/index.html")
            page.get_by_role("textbox", name="Search").fill(words)
            page.locator(f".md-search-result__link[href*='{address}']").first.wait_for()
        page.close()
        pages.shutdown()
