"""Rankings are what a loop over queries finds; ties help nobody."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from assay.metrics.retrieval import retrieval, truncated_distance


def drawn(queries, gallery, dims=(5, 5), classes=3, seed=0, levels=None):
    generator = torch.Generator().manual_seed(seed)
    q, g = (
        torch.randn(n, d, generator=generator, dtype=torch.float64)
        for n, d in zip((queries, gallery), dims, strict=True)
    )
    if levels:  # few values make ties
        q, g = (t.mul(levels).round() for t in (q, g))
    labels = [torch.randint(classes, (n,), generator=generator) for n in (queries, gallery)]
    return q, g, *labels


@settings(max_examples=60, deadline=None)
@given(
    queries=st.integers(1, 7), gallery=st.integers(1, 12), dims=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    seed=st.integers(0, 1000), levels=st.sampled_from([None, 1]),
)  # fmt: skip
def test_it_is_what_scikit_learn_and_a_loop_find(queries, gallery, dims, seed, levels):
    q, g, yq, yg = drawn(queries, gallery, dims, seed=seed, levels=levels)
    if not (yq[:, None] == yg).any():
        with pytest.raises(ValueError, match="no query has a match"):
            retrieval(q, g, yq, yg)
        return
    found = retrieval(q, g, yq, yg, chunk=3)
    distance = truncated_distance(q, g).numpy()
    for i in range(queries):
        match = (yg == yq[i]).numpy()
        assert bool(found.matched[i]) == match.any()
        if match.any():
            wanted = average_precision_score(match, -distance[i])
            assert found.precision[i].item() == pytest.approx(wanted, rel=1e-12)
            nearest = distance[i][match].min()
            assert int(found.first[i]) == (distance[i] <= nearest).sum(), "ties rank as the last of them"
        else:
            assert (int(found.first[i]), float(found.precision[i])) == (0, 0.0)


def test_a_query_is_not_its_own_match():
    q, _, y, _ = drawn(12, 1)
    with_self = retrieval(q, 3 * q, y, y)
    without = retrieval(q, 3 * q, y, y, exclude_self=True)
    for i in range(12):
        rest = torch.arange(12) != i
        alone = retrieval(q[i : i + 1], 3 * q[rest], y[i : i + 1], y[rest])
        assert int(alone.first[0]) == int(without.first[i])
        assert float(alone.precision[0]) == pytest.approx(float(without.precision[i]))
    assert with_self.mean_average_precision > without.mean_average_precision


def test_perfect_embeddings_find_all():
    y = torch.arange(9) % 3
    found = retrieval(torch.eye(3)[y], torch.eye(3)[y], y, y, exclude_self=True)
    assert (found.cmc(1), found.mean_average_precision) == (found.cmc(1), 1.0)
    separate = torch.eye(3)[y] + 0.01 * torch.randn(9, 3, generator=torch.Generator().manual_seed(0))
    assert retrieval(separate, separate, y, y, exclude_self=True).cmc(1) == 1.0


def test_an_embedding_that_tells_nothing_apart_finds_nothing():
    y = torch.arange(10) % 2
    found = retrieval(torch.ones(10, 3), torch.ones(10, 3), y, y, exclude_self=True)
    assert found.cmc(1) == found.cmc(5) == 0.0
    assert found.mean_average_precision == pytest.approx(4 / 9), "the share of its class"


def test_queries_without_a_match_are_left_out_of_the_means():
    q, g, _, yg = drawn(3, 8)
    y = torch.tensor([0, 9, 1])
    found, without = retrieval(q, g, y, yg), retrieval(q[[0, 2]], g, y[[0, 2]], yg)
    assert found.matched.tolist() == [True, False, True]
    assert found.cmc(1) == without.cmc(1)
    assert found.mean_average_precision == without.mean_average_precision


def test_what_one_has_beyond_the_other_is_cut_off():
    q, g, _, _ = drawn(3, 4, dims=(7, 4))
    wanted = 1 - np.einsum("qd,gd->qg", q.numpy()[:, :4], g.numpy())
    np.testing.assert_allclose(truncated_distance(q, g).numpy(), wanted)
    assert truncated_distance(q.bfloat16(), g.bfloat16()).dtype == torch.float32


def test_a_query_s_length_changes_no_ranking():
    q, g, yq, yg = drawn(6, 9)
    lengths = torch.tensor([0.1, 2.0, 7.0, 1.0, 3.0, 0.5], dtype=torch.float64)[:, None]
    assert torch.equal(retrieval(q, g, yq, yg).first, retrieval(lengths * q, g, yq, yg).first)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"q": torch.ones(0, 2), "yq": torch.zeros(0, dtype=torch.int64)}, "queries and a gallery, got 0 and 3"),
        ({"q": torch.full((2, 2), float("nan"))}, "must be finite"),
        ({"exclude_self": True}, "as many queries as gallery rows, got 2 and 3"),
        ({"chunk": 0}, "chunk must be positive"),
    ],
)
def test_what_makes_no_sense_is_refused(change, says):
    given_ = {"q": torch.ones(2, 2), "yq": torch.tensor([0, 1])} | change
    with pytest.raises(ValueError, match=says):
        retrieval(given_.pop("q"), torch.ones(3, 2), given_.pop("yq"), torch.tensor([0, 1, 1]), **given_)


def test_reference_vectors(vectors):
    data = np.load(vectors / "bt2.npz", allow_pickle=False)
    q, g, y = (torch.from_numpy(data[name]) for name in ("query", "gallery", "ids"))
    np.testing.assert_allclose(truncated_distance(q, g).numpy(), data["dist"], rtol=0, atol=1e-9)
    found = retrieval(q, g, y, y, exclude_self=True)
    np.testing.assert_allclose([found.cmc(k) for k in range(1, 6)], data["cmc"], rtol=0, atol=1e-9)
    assert found.mean_average_precision == pytest.approx(float(data["mean_ap"]), abs=1e-9)
