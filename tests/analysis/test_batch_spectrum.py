"""The formulae against random matrices, hand calculations and limits; the measurements against dense matrices."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from assay.analysis.batch_spectrum import (
    BatchSpectrum,
    MarchenkoPasturNoise,
    WignerNoise,
    effective_batch,
    hessian_variance,
    measure,
)
from assay.analysis.curvature import Curvature

P = 400


@pytest.mark.parametrize("batch", [50, 400])
def test_wigner_outliers_edge_and_overlaps_are_those_of_a_simulation(batch):
    noise = WignerNoise(P, 0.04)
    random = np.random.default_rng(0)
    spikes = np.zeros(P)
    spikes[:3] = 4.0, -3.0, 0.3  # the last lies below the threshold
    g = random.normal(size=(P, P)) * math.sqrt(0.04 / batch)
    values, vectors = np.linalg.eigh(np.diag(spikes) + (g + g.T) / math.sqrt(2))
    assert noise.observed(4.0, batch) == pytest.approx(values[-1], rel=0.02)
    assert noise.observed(-3.0, batch) == pytest.approx(values[0], rel=0.02)
    assert noise.overlap(4.0, batch) == pytest.approx(vectors[0, -1] ** 2, abs=0.03)
    assert noise.overlap(-3.0, batch) == pytest.approx(vectors[1, 0] ** 2, abs=0.03)
    assert noise.threshold(50) > 0.3
    if batch == 50:
        assert noise.observed(0.3, batch) == noise.edge(batch) == pytest.approx(values[-2], rel=0.03)
        assert noise.overlap(0.3, batch) == 0
    assert noise.shrunk(float(values[-1]), batch) == pytest.approx(4.0, rel=0.03)


@pytest.mark.parametrize("batch", [200, 1000])
def test_marchenko_pastur_outliers_edge_and_overlaps_are_those_of_a_simulation(batch):
    noise = MarchenkoPasturNoise(P, 0.5)
    random = np.random.default_rng(0)
    scale = np.full(P, 0.5)
    scale[0] = 6.0
    found = []
    for _ in range(4):
        x = random.normal(size=(batch, P)) * np.sqrt(scale)
        x[:, 0] *= math.sqrt(batch * 6.0) / np.linalg.norm(x[:, 0])  # else its own variance is the largest error
        values, vectors = np.linalg.eigh(x.T @ x / batch)
        found.append((values[-1], values[-2], vectors[0, -1] ** 2))
    outlier, edge, overlap = np.mean(found, axis=0)
    assert noise.observed(6.0, batch) == pytest.approx(outlier, rel=0.02)
    # Johnstone's scale of the edge's fluctuations
    scale = 0.5 * (math.sqrt(batch) + math.sqrt(P)) * (1 / math.sqrt(batch) + 1 / math.sqrt(P)) ** (1 / 3) / batch
    assert noise.edge(batch) == pytest.approx(edge, abs=3 * scale)
    assert noise.overlap(6.0, batch) == pytest.approx(overlap, abs=0.03)
    assert noise.observed(0.6, batch) == noise.edge(batch)


@pytest.mark.parametrize("kind", [WignerNoise, MarchenkoPasturNoise])
def test_shrinking_undoes_the_noise_and_outliers_fall_as_batches_grow(kind):
    noise = kind(1000, 0.01)
    for batch in (2, 30, 1000):
        threshold = noise.threshold(batch)
        for eigenvalue in (threshold * 1.001, threshold * 2, threshold * 100):
            assert noise.shrunk(noise.observed(eigenvalue, batch), batch) == pytest.approx(eigenvalue, rel=1e-6)
        assert noise.shrunk(noise.edge(batch) * 0.99, batch) is None
        assert noise.observed(threshold * (1 + 1e-9), batch) == pytest.approx(noise.edge(batch), rel=1e-6)
        assert noise.overlap(threshold * (1 + 1e-9), batch) == pytest.approx(0, abs=1e-6)
    seen = [noise.observed(3.0, batch) for batch in (1, 4, 16, 64, 256, 10**9)]
    assert seen == sorted(seen, reverse=True)
    assert seen[-1] == pytest.approx(3.0)
    assert noise.crossover(noise.threshold(10)) == pytest.approx(10)


def test_the_small_batch_regime_of_multiplying_noise_is_linear_and_of_added_noise_a_root():
    multiplying, added = MarchenkoPasturNoise(10**8, 0.1), WignerNoise(10**8, 0.1)
    assert multiplying.observed(1.0, 4) / multiplying.observed(1.0, 16) == pytest.approx(4, rel=0.01)
    assert added.observed(1.0, 4) / added.observed(1.0, 16) == pytest.approx(2)


def test_added_noise_is_odd_and_a_batch_of_all_data_has_none():
    noise = WignerNoise(1000, 0.01, dataset_size=500)
    assert noise.observed(-3.0, 20) == -noise.observed(3.0, 20)
    assert noise.shrunk(-3.0, 20) == -noise.shrunk(3.0, 20)
    assert noise.observed(-0.1, 20) == -noise.edge(20)
    for batch in (500, 900):
        assert noise.observed(-3.0, batch) == noise.shrunk(-3.0, batch) == -3.0
        assert noise.overlap(3.0, batch) == 1
        assert noise.observed(0.0, batch) == 0
    assert noise.observed(0.0, 20) == noise.edge(20) > 0
    assert effective_batch(250, 500) == 500
    assert effective_batch(3) == 3
    assert noise.crossover(0.0) == math.inf


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="n_params must be at least 1, got 0"):
        WignerNoise(0, 1.0)
    with pytest.raises(ValueError, match="sigma2 must be finite and not negative"):
        MarchenkoPasturNoise(1, -1.0)
    with pytest.raises(ValueError, match="batch_size and dataset_size must be at least 1"):
        WignerNoise(1, 1.0).observed(1.0, 0)
    with pytest.raises(ValueError, match="eigenvalue must be finite, got nan"):
        WignerNoise(1, 1.0).shrunk(math.nan, 1)
    with pytest.raises(ValueError, match="finite and not negative, got -1"):
        MarchenkoPasturNoise(1, 1.0).observed(-1.0, 1)
    model, x, y = nn.Linear(2, 2), torch.ones(3, 2), torch.zeros(3, dtype=torch.long)
    for data in ([(x, y)], [(x, y), (x[:2], y[:2])]):
        with pytest.raises(ValueError, match="two batches of one size"):
            hessian_variance(model, F.cross_entropy, data)


def test_the_hand_calculations(vectors):
    for eigenvalue, size, batch, sigma2, want in np.load(vectors / "lr-batch-rmt.npz", allow_pickle=False)["spike"]:
        found = WignerNoise(int(size), float(sigma2)).observed(float(eigenvalue), float(batch))
        assert found == pytest.approx(want, rel=1e-9)


@pytest.mark.parametrize("case", ["c0", "c1"])
def test_the_variance_is_that_of_the_single_hessians(vectors, case):
    data = np.load(vectors / "lr-batch-rmt.npz", allow_pickle=False)
    of = {name: torch.from_numpy(data[f"{case}_{name}"]) for name in ("X", "Y", "W1", "b1", "W2", "b2")}
    model = nn.Sequential(nn.Linear(*of["W1"].T.shape), nn.Tanh(), nn.Linear(*of["W2"].T.shape)).double()
    model.load_state_dict({"0.weight": of["W1"], "0.bias": of["b1"], "2.weight": of["W2"], "2.bias": of["b2"]})
    size, n = (int(k) for k in data[f"{case}_P_N"])
    single = [(of["X"][i : i + 1], of["Y"][i : i + 1]) for i in range(n)]
    draw = torch.Generator().manual_seed(0)
    found = hessian_variance(model, F.cross_entropy, single, probes=1000, generator=draw)
    # the published figure divides by N, ours by N - 1
    assert found * (1 - 1 / n) == pytest.approx(size * float(data[f"{case}_sigma2"]), rel=0.05)


def network():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    x = torch.randn(60, 5, dtype=torch.float64)
    return model, x, (x[:, 0] > 0).long() + (x[:, 1] > 0).long()


def test_the_variance_does_not_hang_on_the_size_of_the_batches():
    model, x, y = network()
    draw = torch.Generator().manual_seed(0)
    order = [torch.randperm(60, generator=draw) for _ in range(20)]
    found = {
        size: np.mean(
            [
                hessian_variance(
                    model, F.cross_entropy, list(zip(x[i].split(size), y[i].split(size), strict=True)), probes=8,
                    generator=draw,
                )
                for i in (order if size > 1 else order[:3])
            ]
        )
        for size in (1, 6, 30)
    }  # fmt: skip
    assert found[6] == pytest.approx(found[1], rel=0.1)
    assert found[30] == pytest.approx(found[1], rel=0.2)


def test_a_measured_spectrum_has_the_extremes_and_the_noise_of_the_matrix():
    model, x, y = network()
    data = list(zip(x.split(10), y.split(10), strict=True))
    dense = {}
    for matrix in ("hessian", "ggn"):
        curvature = Curvature(model, F.cross_entropy, data, matrix=matrix)
        dense[matrix] = torch.linalg.eigvalsh(curvature(torch.eye(curvature.size, dtype=torch.float64)))
    draw = torch.Generator().manual_seed(0)
    wigner = measure(model, F.cross_entropy, data, steps=40, probes=20, generator=draw)
    assert wigner.largest == pytest.approx(float(dense["hessian"][-1]))
    assert wigner.smallest == pytest.approx(float(dense["hessian"][0]))
    assert wigner.noise.dataset_size == 60
    same = torch.Generator().manual_seed(0)
    torch.randint(2, (20, wigner.noise.n_params), generator=same)
    variance = hessian_variance(model, F.cross_entropy, data, probes=20, generator=same)
    assert wigner.noise.sigma2 == pytest.approx(variance / wigner.noise.n_params)
    pastur = measure(model, F.cross_entropy, data, steps=40, probes=40, noise="marchenko-pastur", generator=draw)
    assert type(pastur.noise) is MarchenkoPasturNoise
    assert pastur.largest == pytest.approx(float(dense["ggn"][-1]))
    bulk = float(dense["ggn"][:-1].mean())
    assert pastur.noise.sigma2 == pytest.approx(bulk, rel=0.2)


def test_the_regime_is_named_and_a_batch_of_all_data_has_the_full_spectrum():
    found = BatchSpectrum(2.0, -0.5, WignerNoise(1000, 0.01, 100))
    crossover = effective = found.noise.crossover(found.largest)
    batch = effective / (1 + effective / 100)
    assert found.regime(batch * 0.9) == "noise"
    assert found.regime(batch * 1.1) == "outlier"
    assert crossover == 2.5
    assert found.largest_at(100) == 2.0
    assert found.largest_at(1) > found.largest_at(50) > 2.0
