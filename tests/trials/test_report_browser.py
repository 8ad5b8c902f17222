"""The report in a browser: legible on a phone and a desk, in the light and the dark, without script or network."""

import re
from itertools import pairwise
from typing import Any

import pytest
from make_result import make_result

from assay.trials.report import write_report

pytestmark = pytest.mark.browser
DESK, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
LONG = "ghost-batchnorm:ghost_batch_size=16,scale_lr=false+multi-sample-dropout:num_samples=8"
LEVELS = {"baseline": 0.93, "label-smoothing": 0.96, "cutmix": 0.9, "lamb": 0.93, LONG: 0.931}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of a report with every verdict, diverged runs and a control arm."""
    result = make_result(levels=LEVELS, diverging={"lamb": [1, 3]}, control=LONG)
    for run in result.arms[-1].runs:
        run.series["batch size"] = [[0.0, 8.0], [20.0, 30.0 + run.seed], [60.0, 100.0]]
    return write_report(result, tmp_path_factory.mktemp("report") / "report.html")[0].as_uri()


def opened(browser: Any, address: str, **options: Any) -> Any:
    page = browser.new_page(java_script_enabled=options.pop("script", True), **options)
    page.goto(address)
    return page


def test_it_asks_nothing_of_the_network_and_has_no_complaints(browser: Any, report: str) -> None:
    page = browser.new_page(viewport=DESK)
    asked: list[str] = []
    said: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(report, wait_until="networkidle")
    assert asked == [report]
    assert said == []
    page.close()


@pytest.mark.parametrize("viewport", [DESK, PHONE, {"width": 320, "height": 640}], ids=["desk", "phone", "small phone"])
def test_nothing_is_wider_than_the_screen(browser: Any, report: str, viewport: dict[str, int]) -> None:
    page = opened(browser, report, viewport=viewport)
    for summary in page.locator("summary").all():
        summary.click()
    for choice in page.get_by_role("radio").all():
        choice.check()
        assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
    page.close()


def test_text_on_a_phone_is_large_enough_to_read(browser: Any, report: str) -> None:
    page = opened(browser, report, viewport=PHONE)
    sizes = page.evaluate(
        """[...document.querySelectorAll('main *')].filter(e => [...e.childNodes].some(
            n => n.nodeType == 3 && n.textContent.trim())).map(e => parseFloat(getComputedStyle(e).fontSize))"""
    )
    assert min(sizes) >= 13
    page.close()


def test_the_answer_is_there_without_script(browser: Any, report: str) -> None:
    page = opened(browser, report, viewport=PHONE, script=False)
    badges = page.locator(".badge").all_text_contents()
    assert {"Supported", "Refuted", "Inconclusive"} == set(badges)
    assert page.get_by_text("Test accuracy was").first.is_visible()
    assert page.get_by_role("img", name=re.compile("^Paired differences")).is_visible()
    page.close()


def test_what_was_traced_is_shown(browser: Any, report: str) -> None:
    page = opened(browser, report, viewport=DESK, script=False)
    (course,) = page.get_by_role("img", name=re.compile("^batch size against steps")).all()
    assert course.is_visible()
    assert "100 at the end" in course.get_attribute("aria-label")
    page.close()


def test_axis_and_view_are_the_ones_chosen_without_script(browser: Any, report: str) -> None:
    page = opened(browser, report, viewport=DESK, script=False)
    curves = page.get_by_role("img", name=re.compile("^validation accuracy"))
    for axis in ("epochs", "samples", "seconds of training", "FLOPs", "steps"):
        page.get_by_role("radio", name=axis, exact=True).check()
        assert curves.count() == 1  # what is hidden has no role
        assert f"against {axis}, whole run." in curves.get_attribute("aria-label")
    page.get_by_role("radio", name="second half").check()
    assert curves.count() == 1
    assert "against steps, second half." in curves.get_attribute("aria-label")
    page.close()


def test_every_plot_has_a_name_that_gives_its_figures(browser: Any, report: str) -> None:
    page = opened(browser, report, viewport=DESK)
    names = [plot.get_attribute("aria-label") for plot in page.get_by_role("img").all()]
    assert len(names) == 3
    curves = [name for name in names if not name.startswith("batch size")]  # which one arm alone has traced
    assert len(curves) == 2
    assert all(arm in name for arm in LEVELS for name in curves)
    page.close()


def test_labels_beside_the_curves_do_not_overlap(browser: Any, report: str) -> None:
    page = opened(browser, report, viewport=DESK)
    boxes = [label.bounding_box() for label in page.locator(".curves .legend li:visible").all()]
    assert len(boxes) == len(LEVELS) + 1
    for above, below in pairwise(boxes):
        assert above["y"] + above["height"] <= below["y"] + 0.5
    page.close()


CONTRAST = """
(selector) => [...document.querySelectorAll(selector)].filter(e => e.checkVisibility()).map(element => {
  const light = colour => {
    const [r, g, b] = colour.match(/[\\d.]+/g).slice(0, 3).map(c => c / 255)
      .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  let behind = element;
  while (getComputedStyle(behind).backgroundColor === 'rgba(0, 0, 0, 0)') behind = behind.parentElement;
  const [a, b] = [getComputedStyle(element).color, getComputedStyle(behind).backgroundColor].map(light);
  return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
})
"""


def test_text_stands_out_from_its_ground_in_both_schemes(browser: Any, report: str) -> None:
    page = opened(browser, report, viewport=DESK)
    grounds = set()
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        grounds.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        for selector in (".badge", ".legend li", "small", ".lede", ".ticks span", "p", "th"):
            ratios = page.evaluate(CONTRAST, selector)
            assert ratios, selector
            assert min(ratios) >= 4.5, (scheme, selector)
    assert len(grounds) == 2
    page.close()


def test_print_has_the_answer_and_the_tables_and_no_controls(browser: Any, report: str) -> None:
    page = opened(browser, report, viewport=DESK)
    page.emulate_media(media="print")
    assert not page.get_by_role("radio").first.is_visible()
    assert page.get_by_text("Test accuracy was").first.is_visible()
    assert page.locator("details table").first.evaluate("e => e.checkVisibility({contentVisibilityAuto: true})")
    assert page.pdf().startswith(b"%PDF")
    page.close()
