import io
import json
import math
from pathlib import Path

import jsonschema
import pytest
from rich.console import Console

from assay.claims.check import SCHEMA, load_evidence, save_evidence
from assay.cli.card import rendered
from assay.errors import AssayError
from assay.papers import paper, papers
from assay.trials.statistics import verdict

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "results").glob("*.json"))


@pytest.fixture(scope="module")
def schema() -> dict:
    return json.loads((ROOT / "docs" / "evidence.schema.json").read_text())


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_evidence_has_the_documented_form(path, schema):
    jsonschema.validate(json.loads(path.read_text()), schema)


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_evidence_is_of_the_claim_as_the_card_fixes_it(path):
    found = load_evidence(path.stem)
    assert found["slug"] == path.stem
    assert found["claim"] == json.loads(json.dumps(paper(path.stem).claim.describe()))
    trial = found["trial"]
    assert len(trial["seeds"]) == found["claim"]["seeds"]
    assert trial["budget"] == found["claim"]["budget"]
    assert trial["metric"]["name"] == found["claim"]["metric"]
    assert trial["smallest_effect"] == found["claim"]["smallest_effect"]
    assert {arm["name"] for arm in trial["arms"] if not arm["control"]} == set(found["claim"]["arms"])


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_the_verdict_follows_from_the_runs_in_the_file(path):
    found = load_evidence(path.stem)
    trial = found["trial"]
    name, baseline = found["claim"]["decides"]
    runs = {arm["name"]: arm["runs"] for arm in trial["arms"]}
    sign = 1 if trial["metric"]["goal"] == "max" else -1
    metric = trial["metric"]["name"]
    figures = {
        arm: [r["metrics"]["test"][metric] if r["status"] == "finished" else trial["metric"]["worst"] for r in rs]
        for arm, rs in runs.items()
    }
    differences = [sign * (a - b) for a, b in zip(figures[name], figures[baseline], strict=True)]
    assert found["estimate"] == pytest.approx(sum(differences) / len(differences))
    assert found["interval"][0] < found["estimate"] < found["interval"][1]
    assert found["verdict"] == verdict(*found["interval"], found["claim"]["smallest_effect"])
    assert (found["claim"]["direction"] == "higher") == (trial["metric"]["goal"] == "max")


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_every_arm_was_tuned_on_the_same_grid_and_never_on_the_test_split(path):
    found = load_evidence(path.stem)
    arms = [arm for arm in found["trial"]["arms"] if not arm["control"]]
    if found["claim"]["tuning"].startswith("none"):
        assert all(arm["tuned"] is None for arm in arms), "all or none"
        return
    alike: dict[frozenset[str], list[dict]] = {}
    for arm in arms:  # arms with the same settings to tune; one that has none of them has nothing to choose
        for trial in arm["tuned"]["trials"][:1]:
            alike.setdefault(frozenset(trial["settings"]), []).append(arm)
        assert {run["seed"] for run in arm["runs"]}.isdisjoint(arm["tuned"].get("seeds") or [arm["tuned"]["seed"]])
    assert alike
    for group in alike.values():
        tried = [{json.dumps(t["settings"]) for t in arm["tuned"]["trials"]} for arm in group]
        grid = set.intersection(*tried)
        assert len(grid) >= 3
        for arm, settings in zip(group, tried, strict=True):
            assert settings - grid <= {json.dumps(arm["tuned"]["trials"][0]["settings"])}, "beside the grid, its own"


def test_every_claim_names_arms_and_tasks_that_exist():
    for card in papers():
        if card.claim:
            assert set(card.claim.decides) <= set(card.claim.arms), card.slug
            assert card.objects, card.slug
            assert isinstance(card.claim.describe()["arms"], dict)


def test_a_quick_check_is_no_evidence():
    with pytest.raises(AssayError, match="quick"):
        save_evidence({"quick": True, "slug": "cutmix", "schema": SCHEMA})


def test_a_figure_that_is_not_finite_is_saved_as_a_word_and_shown(tmp_path, monkeypatch, schema):
    found = load_evidence(FILES[0].stem)
    monkeypatch.setattr("assay.claims.check.results_folder", lambda: tmp_path)
    path = save_evidence(found | {"interval": [-math.inf, math.inf]})
    assert json.loads(path.read_text())["interval"] == ["-Infinity", "Infinity"]
    jsonschema.validate(json.loads(path.read_text()), schema)
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(rendered(paper(found["slug"]), "checked", load_evidence(found["slug"])))
    assert "interval -inf to inf" in console.export_text()
    assert list(tmp_path.iterdir()) == [path]
