"""The losses of BT^2 and of backward-compatible training, term by term."""

import math

import pytest
import torch
from torch.nn.functional import cross_entropy, normalize

from assay.losses.backward_compatible import BCTLoss, BT2Loss, pseudo_classifier
from assay.nn.basis_transformation import BT2Output


def case(seed=0, batch=5, old=4, new=6, classes=3, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=dtype)

    output = BT2Output(draw(batch, classes), draw(batch, old), normalize(draw(batch, new), dim=1), draw(batch, new + 2))
    labels = torch.randint(classes, (batch,), generator=generator)
    return output, labels, normalize(draw(batch, old), dim=1), normalize(draw(batch, new), dim=1), draw(classes, old)


def naive(output, labels, old, new, means, weights, scale):
    """By loops over samples, in Python's own numbers."""
    total = 0.0
    for i, y in enumerate(labels.tolist()):
        u = [float(a) / math.sqrt(sum(float(b) ** 2 for b in output.compatible[i])) for a in output.compatible[i]]
        for weight, logits in (
            (1.0, [scale * float(a) for a in output.logits[i]]),
            (weights[1], [scale * sum(a * float(m) for a, m in zip(u, row, strict=True)) for row in means]),
        ):
            total += weight * (math.log(sum(math.exp(a) for a in logits)) - logits[y])
        total += weights[2] * (1 - sum(a * float(b) for a, b in zip(u, old[i], strict=True)))
        total += weights[0] * (1 - float((new[i] * output.feature[i]).sum()))
    return total / len(labels)


@pytest.mark.parametrize("scale", [1.0, 8.0])
def test_it_is_the_sum_of_its_four_terms(scale):
    output, labels, old, new, means = case()
    loss = BT2Loss(means, lambda_new=0.7, lambda_influence=3.0, lambda_old=2.0, logit_scale=scale)
    wanted = naive(output, labels, old, new, means, (0.7, 3.0, 2.0), scale)
    assert loss(output, labels, old, new).item() == pytest.approx(wanted, rel=1e-12)


def test_without_weights_it_is_the_cross_entropy():
    output, labels, old, new, means = case()
    loss = BT2Loss(means, lambda_new=0, lambda_influence=0, lambda_old=0)
    torch.testing.assert_close(loss(output, labels, old, new), cross_entropy(output.logits, labels))
    torch.testing.assert_close(
        BCTLoss(means, alpha=0)(output.logits, output.embedding, labels), cross_entropy(output.logits, labels)
    )


def test_bct_takes_the_first_coordinates_as_they_are():
    output, labels, old, _, means = case()
    part = output.embedding[:, :4]
    wanted = cross_entropy(output.logits, labels) + 3 * cross_entropy(part @ means.T, labels)
    torch.testing.assert_close(BCTLoss(means, alpha=3)(output.logits, output.embedding, labels), wanted)
    pulled = BCTLoss(means, alpha=3, lambda_old=2)(output.logits, output.embedding, labels, old)
    cosine = torch.nn.functional.cosine_similarity(part, old).mean()
    torch.testing.assert_close(pulled, wanted + 2 * (1 - cosine))


def test_gradients_are_right_and_none_reach_the_frozen_models():
    output, labels, old, new, means = case()
    loss = BT2Loss(means)
    inputs = [t.clone().requires_grad_() for t in output[:3]]
    assert torch.autograd.gradcheck(lambda *o: loss(BT2Output(*o, output.embedding), labels, old, new), inputs)
    assert not list(loss.parameters())
    assert "pseudo_classifier" in loss.state_dict()


def test_huge_logits_and_parts_leave_it_finite():
    output, labels, old, new, means = case(dtype=torch.float32)
    for factor in (1e4, 0.0):
        scaled = BT2Output(*(factor * part for part in output))
        assert BT2Loss(means)(scaled, labels, old, new).isfinite()
        assert BCTLoss(means)(scaled.logits, scaled.embedding, labels).isfinite()


def test_the_pseudo_classifier_is_the_mean_of_each_class():
    generator = torch.Generator().manual_seed(0)
    features, labels = torch.randn(9, 4, generator=generator, dtype=torch.float64), torch.arange(9) % 3
    found = pseudo_classifier(features, labels, 3)
    for c in range(3):
        torch.testing.assert_close(found[c], features[c::3].mean(0))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: pseudo_classifier(torch.ones(2, 3), torch.tensor([0, 2]), 3), "class 1 has no sample"),
        (lambda: pseudo_classifier(torch.ones(2, 3), torch.tensor([0, 2]), 2), "labels must lie in 0..1, got 0 to 2"),
        (lambda: pseudo_classifier(torch.ones(0, 3), torch.zeros(0, dtype=torch.int64), 2), "class 0 has no sample"),
        (lambda: BT2Loss(torch.ones(2, 3), lambda_old=-1.0), "lambda_old must be at least 0, got -1"),
        (lambda: BT2Loss(torch.ones(2, 3), logit_scale=0.0), "logit_scale must be positive"),
        (lambda: BCTLoss(torch.ones(2, 3), alpha=-1.0), "alpha must be at least 0"),
        (
            lambda: BCTLoss(torch.ones(2, 3))(torch.ones(1, 2), torch.ones(1, 2), torch.tensor([0])),
            "at least the old one's 3 dimensions, got 2",
        ),
        (
            lambda: BCTLoss(torch.ones(2, 3), lambda_old=1.0)(torch.ones(1, 2), torch.ones(1, 3), torch.tensor([0])),
            "old_features must be given",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(make, says):
    with pytest.raises(ValueError, match=says):
        make()
