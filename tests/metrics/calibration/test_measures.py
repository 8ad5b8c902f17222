"""Every measure against a loop in float64, closed forms, limits, and what a user may get wrong."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.metrics.calibration.bins import (
    classwise_calibration_error,
    expected_calibration_error,
    ks_calibration_error,
    max_calibration_error,
)
from assay.metrics.calibration.kde import dirichlet_calibration_error, kde_calibration_error, likeliest_bandwidth
from assay.metrics.calibration.mmce import mmce
from assay.metrics.calibration.report import BINS, calibration_report
from assay.metrics.calibration.scores import (
    brier_score,
    harmonic_calibration_score,
    negative_log_likelihood,
    ood_auroc,
)

MEASURES = {
    "ece": expected_calibration_error,
    "ece_em": lambda z, y, **k: expected_calibration_error(z, y, binning="quantile", **k),
    "ece_l2": lambda z, y, **k: expected_calibration_error(z, y, norm="l2", **k),
    "mce": max_calibration_error,
    "cwce": classwise_calibration_error,
    "cwce_em": lambda z, y, **k: classwise_calibration_error(z, y, binning="quantile", **k),
    "ksce": ks_calibration_error,
    "kdece": kde_calibration_error,
    "mmce": mmce,
    "mmce_w": lambda z, y, **k: mmce(z, y, weighted=True, **k),
    "nll": negative_log_likelihood,
    "brier": brier_score,
}
PAIRWISE = {
    form: lambda z, y, form=form, **k: dirichlet_calibration_error(z, y, form=form, bandwidth=0.05, **k)
    for form in ("top_label", "marginal", "canonical")
}
ALL = MEASURES | PAIRWISE


LITERAL = ("binning must", "norm must", "form must")


def draw(n=200, classes=4, seed=0, scale=2.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(n, classes, generator=generator, dtype=torch.float64) * scale
    y = torch.multinomial((z / 1.7).softmax(1), 1, generator=generator)[:, 0]
    return z.to(dtype), y


# Loops in float64 -------------------------------------------------------------------------------------------------


def softmax(z):
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def loop_bins(c, a, n_bins, binning, norm, open_lowest):
    """Of lists c and a, one example at a time, bins (l, u], the lowest closed unless told otherwise."""
    n, ordered = len(c), sorted(c)
    if binning == "uniform":
        edges = [b / n_bins for b in range(n_bins + 1)]
    else:
        edges = []
        for b in range(n_bins + 1):
            whole, rest = divmod(b * n, n_bins)
            low, high = ordered[min(whole, n - 1)], ordered[min(whole + 1, n - 1)]
            edges.append(low + (high - low) * rest / n_bins)
    bins = [[] for _ in range(n_bins)]
    for ci, ai in zip(c, a, strict=True):
        for b in range(n_bins):
            lowest = b == 0 and not open_lowest and ci <= edges[0]
            if lowest or edges[b] < ci <= edges[b + 1]:
                bins[b].append((ci, ai))
                break
    gaps = [(len(b), abs(sum(a for _, a in b) - sum(c for c, _ in b)) / len(b)) for b in bins if b]
    if norm == "max":
        return max((gap for _, gap in gaps), default=0.0)
    power = {"l1": 1, "l2": 2}[norm]
    return sum(m / n * gap**power for m, gap in gaps) ** (1 / power)


def top(z, y):
    p = softmax(z.double().numpy())
    return p.max(1).tolist(), (p.argmax(1) == y.numpy()).astype(float).tolist(), p


@pytest.mark.parametrize("binning", ["uniform", "quantile"])
@pytest.mark.parametrize("norm", ["l1", "l2", "max"])
@pytest.mark.parametrize("open_lowest", [False, True])
@pytest.mark.parametrize("n_bins", [1, 7, 15, 300])
def test_bins_equal_a_loop_over_examples(binning, norm, open_lowest, n_bins):
    z, y = draw(97)
    c, a, p = top(z, y)
    options = {"binning": binning, "norm": norm, "open_lowest": open_lowest}
    want = loop_bins(c, a, n_bins, **options)
    assert float(expected_calibration_error(z, y, n_bins, **options)) == pytest.approx(want, abs=1e-12)
    each = [loop_bins(p[:, k].tolist(), (y == k).double().tolist(), n_bins, **options) for k in range(4)]
    found = classwise_calibration_error(z, y, n_bins, **options)
    assert float(found) == pytest.approx(sum(each) / 4, abs=1e-12)


def test_ks_equals_a_loop_over_sorted_examples():
    z, y = draw()
    c, a, _ = top(z, y)
    total, worst = 0.0, 0.0
    for ci, ai in sorted(zip(c, a, strict=True)):
        total += ci - ai
        worst = max(worst, abs(total))
    assert float(ks_calibration_error(z, y)) == pytest.approx(worst / len(c), abs=1e-12)


def test_ks_of_two_groups_by_hand():
    # three of confidence 0.6, one correct (+0.8); then two of 0.9, both correct (-0.2): the sums are 0.8 and 0.6
    p = torch.tensor([[0.6, 0.4]] * 3 + [[0.9, 0.1]] * 2, dtype=torch.float64)
    y = torch.tensor([0, 1, 1, 0, 0])
    assert float(ks_calibration_error(p, y, probabilities=True)) == pytest.approx(0.8 / 5)
    p, y = p[[2, 1, 0, 4, 3]], y[[2, 1, 0, 4, 3]]
    assert float(ks_calibration_error(p, y, probabilities=True)) == pytest.approx(0.16)


@pytest.mark.parametrize("width", [0.4, 0.02, 3.0])
def test_mmce_by_a_sort_equals_all_pairs(width):
    z, y = draw(60)
    c, a, _ = top(z, y)
    right = sum(a)
    plain = [(ai - ci) / len(c) for ci, ai in zip(c, a, strict=True)]
    weighted = [(1 - ci) / right if ai else -ci / (len(c) - right) for ci, ai in zip(c, a, strict=True)]
    for u, asked in ((plain, False), (weighted, True)):
        want = sum(u[i] * u[j] * math.exp(-abs(c[i] - c[j]) / width) for i in range(len(c)) for j in range(len(c)))
        squared = mmce(z, y, width=width, weighted=asked, root=False)
        assert float(squared) == pytest.approx(want, rel=1e-10)
        assert float(mmce(z, y, width=width, weighted=asked)) == pytest.approx(math.sqrt(want), rel=1e-10)


def test_weighted_mmce_of_one_kind_alone_is_zero():
    z = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    assert float(mmce(z, torch.tensor([0, 1]), weighted=True)) == 0
    assert float(mmce(z, torch.tensor([1, 0]), weighted=True)) == 0


def test_scores_equal_their_sums():
    z, y = draw(50)
    p = softmax(z.numpy())
    hot = np.eye(4)[y.numpy()]
    assert float(brier_score(z, y)) == pytest.approx(((p - hot) ** 2).sum(1).mean(), rel=1e-12)
    assert float(negative_log_likelihood(z, y)) == pytest.approx(-np.log((p * hot).sum(1)).mean(), rel=1e-12)


@pytest.mark.parametrize("form", ["top_label", "marginal", "canonical"])
@pytest.mark.parametrize("power", [1.0, 2.0])
def test_dirichlet_kernels_equal_scipys_densities(form, power):
    from scipy.stats import beta, dirichlet

    z, y = draw(25, 3)
    c, a, p = top(z, y)
    h = 0.1
    if form == "canonical":
        total = 0.0
        for i in range(25):
            k = np.array([dirichlet.pdf(p[i] / p[i].sum(), p[j] / h + 1) if j != i else 0.0 for j in range(25)])
            estimate = k @ np.eye(3)[y.numpy()] / max(k.sum(), 1e-10)
            total += (np.abs(estimate - p[i]) ** power).sum() / 25
    else:
        series = [(c, a)] if form == "top_label" else [(p[:, k], (y == k).double().numpy()) for k in range(3)]
        total = 0.0
        for x, hit in series:
            x, hit = np.array(x), np.array(hit)
            for i in range(25):
                k = beta.pdf(x[i], x / h + 1, (1 - x) / h + 1)
                k[i] = 0
                total += abs(k @ hit / k.sum() - x[i]) ** power / 25
    found = dirichlet_calibration_error(z, y, form=form, bandwidth=h, p=power)
    assert float(found) == pytest.approx(total, rel=1e-9)


def test_kde_equals_kernels_summed_one_by_one():
    z, y = draw(80)
    c, a, _ = (np.array(v) for v in top(z, y))
    bandwidth = c[a == 1].std() * (2 * 80) ** -0.2
    x = np.linspace(0, 1, 4001)

    def density(points):
        points = np.concatenate([points, np.where(points < 0.5, -points, 2 - points)])
        u = (x[:, None] - points) / (3 * bandwidth)
        return 2 * (35 / 32 * np.clip(1 - u**2, 0, None) ** 3 / (3 * bandwidth)).mean(1)

    everyone, correct = density(c), density(c[a == 1])
    estimate = np.minimum(a.mean() * correct / np.maximum(everyone, 1e-12), 1)
    want = np.trapezoid(np.abs(x - estimate) * everyone, x) / np.trapezoid(everyone, x)
    assert float(kde_calibration_error(z, y)) == pytest.approx(want, abs=1e-4)  # a step of the grid is 1.3e-4


def test_the_likeliest_bandwidth_is_no_end_of_what_is_tried():
    h = likeliest_bandwidth(*draw(300))
    assert 1e-3 < h < 0.5


# What must be true ------------------------------------------------------------------------------------------------


def calibrated(n, classes=5, seed=3):
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(n, classes, generator=generator, dtype=torch.float64) * 2
    return z, torch.multinomial(z.softmax(1), 1, generator=generator)[:, 0]


def test_errors_of_a_calibrated_network_vanish_with_its_examples():
    z, y = calibrated(40_000)
    for name in ("ece", "ece_em", "cwce", "ksce", "kdece"):
        assert float(MEASURES[name](z, y)) < math.sqrt(15 / 40_000), name
    assert float(mmce(z, y)) < 3 / math.sqrt(40_000)


@pytest.mark.parametrize("binning", ["uniform", "quantile"])
def test_one_bin_is_the_difference_of_the_means(binning):
    z, y = draw()
    c, a, _ = top(z, y)
    want = abs(np.mean(a) - np.mean(c))
    assert float(expected_calibration_error(z, y, 1, binning=binning)) == pytest.approx(want, abs=1e-12)
    assert float(ks_calibration_error(z, y)) >= want - 1e-12


@pytest.mark.parametrize("name", ALL)
def test_the_order_of_examples_says_nothing(name):
    z, y = draw(120)
    z[40:80] = z[:40]  # ties among the confidences, of other classes
    order = torch.randperm(120, generator=torch.Generator().manual_seed(1))
    assert float(ALL[name](z[order], y[order])) == pytest.approx(float(ALL[name](z, y)), rel=1e-9, abs=1e-12)


@given(
    n=st.integers(1, 40),
    classes=st.integers(1, 6),
    scale=st.sampled_from([0.0, 1.0, 30.0, 1e4]),
    places=st.sampled_from([(), (2,), (2, 3)]),
    seed=st.integers(0, 10**6),
    single=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_any_shapes_and_labels_give_errors_in_their_range(n, classes, scale, places, seed, single):
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(n, classes, *places, generator=generator) * scale
    y = torch.randint(classes, (n, *places), generator=generator)
    if single:
        y = torch.zeros_like(y)
    found = {name: float(measure(z, y)) for name, measure in MEASURES.items()}
    assert all(math.isfinite(value) and value >= 0 for value in found.values()), found
    for name in set(found) - {"nll", "brier", "mmce", "mmce_w"}:
        assert found[name] <= 1 + 1e-6, name
    assert found["brier"] <= 2 + 1e-6
    assert found["mce"] >= found["ece"] - 1e-6
    assert found["ece_l2"] >= found["ece"] - 1e-6
    z, y = (v.movedim(1, -1).flatten(0, -2) if v is z else v.flatten() for v in (z, y))
    c, a, _ = top(z, y)
    float32 = torch.tensor(c).float().double().tolist()
    if scale < 1e4:
        assert found["ece"] == pytest.approx(loop_bins(float32, a, 15, "uniform", "l1", False), abs=0.02 + 2 / len(y))


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("logit", [1e4, -1e4])
def test_extreme_logits_are_those_of_certainty(name, logit):
    z = torch.zeros(40, 3)
    z[torch.arange(40), torch.arange(40) % 3] = abs(logit)
    if logit < 0:
        z = z + logit
    y = torch.arange(40) % 3
    assert float(ALL[name](z, y)) == pytest.approx(0, abs=1e-3)
    wrong = float(ALL[name](z, (y + 1) % 3))
    assert wrong > 0.5 or name == "mmce_w"


def test_confidence_of_one_that_is_always_wrong_is_seen_by_equal_masses():
    z, y = torch.tensor([[1e4, 0.0]] * 9), torch.ones(9, dtype=torch.long)
    assert float(expected_calibration_error(z, y, binning="quantile")) == 1
    assert float(expected_calibration_error(z, y, binning="quantile", open_lowest=True)) == 0


def test_equal_logits_of_all_examples():
    z, y = torch.zeros(10, 4), torch.tensor([0] * 3 + [1] * 7)
    for name in ("ece", "ece_em", "mce", "ksce"):
        assert float(MEASURES[name](z, y)) == pytest.approx(0.05, abs=1e-6), name
    assert float(kde_calibration_error(z, y)) == pytest.approx(0.05, abs=1e-3)


@pytest.mark.parametrize("name", MEASURES)
def test_one_example_and_one_class(name):
    assert float(MEASURES[name](torch.tensor([[3.0]]), torch.tensor([0]))) == pytest.approx(0, abs=1e-3)


def test_a_confidence_on_an_edge_lies_in_the_bin_below_it():
    # 0.6 in float32 is above 3/5 in float64; it has to be found on the edge all the same
    p = torch.tensor([[0.6, 0.4], [0.59, 0.41]], dtype=torch.float32)
    y = torch.tensor([0, 1])
    same_bin = abs((1 + 0) / 2 - (0.6 + 0.59) / 2)
    assert float(expected_calibration_error(p, y, 5, probabilities=True)) == pytest.approx(same_bin, abs=1e-6)


def test_equal_masses_hold_as_many_examples():
    from assay.metrics.calibration.bins import bin_sums, sort_top
    from assay.metrics.calibration.predictions import checked, top_label

    for n, bins in ((100, 7), (97, 15), (5, 15)):
        count = bin_sums(sort_top(top_label(checked(*draw(n)))), bins, "quantile").count[0]
        assert int(count.sum()) == n
        assert int((count - n / bins).abs().max()) <= 1


def test_two_classes_are_symmetrical():
    z, y = draw(150, 2)
    swapped = classwise_calibration_error(z.flip(1), 1 - y, 10)
    assert float(swapped) == pytest.approx(float(classwise_calibration_error(z, y, 10)), abs=1e-12)


@pytest.mark.parametrize("name", ALL)
def test_probabilities_and_places_and_ignored_places_give_the_same(name):
    z, y = draw(60)
    want = float(ALL[name](z, y))
    assert float(ALL[name](z.softmax(1), y, probabilities=True)) == pytest.approx(want, rel=1e-8)
    z = z.reshape(5, 12, 4).movedim(-1, 1)
    y = y.reshape(5, 12)
    assert float(ALL[name](z, y)) == pytest.approx(want, rel=1e-12)
    z, y = torch.cat([z, z[:1]]), torch.cat([y, torch.full_like(y[:1], 255)])
    assert float(ALL[name](z, y, ignore_index=255)) == pytest.approx(want, rel=1e-12)


@pytest.mark.parametrize("name", ALL)
def test_bfloat16_is_computed_in_float32(name):
    z, y = draw(dtype=torch.bfloat16)
    assert float(ALL[name](z, y)) == pytest.approx(float(ALL[name](z.float(), y)), rel=1e-6)
    assert float(ALL[name](z, y)) == pytest.approx(float(ALL[name](z.double(), y)), rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("name", sorted(set(ALL) - {"kdece"}))
def test_gradients_by_the_logits(name):
    z, y = draw(12, 3)  # no confidence within a step of an edge
    z.requires_grad_()
    assert torch.autograd.gradcheck(lambda z: ALL[name](z, y), z)


def test_mmce_as_a_loss_has_a_gradient_where_it_is_zero():
    z = torch.zeros(4, 2, requires_grad=True)  # confidence a half, half of them right
    loss = mmce(z, torch.tensor([0, 0, 1, 1]), root=False)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0, abs=1e-12)
    assert z.grad.isfinite().all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", ALL)
def test_cuda_equals_the_cpu(name):
    z, y = draw(dtype=torch.float32)
    assert float(ALL[name](z.cuda(), y.cuda())) == pytest.approx(float(ALL[name](z, y)), rel=1e-4, abs=1e-6)


# Bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(
    ("z", "y", "kind", "message"),
    [
        (torch.randn(3, 2), torch.tensor([0, 1, 2]), ValueError, r"target must lie in \[0, 2\), got 2"),
        (torch.randn(3, 2), torch.tensor([0, -1, 1]), ValueError, r"target must lie in \[0, 2\), got -1"),
        (torch.randn(3, 2), torch.tensor([0, 1]), ValueError, r"must fit, got \[3, 2\] and \[2\]"),
        (torch.randn(3), torch.tensor([0, 1, 1]), ValueError, "must fit"),
        (torch.randn(0, 2), torch.zeros(0, dtype=torch.long), ValueError, "at least one example"),
        (torch.tensor([[float("nan"), 0], [0, 0]]), torch.tensor([0, 1]), ValueError, "no NaN"),
        (torch.tensor([[float("inf"), 0], [0, 0]]), torch.tensor([0, 1]), ValueError, "no NaN"),
        (torch.randn(3, 2), torch.zeros(3), TypeError, "whole numbers, got torch.float32"),
        (torch.ones(3, 2, dtype=torch.long), torch.zeros(3, dtype=torch.long), TypeError, "floating point"),
    ],
)
def test_bad_predictions_and_labels_are_refused(name, z, y, kind, message):
    with pytest.raises(kind, match=message):
        ALL[name](z, y)


@pytest.mark.parametrize(
    ("p", "message"), [([[0.5, 0.6]], "sum to 1"), ([[1.5, -0.5]], "lie in"), ([[float("nan"), 1.0]], "lie in")]
)
def test_what_are_no_probabilities_is_refused(p, message):
    with pytest.raises(ValueError, match=message):
        expected_calibration_error(torch.tensor(p), torch.tensor([0]), probabilities=True)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda z, y: expected_calibration_error(z, y, 0), "n_bins must be at least 1"),
        (lambda z, y: expected_calibration_error(z, y, binning="equal"), "binning must be uniform or quantile"),
        (lambda z, y: expected_calibration_error(z, y, norm="l3"), "norm must be"),
        (lambda z, y: mmce(z, y, width=0.0), "width must be at least"),
        (lambda z, y: mmce(z, y, reference=True), "weighted=True"),
        (lambda z, y: dirichlet_calibration_error(z, y, bandwidth=0.0), "bandwidth must be positive"),
        (lambda z, y: dirichlet_calibration_error(z, y, form="joint"), "form must be"),
        (lambda z, y: dirichlet_calibration_error(z, y, p=0.5), "p must be at least 1"),
        (lambda z, y: dirichlet_calibration_error(z[:1], y[:1]), "at least two examples"),
    ],
)
def test_settings_out_of_range_are_refused(call, message):
    if hasattr(expected_calibration_error, "__wrapped__") and any(word in message for word in LITERAL):
        pytest.skip("the checks of types refuse it before")
    with pytest.raises(ValueError, match=message):
        call(*draw(5))


# The other scores -------------------------------------------------------------------------------------------------


def test_the_harmonic_score_is_the_harmonic_mean():
    assert harmonic_calibration_score(0.8, 0.1) == pytest.approx(2 / (1 / 0.8 + 1 / 0.9))
    assert harmonic_calibration_score(0.0, 1.0) == 0
    assert float(harmonic_calibration_score(torch.tensor(0.8), torch.tensor(0.1))) == pytest.approx(0.847, abs=1e-3)
    for bad in ((1.2, 0.1), (0.5, -0.1)):
        with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
            harmonic_calibration_score(*bad)


@pytest.mark.parametrize("score", ["confidence", "entropy"])
def test_auroc_equals_scikit_learns(score):
    from sklearn.metrics import roc_auc_score

    inside, outside = draw(70, scale=3.0)[0], draw(50, seed=1, scale=1.0)[0]
    inside[:20] = outside[:20]  # ties
    p = softmax(torch.cat([inside, outside]).numpy())
    certainty = p.max(1) if score == "confidence" else (p * np.log(p)).sum(1)
    want = roc_auc_score([1] * 70 + [0] * 50, certainty)
    assert float(ood_auroc(inside, outside, score=score)) == pytest.approx(want, abs=1e-12)


def test_auroc_of_one_and_the_same_data_is_a_half():
    z, _ = draw()
    assert float(ood_auroc(z, z)) == 0.5
    assert float(ood_auroc(z.sign() * 1e4, torch.zeros_like(z))) > 0.9


# The report and the vectors ---------------------------------------------------------------------------------------


def test_the_report_has_what_each_measure_gives_alone():
    z, y = draw(90)
    report = calibration_report(z, y, bins=(5, 500))
    want = {name: MEASURES[name](z, y) for name in ("ksce", "kdece", "mmce", "nll", "brier")}
    for bins in (5, 500):  # by a sort there, without one here
        want |= {
            f"ece_{bins}": expected_calibration_error(z, y, bins),
            f"ece_em_{bins}": expected_calibration_error(z, y, bins, binning="quantile"),
            f"mce_{bins}": max_calibration_error(z, y, bins),
            f"cwce_{bins}": classwise_calibration_error(z, y, bins),
            f"cwce_em_{bins}": classwise_calibration_error(z, y, bins, binning="quantile"),
        }
    for name, value in want.items():
        assert report[name] == pytest.approx(float(value), abs=1e-12), name
    assert set(report) == {*want, "accuracy"}
    assert report["accuracy"] == float((z.argmax(1) == y).double().mean())
    assert len(calibration_report(z, y)) == 5 * len(BINS) + 6


def test_many_classes_are_sorted_a_part_at_a_time(monkeypatch):
    z, y = draw(40, 7)
    want = calibration_report(z, y, bins=(10,))
    monkeypatch.setattr("assay.metrics.calibration.bins.CELLS", 90)
    assert calibration_report(z, y, bins=(10,)) == pytest.approx(want, rel=1e-12)


def test_reference_vectors(vectors):
    with np.load(vectors / "calibration.npz", allow_pickle=False) as file:
        known = dict(file)
    z, y = torch.from_numpy(known["logits"]), torch.from_numpy(known["labels"])
    for i, bins in enumerate(known["bins"].tolist()):
        found = {
            "ece": expected_calibration_error(z, y, bins),
            "ece_em": expected_calibration_error(z, y, bins, binning="quantile", open_lowest=True),
            "cwce": classwise_calibration_error(z, y, bins),
            "mce": max_calibration_error(z, y, bins),
        }
        for name, value in found.items():
            assert float(value) == pytest.approx(known[name][i], abs=2e-6), (name, bins)
    assert float(ks_calibration_error(z, y)) == pytest.approx(float(known["ksce"]), abs=2e-6)
    assert float(mmce(z, y, root=False)) == pytest.approx(float(known["mmce_m"]), abs=2e-6)
    assert float(mmce(z, y, weighted=True, reference=True)) == pytest.approx(float(known["mmce_w"]), abs=2e-6)
    assert float(kde_calibration_error(z, y)) == pytest.approx(float(known["mixnmatch_ece_kde"]), abs=1e-4)
    for form in PAIRWISE:
        for h, want in zip(known["kde_h"].tolist(), known[f"kde_{form}_p1"].tolist(), strict=True):
            value = dirichlet_calibration_error(z, y, form=form, bandwidth=h)
            assert float(value) == pytest.approx(want, abs=1e-4), (form, h)
    assert float(negative_log_likelihood(z, y)) == pytest.approx(float(known["nll"]), abs=1e-10)
    assert float(brier_score(z, y)) == pytest.approx(float(known["brier_sum"]), abs=1e-10)
