import math

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from assay.metrics.hypersphere import alignment, tolerance, uniformity


def draw(samples, dim=6, seed=0):
    return torch.randn(samples, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_reference_vectors(vectors):
    data = np.load(vectors / "contrastive-temperature.npz", allow_pickle=False)
    z, z2, labels = (torch.from_numpy(data[name]) for name in ("z", "z2", "labels"))
    for t, want in zip(data["ts"], data["uniformity"], strict=True):
        assert uniformity(z, float(t)).item() == pytest.approx(want, abs=1e-10)
    assert alignment(z, z2).item() == pytest.approx(data["alignment"], abs=1e-10)
    assert tolerance(z, labels).item() == pytest.approx(data["tolerance_same_class"], abs=1e-10)


@pytest.mark.parametrize("t", [0.5, 2.0, 7.0])
def test_uniformity_by_pairs(t):
    z = normalize(draw(9))
    pairs = [math.exp(-t * float((z[i] - z[j]).square().sum())) for i in range(9) for j in range(i)]
    assert uniformity(z, t).item() == pytest.approx(math.log(sum(pairs) / len(pairs)), rel=1e-10)


def test_uniformity_of_known_figures():
    one = torch.ones(5, 3, dtype=torch.float64)
    assert uniformity(one).item() == pytest.approx(0, abs=1e-12)
    assert uniformity(torch.stack([one[0], -one[0]]), 3.0).item() == pytest.approx(-12)
    assert uniformity(torch.eye(6), 2.0).item() == pytest.approx(-4, rel=1e-6)
    assert uniformity(draw(400, 1000)).item() == pytest.approx(-4, abs=0.02)


@pytest.mark.parametrize("chunk_size", [1, 4, 50])
def test_uniformity_in_chunks_is_the_same_with_its_gradient(chunk_size):
    z = draw(9).requires_grad_()
    whole, parts = uniformity(z), uniformity(z, chunk_size=chunk_size)
    torch.testing.assert_close(parts, whole)
    torch.testing.assert_close(torch.autograd.grad(parts, z), torch.autograd.grad(whole, z))
    assert torch.autograd.gradcheck(lambda z: uniformity(z, chunk_size=chunk_size), z)


@pytest.mark.parametrize("conditional", [True, False])
def test_tolerance_by_pairs(conditional):
    z, labels = draw(11), torch.tensor([0, 2, 2, 0, 5, 2, 1, 1, 0, 4, 2])
    unit = normalize(z)
    same = [float(unit[i] @ unit[j]) for i in range(11) for j in range(11) if i != j and labels[i] == labels[j]]
    want = sum(same) / (len(same) if conditional else 110)
    assert tolerance(z, labels, conditional=conditional).item() == pytest.approx(want, rel=1e-10)


def test_tolerance_of_classes_that_are_points_is_one():
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    assert tolerance(torch.eye(3)[labels], labels).item() == pytest.approx(1)


@pytest.mark.parametrize("alpha", [1.0, 2.0, 3.5])
def test_alignment_by_rows(alpha):
    z1, z2 = normalize(draw(5)), normalize(draw(5, seed=1))
    rows = [float((a - b).square().sum()) ** (alpha / 2) for a, b in zip(z1, z2, strict=True)]
    assert alignment(z1, z2, alpha).item() == pytest.approx(sum(rows) / 5, rel=1e-10)
    assert alignment(z1, 3 * z1).item() == pytest.approx(0, abs=1e-12)


def test_half_precision_is_computed_in_float32():
    z, labels = draw(8).bfloat16(), torch.arange(8) % 2
    for found, want in ((uniformity(z), uniformity(z.float())), (tolerance(z, labels), tolerance(z.float(), labels))):
        assert found.dtype == torch.float32
        assert torch.equal(found, want)


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match=r"at least two samples \[samples, dim\], got shape \[1, 6\]"):
        uniformity(draw(1))
    with pytest.raises(ValueError, match=r"t must be positive and finite, got 0\.0"):
        uniformity(draw(3), 0.0)
    with pytest.raises(ValueError, match="alpha must be positive"):
        alignment(draw(3), draw(3), 0.0)
    with pytest.raises(ValueError, match="labels must have two samples of one class, got none"):
        tolerance(draw(3), torch.tensor([0, 1, 2]))
    with pytest.raises(ValueError, match="labels must not be negative, got -1"):
        tolerance(draw(3), torch.tensor([0, -1, -1]))
    if not hasattr(tolerance, "__wrapped__"):
        with pytest.raises(ValueError, match=r"labels must be one a row of z, got \[2\] for \[3, 6\]"):
            tolerance(draw(3), torch.tensor([0, 1]))
