import numpy as np
import pytest
import torch

from assay.metrics.representation import linear_probe_classes, nearest_neighbour_classes


def draw(samples, dim=6, seed=0):
    return torch.randn(samples, dim, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("k", [1, 5, 300])
def test_neighbours_vote_with_the_weight_of_their_similarity(k):
    bank, queries, labels = draw(40), draw(7, seed=1), torch.arange(40) % 4
    found = nearest_neighbour_classes(queries, bank, labels, k=k, temperature=0.3)
    unit = [t.numpy().astype(np.float64) / t.norm(dim=1, keepdim=True).numpy() for t in (queries, bank)]
    for i, q in enumerate(unit[0]):
        s = unit[1] @ q
        votes = np.zeros(4)
        for j in np.argsort(-s)[:k]:
            votes[labels[j]] += np.exp(s[j] / 0.3)
        assert found[i] == votes.argmax()


def test_every_query_finds_itself_in_the_bank_however_low_the_temperature():
    bank, labels = draw(30), torch.arange(30)
    assert torch.equal(nearest_neighbour_classes(3 * bank, bank, labels, k=30, temperature=1e-3), labels)


def test_the_probe_learns_what_is_linear_and_not_what_is_not():
    x = draw(600, 2)
    linear, curved = (x[:, 0] > 0).long(), (x[:, 0] * x[:, 1] > 0).long()
    for y, low, high in ((linear, 0.97, 1.0), (curved, 0.3, 0.65)):
        right = (linear_probe_classes(x[400:], x[:400], y[:400]) == y[400:]).float().mean()
        assert low <= right <= high


def test_the_probe_s_scale_of_features_does_not_matter():
    x, y = draw(200), torch.arange(200) % 3
    found = linear_probe_classes(x[100:], x[:100], y[:100])
    scaled = linear_probe_classes(1e4 * x[100:] + 7, 1e4 * x[:100] + 7, y[:100])
    assert (found == scaled).float().mean() > 0.97  # rounding apart


def test_what_makes_no_sense_is_refused():
    labels = torch.zeros(4, dtype=torch.int64)
    with pytest.raises(ValueError, match="bank must hold embeddings with a label each, got 0 and 0 labels"):
        nearest_neighbour_classes(draw(2), draw(0), labels[:0])
    if not hasattr(nearest_neighbour_classes, "__wrapped__"):
        with pytest.raises(ValueError, match="got 3 and 4 labels"):
            nearest_neighbour_classes(draw(2), draw(3), labels)
    with pytest.raises(ValueError, match="k and temperature must be positive, got 0"):
        nearest_neighbour_classes(draw(2), draw(4), labels, k=0)
    with pytest.raises(ValueError, match="two classes at least, got 1"):
        linear_probe_classes(draw(2), draw(4), labels)
