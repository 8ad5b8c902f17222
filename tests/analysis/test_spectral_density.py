"""The density against the dense spectrum, and its drawing."""

import xml.etree.ElementTree as ET

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from assay.analysis.curvature import Curvature
from assay.analysis.lanczos import Ritz
from assay.analysis.spectral_density import SpectralDensity, spectral_density

SPACE = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def both():
    """Density and dense eigenvalues."""
    draw = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 5)).double()
    x = torch.randn(200, 12, generator=draw, dtype=torch.float64)
    curvature = Curvature(model, F.cross_entropy, [(x, torch.arange(200) % 5)])
    eigenvalues = torch.linalg.eigvalsh(curvature(torch.eye(curvature.size).double())).numpy()
    return spectral_density(curvature, 60, starts=8, generator=draw), eigenvalues


def test_extremes_trace_and_moments_are_those_of_the_matrix(both):
    found, eigenvalues = both
    assert found.size == len(eigenvalues)
    assert found.largest == pytest.approx(eigenvalues.max(), rel=1e-8)
    assert found.smallest == pytest.approx(eigenvalues.min(), rel=1e-8)
    # Hutchinson's estimate with Rademacher vectors: standard error at most sqrt(2 sum lambda^2 / starts)
    error = np.sqrt(2 * (eigenvalues**2).sum() / 8)
    assert abs(found.trace - eigenvalues.sum()) < 3 * error
    assert found.weights.sum() == pytest.approx(1)
    assert abs(found.bulk) < 0.01 * found.largest


def test_the_density_is_that_of_the_eigenvalues_and_integrates_to_one(both):
    found, eigenvalues = both
    width = 0.05 * eigenvalues.max()
    at = np.linspace(eigenvalues.min() - 6 * width, eigenvalues.max() + 6 * width, 4000)
    want = SpectralDensity(1, [Ritz(torch.from_numpy(eigenvalues), torch.full((found.size,), 1 / found.size), None)])
    density = found.density(at, width)
    step = at[1] - at[0]
    assert density.sum() * step == pytest.approx(1, abs=1e-6)
    assert np.abs(density - want.density(at, width)).sum() * step < 0.1


def test_the_drawing_is_well_formed_and_stays_inside(both):
    found, _ = both
    root = ET.fromstring(found.svg("a < b & c"))
    assert root.find(f"{SPACE}title").text == "a < b & c"
    _, _, width, height = map(float, root.get("viewBox").split())
    line = root.findall(f"{SPACE}path")[1].get("d")
    points = np.array([pair.split() for pair in line[1:].split("L")], dtype=float)
    assert (np.diff(points[:, 0]) >= 0).all()
    assert points.min() > 0
    assert points[:, 0].max() < width
    assert points[:, 1].max() < height
    words = [element.text for element in root.iter(f"{SPACE}text")]
    assert "eigenvalue" in words
    assert "0" in words
    # the peak is at the bulk
    peak = points[points[:, 1].argmin(), 0]
    low, high = found.smallest, found.largest
    room = 0.06 * (high - low)
    assert peak == pytest.approx(52 + 480 * (found.bulk - low + room) / (high - low + 2 * room), abs=8)


@pytest.mark.parametrize("values", [[2.0], [0.0], [-1e9, 1e9]])
def test_few_nodes_have_a_drawing(values):
    n = len(values)
    ritz = Ritz(torch.tensor(values).double(), torch.full((n,), 1 / n).double(), torch.zeros(n).double())
    root = ET.fromstring(SpectralDensity(n, [ritz]).svg())
    assert "nan" not in ET.tostring(root, encoding="unicode")


def test_bad_input_is_refused(both):
    with pytest.raises(ValueError, match="width must be positive"):
        both[0].density(np.zeros(1), 0.0)
    model = nn.Linear(2, 2)
    curvature = Curvature(model, F.cross_entropy, [(torch.ones(2, 2), torch.zeros(2, dtype=torch.long))])
    with pytest.raises(ValueError, match="steps must be positive"):
        spectral_density(curvature, 0)
