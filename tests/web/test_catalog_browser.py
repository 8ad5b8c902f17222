"""The catalog in a browser: found, sorted, read on a phone and by all, from the disk and from the server."""

import threading
from pathlib import Path
from typing import Any

import pytest

from assay.papers import papers, standing
from assay.web.catalog import write_site
from assay.web.serve import server
from tests.trials.make_result import make_result

pytestmark = pytest.mark.browser
DESK, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
EVIL = "<img src=x onerror=alert(1)>\"'"
LONG = "ghost-batchnorm:ghost_batch_size=16,scale_lr=false+multi-sample-dropout:num_samples=8"
CARDS = [(card, *standing(card)) for card in papers()]
CHECKED = next(card.slug for card, status, _ in CARDS if status == "checked")
PLANNED = next(card.slug for card, status, _ in CARDS if status == "planned")
PAGES = ["index", f"papers/{CHECKED}", f"papers/{PLANNED}", "trials", f"evidence/{CHECKED}", "trials/2"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The catalog with a plain trial and one of long and hostile names."""
    out = tmp_path_factory.mktemp("catalog") / "site"
    hostile = make_result(levels={"baseline": 0.93, LONG: 0.96, EVIL: 0.9}, question=EVIL)
    hostile.task = {"name": f"{EVIL}{LONG}", "settings": {}}
    write_site(out, trials=[(1, make_result()), (2, hostile)])
    return out


class Opened:
    """A page from the disk, with all it complained of and asked for."""

    def __init__(self, browser: Any, address: str, *, script: bool = True, **options: Any) -> None:
        self.page = browser.new_page(java_script_enabled=script, **({"viewport": DESK} | options))
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("dialog", lambda dialog: self.said.append(dialog.message))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(address)

    def slugs(self) -> list[str]:
        """The papers that are seen, in their order."""
        links = self.page.locator("tbody th a:visible").evaluate_all("found => found.map(a => a.getAttribute('href'))")
        return [Path(link).stem for link in links]

    def __enter__(self) -> "Opened":
        return self

    def __exit__(self, *_: object) -> None:
        self.page.close()


@pytest.fixture
def index(browser: Any, site: Path) -> Any:
    with Opened(browser, (site / "index.html").as_uri()) as opened:
        yield opened
        assert opened.said == []


@pytest.mark.parametrize("name", PAGES)
def test_pages_from_the_disk_ask_for_nothing_else_and_complain_of_nothing(browser: Any, site: Path, name: str) -> None:
    with Opened(browser, (site / f"{name}.html").as_uri()) as opened:
        opened.page.wait_for_load_state("networkidle")
        assert all(address.startswith(site.as_uri()) for address in opened.asked)
        assert opened.said == []
        assert opened.page.locator("main h1").count() == 1
        assert opened.page.locator("img").count() == 0


def test_search_finds_title_author_summary_and_object(index: Any) -> None:
    field = index.page.get_by_role("searchbox", name="Search")
    card = next(card for card, status, _ in CARDS if status == "checked")
    for text in (card.title, card.title.upper(), card.authors[0], card.summary[:40], card.objects[0], card.slug):
        field.fill(text)
        assert card.slug in index.slugs(), text
        assert len(index.slugs()) < len(CARDS) / 2, text


def test_all_words_of_a_search_must_fit(index: Any) -> None:
    field = index.page.get_by_role("searchbox", name="Search")
    found = {}
    for text in ("batch", "large", "large batch"):
        field.fill(text)
        found[text] = set(index.slugs())
    assert found["large batch"] == found["large"] & found["batch"]
    assert found["large batch"] < found["batch"]


@pytest.mark.parametrize("name", ["Family", "Status", "Verdict"])
def test_a_filter_leaves_the_papers_of_its_choice(index: Any, name: str) -> None:
    values = [
        {"Family": card.family, "Status": status, "Verdict": evidence["verdict"] if evidence else ""}[name]
        for card, status, evidence in CARDS
    ]
    for value in sorted(set(values) - {""}):
        index.page.get_by_label(name, exact=True).select_option(value)
        expected = {card.slug for (card, *_), own in zip(CARDS, values, strict=True) if own == value}
        assert set(index.slugs()) == expected, value
        assert index.page.get_by_role("status").inner_text() == f"{len(expected)} of {len(CARDS)} papers"
        option = index.page.locator(f"option[value='{value}']").inner_text()
        assert option == f"{value} ({len(expected)})"


def test_filters_and_search_hold_together_and_clear_undoes_them(index: Any) -> None:
    before = index.slugs()
    assert len(before) == len(CARDS)
    index.page.get_by_label("Status", exact=True).select_option("planned")
    index.page.get_by_role("searchbox").fill(CHECKED)
    assert index.slugs() == []
    assert index.page.get_by_text("No paper matches").is_visible()
    index.page.get_by_role("button", name="Clear").click()
    index.page.get_by_role("status").get_by_text(f"{len(CARDS)} papers", exact=True).wait_for()
    assert index.slugs() == before
    assert not index.page.get_by_text("No paper matches").is_visible()


def test_the_order_is_the_one_chosen(index: Any) -> None:
    facts = {card.slug: card for card, *_ in CARDS}
    before, order = index.slugs(), index.page.get_by_label("Order", exact=True)
    order.select_option("newest")
    years = [facts[slug].year for slug in index.slugs()]
    assert years == sorted(years, reverse=True)
    order.select_option("oldest")
    years = [facts[slug].year for slug in index.slugs()]
    assert years == sorted(years)
    order.select_option("family")
    families = [facts[slug].family for slug in index.slugs()]
    assert families == sorted(families)
    order.select_option("title")
    first = [facts[slug].title[0].lower() for slug in index.slugs()]
    assert first == sorted(first)
    order.select_option("")
    assert index.slugs() == before


def test_enter_in_the_search_field_changes_nothing(index: Any) -> None:
    index.page.get_by_role("searchbox").fill("dropout")
    found = index.slugs()
    index.page.get_by_role("searchbox").press("Enter")
    assert index.slugs() == found


def test_the_way_back_from_a_paper_leads_to_the_same_view(index: Any) -> None:
    index.page.get_by_role("searchbox").fill("batch")
    index.page.get_by_label("Order", exact=True).select_option("newest")
    found = index.slugs()
    index.page.locator("tbody th a:visible").first.click()
    index.page.wait_for_url("**/papers/*.html")
    index.page.go_back()
    assert index.page.get_by_role("searchbox").input_value() == "batch"
    assert index.slugs() == found


def test_an_address_with_a_choice_that_is_none_shows_all(browser: Any, site: Path) -> None:
    address = f"{(site / 'index.html').as_uri()}#status=lost&order=__proto__&x=%3Cimg%20src%3Dx%20onerror%3Dalert(1)%3E"
    with Opened(browser, address) as opened:
        assert len(opened.slugs()) == len(CARDS)
        assert opened.said == []


def test_a_reader_gets_from_the_catalog_to_a_report(index: Any) -> None:
    card, _, evidence = next(found for found in CARDS if found[0].slug == CHECKED)
    index.page.get_by_label("Status", exact=True).select_option("checked")
    index.page.get_by_role("link", name=card.title).click()
    assert index.page.locator(".badge").first.inner_text().lower() == evidence["verdict"]
    traced = {name for arm in evidence["trial"]["arms"] for run in arm["runs"] for name in run.get("series", ())}
    assert index.page.get_by_role("img").count() == 2 + len(traced)  # the plots of the evidence
    index.page.get_by_role("link", name="Report of the trial").click()
    assert index.page.get_by_role("heading", level=1).inner_text() == evidence["trial"]["question"]


def test_the_family_of_a_paper_leads_to_its_kin(browser: Any, site: Path) -> None:
    card = next(card for card, *_ in CARDS if card.slug == CHECKED)
    with Opened(browser, (site / "papers" / f"{CHECKED}.html").as_uri()) as opened:
        opened.page.get_by_role("link", name=card.family).click()
        assert set(opened.slugs()) == {other.slug for other, *_ in CARDS if other.family == card.family}


def test_without_script_all_papers_are_there_and_no_dead_controls(browser: Any, site: Path) -> None:
    with Opened(browser, (site / "index.html").as_uri(), script=False) as opened:
        assert len(opened.slugs()) == len(CARDS)
        assert not opened.page.locator("form").is_visible()


def test_a_phone_shows_the_whole_width_in_text_large_enough_to_read(browser: Any, site: Path) -> None:
    for name in PAGES:
        with Opened(browser, (site / f"{name}.html").as_uri(), viewport=PHONE) as opened:
            for width in (390, 320):
                opened.page.set_viewport_size(PHONE | {"width": width})
                assert opened.page.evaluate("document.documentElement.scrollWidth") <= width, (name, width)
            sizes = opened.page.evaluate(
                """[...document.querySelectorAll('body *')].filter(e => [...e.childNodes].some(
                    n => n.nodeType == 3 && n.textContent.trim())).map(e => parseFloat(getComputedStyle(e).fontSize))"""
            )
            assert min(sizes) >= 13, name


def violations(page: Any) -> list[str]:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    found = axe.Axe().run(page, options={"preload": False})  # it would fetch the style sheet, which pages forbid
    return [f"{rule['id']}: {[node['html'] for node in rule['nodes']]}" for rule in found.response["violations"]]


@pytest.mark.parametrize(("viewport", "scheme"), [(DESK, "light"), (PHONE, "dark")], ids=["desk", "phone"])
def test_axe_finds_no_fault(browser: Any, site: Path, viewport: dict[str, int], scheme: str) -> None:
    for name in PAGES:
        address = (site / f"{name}.html").as_uri()
        with Opened(browser, address, viewport=viewport, color_scheme=scheme) as opened:
            for summary in opened.page.locator("summary").all():
                summary.click()
            assert violations(opened.page) == [], name


def test_axe_would_find_faults(browser: Any, site: Path) -> None:
    with Opened(browser, (site / "index.html").as_uri()) as opened:
        opened.page.evaluate("document.querySelector('h1').style.color = '#ddd'")
        opened.page.evaluate("document.querySelector('.wide').replaceWith(document.createElement('select'))")
        found = [line.partition(":")[0] for line in violations(opened.page)]
    assert {"color-contrast", "select-name"} <= set(found)


def test_the_server_shows_the_same_without_complaint(browser: Any, site: Path) -> None:
    with server(site) as pages:
        thread = threading.Thread(target=pages.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            with Opened(browser, f"http://localhost:{pages.server_port}/") as opened:
                opened.page.get_by_label("Status", exact=True).select_option("checked")
                assert CHECKED in opened.slugs()
                opened.page.get_by_role("link", name="Trials").click()
                opened.page.get_by_role("link", name=EVIL).click()
                assert opened.page.get_by_role("heading", level=1).inner_text() == EVIL
                assert opened.said == []
        finally:
            pages.shutdown()
            thread.join()
