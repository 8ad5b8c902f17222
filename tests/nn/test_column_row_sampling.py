"""The estimator against the published vectors, exhaustive search, closed forms and the mean of many draws."""

import itertools
import math

import numpy as np
import pytest
import torch

from assay.nn.column_row_sampling import (
    Rows,
    best_winners,
    choose_rows,
    column_row_law,
    estimated_product,
    row_budget,
    take_rows,
)


def matrices(n=24, out=3, features=5, spread=1.0, seed=0):
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(n, features, generator=draw, dtype=torch.float64)
    g = torch.randn(n, out, generator=draw, dtype=torch.float64)
    scale = (spread * torch.randn(n, 1, generator=draw, dtype=torch.float64)).exp()
    return x * scale, g


def uniforms(*shape, seed=1):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def estimates(x, g, p, k, draws, estimator="wta", seed=1):
    """[draws, out, features]: as many independent estimates of G^T X."""
    rows = choose_rows(p.expand(draws, -1), uniforms(draws, k, seed=seed), estimator)
    x, g = x.expand(draws, *x.shape), g.expand(draws, *g.shape)
    return estimated_product(g, take_rows(x, rows.which), rows)


def law(x, g):
    return column_row_law(x, g.norm(dim=1), floor=0.0)


def winners_by_search(p, k):
    """The |C| of least (1 - P_C) / (k - |C|), one after another; all k where nothing is left to draw."""
    ranked = sorted(p.tolist(), reverse=True)
    scores = [(1 - sum(ranked[:c])) / (k - c) for c in range(k)]
    return k if sum(ranked[:k]) > 1 - 1e-12 else scores.index(min(scores))


def squared_error(x, g, p, k, winners):
    """E |estimate - G^T X|^2 in closed form."""
    order = p.argsort(descending=True)
    left = order[winners:]
    x, g, p, rest = x[left], g[left], p[left], 1 - p[order[:winners]].sum()
    inner = (x.norm(dim=1) * g.norm(dim=1)).square() / p
    return (rest * inner.sum() - (g.T @ x).square().sum()) / (k - winners)


@pytest.mark.parametrize("case", ["c0", "c1", "c2"])
def test_reference_vectors(vectors, case):
    data = np.load(vectors / "wta-crs.npz", allow_pickle=False)

    def get(name):
        return torch.from_numpy(data[f"{case}_{name}"])

    x = get("x").flatten(0, 1)
    g, p, sto = get("grad_out").flatten(0, 1), get("prob"), get("sto_idx")
    n, k, winners, draws = get("k").tolist()
    ratio, least = get("cfg").tolist()
    total = (x.norm(dim=1) * get("norms").flatten()).sum()
    plain = (p * (total + 1e-8) - 1e-8) / total  # the authors add 1e-8 to each term and to their sum
    torch.testing.assert_close(column_row_law(x, get("norms").flatten(), floor=0.0), plain, rtol=0, atol=1e-10)
    assert row_budget(n, ratio, int(least)) == k
    # numbers that, drawn by, give the rows that were drawn there
    order = p.argsort(descending=True)
    rest = p.scatter(0, order[:winners], 0.0)
    before = rest.cumsum(0) - rest
    u = torch.zeros(k, dtype=torch.float64)
    u[winners:] = (before[sto] + p[sto] / 2) / rest.sum()
    rows = choose_rows(p, u)
    assert rows.which[winners:].tolist() == sto.tolist()
    scaled = x[sto] * rows.weight[winners:, None]
    torch.testing.assert_close(scaled, get("sto_rows_scaled"), rtol=0, atol=1e-10)
    if winners:
        assert rows.which[:winners].sort().values.tolist() == get("det_idx").tolist()
        assert torch.equal(rows.weight[:winners], torch.ones(winners, dtype=torch.float64))
    got = estimated_product(g, take_rows(x, rows.which), rows)
    torch.testing.assert_close(got, get("grad_w"), rtol=0, atol=1e-10)
    error, _ = get("mc_mse").tolist()
    assert draws == k - winners
    assert squared_error(x, g, p, k, winners).item() == pytest.approx(error, rel=0.02)  # of a mean over 4000 draws


@pytest.mark.parametrize("spread", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("k", [1, 2, 7, 23, 24])
def test_the_number_of_winners_is_the_best_by_search(spread, k):
    p = law(*matrices(spread=spread))
    assert best_winners(p.topk(k).values).item() == winners_by_search(p, k)


@pytest.mark.parametrize("estimator", ["wta", "crs"])
@pytest.mark.parametrize("spread", [0.3, 1.5])
@pytest.mark.parametrize("known", ["norms", "nothing", "others"])
def test_the_mean_of_many_estimates_is_the_product(estimator, spread, known):
    x, g = matrices(spread=spread)
    norms = {"norms": g.norm(dim=1), "nothing": None, "others": g.norm(dim=1).flip(0)}[known]
    got = estimates(x, g, column_row_law(x, norms), 8, 20_000, estimator)
    error = got.std(0) / len(got) ** 0.5
    assert ((got.mean(0) - g.T @ x).abs() < 4.5 * error + 1e-12).all()  # 15 entries


def test_the_top_k_alone_are_biased_and_their_weights_one():
    x, g = matrices()
    p = law(x, g)
    got = estimates(x, g, p, 8, 3, "topk")
    top = p.topk(8).indices
    torch.testing.assert_close(got, (g[top].T @ x[top]).expand(3, -1, -1))
    assert (got[0] - g.T @ x).norm() > 0.05 * (g.T @ x).norm()


@pytest.mark.parametrize("estimator", ["wta", "crs"])
@pytest.mark.parametrize("spread", [0.5, 1.0, 2.0])
def test_the_squared_error_is_that_of_the_formula(estimator, spread):
    x, g = matrices(spread=spread)
    p, k = law(x, g), 8
    winners = winners_by_search(p, k) if estimator == "wta" else 0
    errors = (estimates(x, g, p, k, 20_000, estimator) - g.T @ x).square().sum((1, 2))
    spread_of_mean = errors.std().item() / len(errors) ** 0.5
    assert errors.mean().item() == pytest.approx(squared_error(x, g, p, k, winners).item(), abs=4.5 * spread_of_mean)


def test_winners_lower_the_error_where_norms_differ_much():
    """The figures of 512 rows with norms exp(2 N(0, 1)), as a share of the squared norm of the product."""
    draw = torch.Generator().manual_seed(0)

    def lognormal(d):
        size = (2 * torch.randn(512, 1, generator=draw, dtype=torch.float64)).exp()
        return size * torch.randn(512, d, generator=draw, dtype=torch.float64)

    x, g = lognormal(64), lognormal(32)
    p, k = law(x, g), 51
    winners = winners_by_search(p, k)
    wta, crs = (squared_error(x, g, p, k, c) / (g.T @ x).square().sum() for c in (winners, 0))
    assert wta < crs / 2


def test_the_estimate_is_exact_where_the_budget_holds_every_row_that_counts():
    x, g = matrices()
    torch.testing.assert_close(estimates(x, g, law(x, g), 24, 2), (g.T @ x).expand(2, -1, -1))
    x[5:] = 0
    torch.testing.assert_close(estimates(x, g, law(x, g), 5, 2), (g.T @ x).expand(2, -1, -1))


def test_rows_of_zeros_are_never_drawn_and_nothing_but_zeros_gives_zeros():
    x, g = matrices()
    x[::2] = 0
    rows = choose_rows(law(x, g).expand(500, -1), uniforms(500, 6))
    assert (rows.which % 2 == 1).all()
    got = estimates(0 * x, g, law(0 * x, g), 6, 2)
    assert torch.equal(got, torch.zeros_like(got))


@pytest.mark.parametrize("unknown", [torch.nan, torch.inf])  # as after a scaled backward that overflowed
def test_the_law_is_the_definition_a_row_at_a_time(unknown):
    x, g = matrices(n=6)
    s = g.norm(dim=1)
    s[2], s[4] = unknown, 0.0
    known = [v for v in s.tolist() if math.isfinite(v)]
    mean = sum(known) / len(known)
    each = [
        sum(v * v for v in row) ** 0.5 * ((norm if math.isfinite(norm) else mean) + 1e-3 * mean)
        for row, norm in zip(x.tolist(), s.tolist(), strict=True)
    ]
    expected = torch.tensor(each, dtype=torch.float64) / sum(each)
    torch.testing.assert_close(column_row_law(x, s), expected)


@pytest.mark.parametrize("norms", [torch.nan, torch.inf, 0.0])
def test_rows_go_by_their_own_norms_where_no_gradient_is_known(norms):
    x, _ = matrices()
    own = x.norm(dim=1) / x.norm(dim=1).sum()
    torch.testing.assert_close(column_row_law(x), own)
    torch.testing.assert_close(column_row_law(x, torch.full((24,), norms)), own)


def test_the_law_does_not_depend_on_the_scale_of_the_gradients():
    x, g = matrices()
    s = g.norm(dim=1)
    torch.testing.assert_close(column_row_law(x, 1e-9 * s), column_row_law(x, s))


def test_each_matrix_of_a_batch_is_treated_by_itself():
    pairs = [matrices(spread=spread, seed=i) for i, spread in enumerate((0.0, 2.0))]
    x, g = (torch.stack(parts) for parts in zip(*pairs, strict=True))
    u = uniforms(2, 8)
    rows = choose_rows(column_row_law(x, g.norm(dim=-1)), u)
    got = estimated_product(g, take_rows(x, rows.which), rows)
    counts = set()
    for i, (a, b) in enumerate(pairs):
        own = choose_rows(column_row_law(a, b.norm(dim=1)), u[i])
        counts.add(int((own.weight == 1).sum()))
        assert torch.equal(rows.which[i], own.which)
        loop = sum(w * torch.outer(b[j], a[j]) for j, w in zip(own.which.tolist(), own.weight, strict=True))
        torch.testing.assert_close(got[i], loop)
    assert len(counts) == 2


@pytest.mark.parametrize("n", [1, 5, 10, 11, 33, 34, 1000])
@pytest.mark.parametrize(("ratio", "least"), [(0.3, 10), (0.1, 1), (1.0, 1)])
def test_the_budget_is_the_share_within_its_bounds(n, ratio, least):
    k = row_budget(n, ratio, least)
    assert min(least, n) <= k <= n
    assert k in (int(ratio * n), least, n)


def test_what_cannot_be_chosen_is_refused():
    p = law(*matrices())
    with pytest.raises(ValueError, match="at most one number a row, got 25 for 24"):
        choose_rows(p, uniforms(25))
    with pytest.raises((ValueError, TypeError), match="estimator"):  # TypeError where the tests check types
        choose_rows(p, uniforms(3), "best")


def test_a_given_set_of_rows_gives_the_sum_of_its_terms():
    x, g = matrices(n=4)
    for chosen in itertools.product(range(4), repeat=2):
        rows = Rows(torch.tensor(chosen), torch.tensor([1.0, 2.5], dtype=torch.float64))
        loop = torch.outer(g[chosen[0]], x[chosen[0]]) + 2.5 * torch.outer(g[chosen[1]], x[chosen[1]])
        torch.testing.assert_close(estimated_product(g, take_rows(x, rows.which), rows), loop)
