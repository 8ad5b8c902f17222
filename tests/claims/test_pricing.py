"""What claims and the papers' own runs cost, against closed forms and a real quick check."""

from functools import partial

import pytest
from torch import nn

from assay.claims.card import Claim, Scale
from assay.claims.check import Check, Pricing, price
from assay.claims.scale import price_scale
from assay.errors import AssayError
from assay.papers import paper, papers


@pytest.mark.parametrize("slug", ["multi-sample-dropout", "ghost-batchnorm"])
def test_a_priced_claim_has_the_runs_and_the_flops_of_the_check(slug, tmp_path):
    claim = paper(slug).claim
    found = price(Pricing(claim, quick=True, executor="serial"))
    result = claim.trial(Check(claim, quick=True, store=tmp_path / "store.db", executor="serial"))
    done = {(str(run.recipe), run.budget, run.seed): run.flops for arm in result.arms for run in arm.runs}
    assert found.runs == len(done)  # arms may share runs
    assert found.flops == pytest.approx(sum(done.values()), rel=0.05)


def test_pricing_a_claim_trains_nothing(monkeypatch):
    monkeypatch.setattr("assay.engine.Run.train", lambda self: pytest.fail("a run was trained"))
    assert price(Pricing(paper("cutmix").claim, quick=True, executor="serial")).flops > 0


def test_a_claim_that_is_no_trial_is_refused():
    claim = Claim("It is so", "digits", {}, "a", "higher", 0.0, 1, "1step", ("a", "b"), "", "", lambda check: None)
    with pytest.raises(AssayError, match="the claim 'It is so' is not one trial"):
        price(Pricing(claim))


def scale_of(slug: str, what: str) -> Scale:
    (found,) = [scale for scale in paper(slug).scales if what in scale.what]
    return found


def test_the_resnet_of_large_batches_costs_what_its_shapes_say():
    macs = 3 * 16 * 9 * 32 * 32
    first = macs
    for stage in range(3):
        width, side = 16 * 2**stage, 32 // 2**stage
        macs += 9 * width * width * side * side * 14
        if stage > 0:  # the first convolution of the stage has half the channels coming in
            macs -= 9 * width * (width // 2) * side * side
    macs += 64 * 10
    # backward is twice forward, but for the images, of which no gradient is taken
    assert price_scale(scale_of("ghost-batchnorm", "ResNet-44")).flops == 5_000_000 * 2 * (3 * macs - first)


def test_bert_large_costs_what_its_shapes_say():
    tokens, width, depth = 128, 1024, 24
    matrices = 12 * width * width  # query, key, value, out, up, down
    attention = 2 * tokens * width  # scores and mixing
    forward = 2 * tokens * depth * (matrices + attention)
    found = price_scale(scale_of("lamb", "sequences of 128"))
    assert found.flops / (0.9 * 15_625 * 32_768) == pytest.approx(3 * forward, rel=1e-3)
    assert found.memory > 3e8 * 4 * 2  # weights and gradients alone


def test_judging_costs_a_third_of_training_and_keeps_no_activations():
    def network() -> nn.Module:
        return nn.Sequential(*(nn.Linear(64, 64, bias=False) for _ in range(30)))

    trained, judged = (
        price_scale(Scale("s", 10, network, (64, 64), batch=1000, trains=trains)) for trains in (True, False)
    )
    forward = 10 * 2 * 30 * 64 * 64 * 64
    assert judged.flops == forward
    assert trained.flops == 3 * forward - forward / 30
    assert trained.memory > 5 * judged.memory


def test_training_batch_norm_alone_costs_less_than_training_all():
    from assay.models.resnet import cifar_resnet

    frozen = scale_of("bn-only", "ResNet-14,")
    whole = Scale("all", frozen.samples, partial(cifar_resnet, 14), frozen.sample, frozen.batch)
    assert 0.6 < price_scale(frozen).flops / price_scale(whole).flops < 0.7  # no weight gradients: 2 of 3


def test_a_published_figure_is_taken_as_it_is():
    assert price_scale(Scale("s", 3, flops=2.0)).flops == 6.0


def test_a_scale_is_counted_or_published():
    with pytest.raises(ValueError, match="either a network or a figure"):
        Scale("s", 3)


def test_every_scale_of_a_card_says_what_it_is():
    cards = [card for card in papers() if card.scales]
    assert len(cards) >= 6
    for card in cards:
        assert card.paper_scale
        assert all(scale.what and scale.samples > 0 and (scale.flops is None or scale.note) for scale in card.scales)
