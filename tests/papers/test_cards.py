import json
import pkgutil
import re
import shlex
import subprocess
import sys
from math import isfinite
from pathlib import Path

import pytest

import assay.claims.check
from assay.claims.card import FAMILIES, Paper
from assay.engine import Run
from assay.errors import UnknownName
from assay.options import parse
from assay.papers import paper, papers, parse_arm, slugs, standing
from assay.papers.catalog import markdown_table
from assay.tasks import load

ROOT = Path(__file__).parents[2]
SHEETS = ROOT.parent / "shared" / "papers"


@pytest.fixture
def results(tmp_path, monkeypatch):
    """A folder of evidence, empty at first."""
    monkeypatch.setattr(assay.claims.check, "results_folder", lambda: tmp_path)
    return tmp_path


def card(**given) -> Paper:
    facts = {"slug": "lamb", "title": "T", "authors": (), "year": 2020, "venue": "V", "family": FAMILIES[0]}
    return Paper(**facts | {"summary": "S."} | given)


def test_every_paper_has_one_card_under_its_own_name():
    cards = papers()
    assert len(cards) == 74
    assert [card.slug for card in cards] == slugs()  # module names, which are sorted and differ from each other


@pytest.mark.parametrize("card", papers(), ids=lambda card: card.slug)
def test_facts_of_a_card_have_their_form(card):
    assert card.title
    assert card.venue
    assert card.summary.endswith(".")
    assert card.arxiv is None or re.fullmatch(r"\d{4}\.\d{4,5}", card.arxiv)
    assert card.code is None or re.fullmatch(r"[\w.-]+/[\w.-]+", card.code)
    assert all(name == name.strip() and name for name in card.authors)
    assert len(card.headline) <= 4
    for headline in card.headline:
        assert headline.figures
        assert all(isinstance(figure, int | float) and isfinite(figure) for figure in headline.figures.values())
    json.dumps(card.describe())


def test_no_two_cards_share_title_or_arxiv_id():
    cards = papers()
    titles = [card.title for card in cards]
    ids = [card.arxiv for card in cards if card.arxiv]
    assert len(set(titles)) == len(titles)
    assert len(set(ids)) == len(ids)


def test_a_card_of_no_known_family_is_refused():
    with pytest.raises(ValueError, match="family must be one of"):
        card(family="other")


def test_objects_and_methods_that_cards_name_exist():
    missing = []
    for found in papers():
        for name in [*found.objects, *filter(None, [found.method])]:
            try:
                pkgutil.resolve_name(name)
            except (ImportError, AttributeError) as error:
                missing.append(f"{found.slug}: {error}")
    assert missing == []


def test_listing_all_cards_does_not_import_torch():
    code = "import sys; from assay.papers import catalog; catalog.markdown_table(); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_cards_are_those_of_the_sheets():
    if not SHEETS.is_dir():
        pytest.skip(f"the sheets are not at {SHEETS}")
    assert slugs() == sorted(sheet.stem for sheet in SHEETS.glob("*.md") if sheet.stem != "README")


def test_a_paper_is_found_by_its_slug():
    assert paper("ghost-batchnorm").arxiv == "1705.08741"


def test_a_slug_that_is_none_gets_the_nearest():
    with pytest.raises(UnknownName, match="unknown paper 'cutmixx'; did you mean 'cutmix'"):
        paper("cutmixx")


def test_status_follows_objects_and_evidence(results):
    assert standing(card())[0] == "planned"
    assert standing(card(objects=("assay.optim.Lamb",)))[0] == "implemented"
    (results / "lamb.json").write_text('{"schema": 1, "verdict": "supported"}')
    assert standing(card())[0] == "checked"


def test_the_table_has_each_paper_once_and_the_verdict_of_what_was_checked(results):
    (results / "lamb.json").write_text('{"schema": 1, "verdict": "supported"}')
    rows = markdown_table().splitlines()
    assert len(rows) == 2 + len(FAMILIES) + len(papers())
    (row,) = [row for row in rows if "1904.00962" in row]
    assert row.startswith("| [lamb](https://arxiv.org/abs/1904.00962) | Large Batch Optimization")
    assert row.endswith("| checked: supported |")


def test_the_readme_shows_the_table():
    text = (ROOT / "README.md").read_text()
    shown = text.partition("<!-- papers -->\n")[2].partition("\n<!-- /papers -->")[0]
    assert shown == markdown_table(), "put the output of assay.papers.catalog.markdown_table() between the marks"


@pytest.mark.parametrize("card", [card for card in papers() if card.method], ids=lambda card: card.slug)
def test_the_example_of_a_card_is_a_trial_that_its_method_does_not_refuse(card):
    words = shlex.split(card.example)
    task, given = load(words[0]), dict(zip(words[1::2], words[2::2], strict=True))
    assert set(given) <= {"--with", "--set"}
    methods = parse_arm(given["--with"])
    assert [method.name for method in methods] == [card.slug]
    recipe = task.recipe.with_settings(parse(given.get("--set", ""))).with_methods(methods)
    run = Run(task, recipe, budget="1steps", evaluations=0, test=False)
    if task.name == "digits":  # needs no data from elsewhere
        assert run.train().status == "finished"


def test_a_caveat_is_about_evidence_that_is_there():
    for card in papers():
        assert not card.caveat or standing(card)[1] is not None, card.slug
