import pytest

from assay.claims.check import Check, evidence_from
from assay.papers import papers

CARDS = [card for card in papers() if card.claim]


@pytest.mark.parametrize("card", CARDS, ids=[card.slug for card in CARDS])
def test_a_quick_check_runs_every_arm_of_the_claim(card, tmp_path):
    how = Check(card.claim, quick=True, store=tmp_path / "store.db", executor="serial")
    result = card.claim.trial(how)
    assert {arm.name for arm in result.arms if not arm.control} == set(card.claim.arms)
    assert result.arms[0].name == next(iter(card.claim.arms))
    assert all(len(arm.runs) == 2 and run.steps > 0 for arm in result.arms for run in arm.runs)
    evidence = evidence_from(card, how, result)
    assert evidence["quick"]
    assert evidence["claim"] == card.claim.describe()
