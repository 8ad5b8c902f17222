"""The spectrum of a mini-batch's curvature: that of all data, spread by the noise of a random matrix.

    b = B / (1 - B/N)      the batch that, drawn with replacement, would be as noisy

Wigner, for the Hessian: H_batch = H + E, the entries of E of variance sigma^2 / b

    lambda' = lambda + (P/b) sigma^2 / lambda      where |lambda| > sigma sqrt(P/b), else +-2 sigma sqrt(P/b)
    overlap^2 = 1 - (P/b) sigma^2 / lambda^2       of the eigenvectors

Marchenko-Pastur, for the Gauss-Newton matrix: noise that multiplies, on a bulk of eigenvalues sigma^2, q = P/b

    lambda' = lambda (1 + q sigma^2 / (lambda - sigma^2))    where lambda > sigma^2 (1 + sqrt q),
                                                             else sigma^2 (1 + sqrt q)^2
    overlap^2 = (1 - q sigma^4 / (lambda - sigma^2)^2) / (1 + q sigma^2 / (lambda - sigma^2))

An outlier stands out of the noise; the smaller the batch, the farther out it is. Real noise is of low rank: expect the
formulae to hold at large batches, and to give too little at small ones.

Source: Granziol, Zohren, Roberts, "Learning Rates as a Function of Batch Size: A Random Matrix Theory Approach to
Neural Network Training" (JMLR 2022); the explicit Marchenko-Pastur form and the overlaps are the standard results of
Baik, Ben Arous, Peche (2005) and Benaych-Georges, Nadakuditi (2011).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from assay.analysis.curvature import Batches, Curvature, batch_samples
from assay.analysis.lanczos import draw_starts
from assay.analysis.spectral_density import spectral_density


def effective_batch(batch_size: int | float, dataset_size: int | None = None) -> float:
    """b, at least `batch_size`: infinite for a batch of all data, `batch_size` for data without end.

    Raises:
        ValueError: a size is below 1.
    """
    if not batch_size >= 1 or (dataset_size is not None and dataset_size < 1):
        raise ValueError(f"batch_size and dataset_size must be at least 1, got {batch_size} and {dataset_size}")
    if dataset_size is None:
        return float(batch_size)
    return batch_size / (1 - batch_size / dataset_size) if batch_size < dataset_size else math.inf


@dataclass(frozen=True)
class WignerNoise:
    """Noise that is added, as to the Hessian.

    Args:
        n_params: P.
        sigma2: variance over samples of an entry of the matrix, mean over entries.
        dataset_size: N; by default without end.

    Raises:
        ValueError: a number is out of range.
    """

    n_params: int
    sigma2: float
    dataset_size: int | None = None

    def __post_init__(self) -> None:
        if self.n_params < 1:
            raise ValueError(f"n_params must be at least 1, got {self.n_params}")
        if not 0 <= self.sigma2 < math.inf:
            raise ValueError(f"sigma2 must be finite and not negative, got {self.sigma2}")

    def threshold(self, batch_size: int | float) -> float:
        """The size above which an eigenvalue of all data stands out of a batch's noise."""
        return math.sqrt(self._spread(batch_size))

    def edge(self, batch_size: int | float) -> float:
        """The upper end of the noise: the largest eigenvalue of a batch if nothing stands out."""
        return 2 * self.threshold(batch_size)

    def observed(self, eigenvalue: float, batch_size: int | float) -> float:
        """lambda': where a batch has an extreme eigenvalue of all data. Zero counts as one above.

        Raises:
            ValueError: `eigenvalue` is not finite.
        """
        _check(eigenvalue)
        if abs(eigenvalue) <= self.threshold(batch_size):
            return math.copysign(self.edge(batch_size), eigenvalue or 1.0)
        return eigenvalue + self._spread(batch_size) / eigenvalue

    def shrunk(self, eigenvalue: float, batch_size: int | float) -> float | None:
        """lambda: the eigenvalue of all data behind an outlier lambda' of a batch; `None` within the noise, where
        nothing can be told of it.

        Raises:
            ValueError: `eigenvalue` is not finite.
        """
        _check(eigenvalue)
        if abs(eigenvalue) < self.edge(batch_size):
            return None
        root = math.sqrt(max(eigenvalue**2 - 4 * self._spread(batch_size), 0.0))
        return math.copysign((abs(eigenvalue) + root) / 2, eigenvalue)

    def overlap(self, eigenvalue: float, batch_size: int | float) -> float:
        """Squared cosine, in [0, 1], between the eigenvectors of an eigenvalue of all data and of its outlier; 0 where
        it does not stand out.

        Raises:
            ValueError: `eigenvalue` is not finite.
        """
        _check(eigenvalue)
        if abs(eigenvalue) <= self.threshold(batch_size):
            return 0.0
        return 1 - self._spread(batch_size) / eigenvalue**2

    def crossover(self, eigenvalue: float) -> float:
        """The effective batch above which an eigenvalue of all data stands out; infinite for zero."""
        return self.n_params * self.sigma2 / eigenvalue**2 if eigenvalue else math.inf

    def _spread(self, batch_size: int | float) -> float:
        return self.n_params * self.sigma2 / effective_batch(batch_size, self.dataset_size)


@dataclass(frozen=True)
class MarchenkoPasturNoise(WignerNoise):
    """Noise that multiplies, as of the Gauss-Newton matrix; eigenvalues below zero are refused.

    Args:
        n_params: P.
        sigma2: the eigenvalue of the bulk.
        dataset_size: N; by default without end.

    Raises:
        ValueError: a number is out of range.
    """

    def threshold(self, batch_size: int | float) -> float:
        return self.sigma2 * (1 + math.sqrt(self._ratio(batch_size)))

    def edge(self, batch_size: int | float) -> float:
        return self.sigma2 * (1 + math.sqrt(self._ratio(batch_size))) ** 2

    def observed(self, eigenvalue: float, batch_size: int | float) -> float:
        _check(eigenvalue, 0.0)
        if eigenvalue <= self.threshold(batch_size):
            return self.edge(batch_size)
        return eigenvalue * (1 + self._spread(batch_size) / (eigenvalue - self.sigma2))

    def shrunk(self, eigenvalue: float, batch_size: int | float) -> float | None:
        _check(eigenvalue, 0.0)
        if eigenvalue < self.edge(batch_size):
            return None
        # t = lambda - sigma^2 is the larger root of t^2 - total t + spread sigma^2 = 0
        spread = self._spread(batch_size)
        total = eigenvalue - spread - self.sigma2
        return self.sigma2 + (total + math.sqrt(max(total**2 - 4 * spread * self.sigma2, 0.0))) / 2

    def overlap(self, eigenvalue: float, batch_size: int | float) -> float:
        _check(eigenvalue, 0.0)
        if eigenvalue <= self.threshold(batch_size):
            return 0.0
        spread, above = self._spread(batch_size), eigenvalue - self.sigma2
        return (1 - spread * self.sigma2 / above**2) / (1 + spread / above)

    def crossover(self, eigenvalue: float) -> float:
        above = eigenvalue - self.sigma2
        return self.n_params * (self.sigma2 / above) ** 2 if above > 0 else math.inf

    def _ratio(self, batch_size: int | float) -> float:
        return self.n_params / effective_batch(batch_size, self.dataset_size)


def _check(eigenvalue: float, least: float = -math.inf) -> None:
    if not (math.isfinite(eigenvalue) and eigenvalue >= least):
        wanted = "finite" if least < 0 else "finite and not negative"
        raise ValueError(f"eigenvalue must be {wanted}, got {eigenvalue}")


@dataclass(frozen=True)
class BatchSpectrum:
    """The extremes of a spectrum at any batch size.

    Attributes:
        largest, smallest: eigenvalues of all data.
        noise: what a batch adds.
    """

    largest: float
    smallest: float
    noise: WignerNoise

    def largest_at(self, batch_size: int | float) -> float:
        """The largest eigenvalue of a batch: the observed outlier, or the edge of the noise."""
        return self.noise.observed(self.largest, batch_size)

    def regime(self, batch_size: int | float) -> Literal["noise", "outlier"]:
        """Whether that is the edge of the noise or an outlier above it."""
        return "outlier" if self.largest > self.noise.threshold(batch_size) else "noise"


def hessian_variance(
    model: nn.Module,
    loss: Callable[[Any, Any], Tensor],
    data: Batches,
    *,
    probes: int = 1,
    generator: torch.Generator | None = None,
    batch_norm: Literal["batch", "running"] = "batch",
) -> float:
    """P sigma^2: how much the Hessians of single samples vary, from products of batches with random unit vectors.

        b (mean_i ||H_i z||^2 - ||mean_i H_i z||^2)

    Args:
        model, loss, batch_norm: as of `Curvature`.
        data: at least two batches of one size, disjoint parts of the data, which are taken to be all there are: the
            factor is then the effective batch, which makes the estimate free of bias at every size.
        probes: random vectors, the mean over which is taken.
        generator: of their draw, on the CPU.

    Raises:
        ValueError: there are fewer than two batches, or their sizes differ.
    """
    sizes = {batch_samples(x) for x, _ in data}
    if len(data) < 2 or len(sizes) > 1:
        raise ValueError(f"data must be at least two batches of one size, got {len(data)} of sizes {sorted(sizes)}")
    (size,) = sizes
    parameters = [p for p in model.parameters() if p.requires_grad]
    drawn = draw_starts(probes, sum(p.numel() for p in parameters), kind="gaussian", generator=generator)
    z = normalize(drawn).to(parameters[0])
    total, squares = torch.zeros_like(z), 0.0
    for batch in data:
        product = Curvature(model, loss, [batch], batch_norm=batch_norm)(z)
        total += product
        squares += float(product.square().sum()) / probes
    mean = float((total / len(data)).square().sum()) / probes
    return effective_batch(size, size * len(data)) * (squares / len(data) - mean)


def measure(
    model: nn.Module,
    loss: Callable[[Any, Any], Tensor],
    data: Batches,
    *,
    steps: int = 20,
    probes: int = 1,
    noise: Literal["wigner", "marchenko-pastur"] = "wigner",
    generator: torch.Generator | None = None,
) -> BatchSpectrum:
    """The extremes of the full-data spectrum and the noise of its batches.

    Wigner measures the Hessian and its variance; Marchenko-Pastur the Gauss-Newton matrix, whose bulk is taken to be
    the mean of its eigenvalues but for the largest.

    Args:
        model, loss: as of `Curvature`.
        data: as of `hessian_variance`.
        steps: of Lanczos.
        probes: random vectors, for both.
        noise: the model of it.
        generator: of all draws, on the CPU.

    Raises:
        ValueError: as `hessian_variance`.
        FloatingPointError: a product is not finite.
    """
    if noise not in ("wigner", "marchenko-pastur"):
        raise ValueError(f"noise must be wigner or marchenko-pastur, got {noise!r}")
    samples = sum(batch_samples(x) for x, _ in data)
    matrix = Curvature(model, loss, data, matrix="hessian" if noise == "wigner" else "ggn")
    found = spectral_density(matrix, steps, starts=probes, generator=generator)
    if noise == "wigner":
        variance = hessian_variance(model, loss, data, probes=probes, generator=generator)
        made = WignerNoise(matrix.size, max(variance, 0.0) / matrix.size, samples)
    else:
        bulk = (found.trace - found.largest) / max(matrix.size - 1, 1)
        made = MarchenkoPasturNoise(matrix.size, max(bulk, 0.0), samples)
    return BatchSpectrum(found.largest, found.smallest, made)
