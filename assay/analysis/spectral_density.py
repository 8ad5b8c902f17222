"""Spectral density by stochastic Lanczos quadrature: how a matrix's eigenvalues are spread, from its products alone.

    phi(t) = (1/P) sum_i delta(t - lambda_i)  ~  mean over starts of sum_k w_k delta(t - theta_k)

    found = spectral_density(Curvature(model, loss, data))
    Path("spectrum.svg").write_text(found.svg(title="ResNet-20, Hessian"))

Drawn with each delta widened to a normal distribution. In high dimension one start suffices.

Sources: Ubaru, Chen, Saad, "Fast estimation of tr(f(A)) via stochastic Lanczos quadrature" (2017); Granziol, Zohren,
Roberts, "Learning Rates as a Function of Batch Size" (2022).
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from assay.analysis.curvature import Curvature
from assay.analysis.drawing import LEFT, TOP, axis_name, document, frame, round_ticks, text
from assay.analysis.lanczos import Ritz, draw_starts, lanczos

WIDTH, HEIGHT = 480, 260
LOWEST = 1e-6  # the least density that is drawn, as a share of the highest


@dataclass(frozen=True)
class SpectralDensity:
    """A spectrum as Lanczos saw it.

    Attributes:
        size: P, of the matrix.
        starts: what each starting vector found.
    """

    size: int
    starts: list[Ritz]

    @property
    def nodes(self) -> Float[np.ndarray, " nodes"]:
        """Ritz values of all starts, one start after another."""
        return np.concatenate([ritz.values.numpy() for ritz in self.starts])

    @property
    def weights(self) -> Float[np.ndarray, " nodes"]:
        """The share of the spectrum that each node stands for; they sum to 1."""
        return np.concatenate([ritz.weights.numpy() for ritz in self.starts]) / len(self.starts)

    @property
    def largest(self) -> float:
        """The largest Ritz value; the largest eigenvalue is no smaller."""
        return float(self.nodes.max())

    @property
    def smallest(self) -> float:
        """The smallest Ritz value; the smallest eigenvalue is no larger."""
        return float(self.nodes.min())

    @property
    def bulk(self) -> float:
        """The node of greatest weight."""
        return float(self.nodes[self.weights.argmax()])

    @property
    def trace(self) -> float:
        """Estimate of the sum of the eigenvalues."""
        return self.size * float(self.weights @ self.nodes)

    def density(self, at: Float[np.ndarray, " points"], width: float) -> Float[np.ndarray, " points"]:
        """The density with each node widened to a normal distribution; its integral is 1.

        Args:
            at: where.
            width: standard deviation, positive, in units of the eigenvalues.

        Raises:
            ValueError: `width` is not positive.
        """
        if not width > 0:
            raise ValueError(f"width must be positive, got {width}")
        bells = np.exp(-(((at[:, None] - self.nodes) / width) ** 2) / 2)
        found: np.ndarray = bells @ self.weights
        return found / (width * math.sqrt(2 * math.pi))

    def svg(self, title: str = "", *, width: float | None = None) -> str:
        """The density on a logarithmic scale over its eigenvalues, as a document of its own.

        Args:
            title: above the plot.
            width: as of `density`; by default a hundredth of the range.
        """
        low, high = self.smallest, self.largest
        span = (high - low) or abs(high) or 1.0
        room = 0.06 * span
        at = np.linspace(low - room, high + room, 2 * WIDTH)
        heights = self.density(at, width or span / 100)
        top = math.ceil(math.log10(heights.max()))
        bottom = top + math.log10(LOWEST)
        levels = np.log10(np.maximum(heights, 10.0**bottom))
        base = TOP + HEIGHT

        def x(value: float) -> float:
            return float(LEFT + WIDTH * (value - at[0]) / (at[-1] - at[0]))

        def y(level: int | float) -> float:
            return base - HEIGHT * (level - bottom) / (top - bottom)

        line = "L".join(f"{x(a):.2f} {y(level):.2f}" for a, level in zip(at, levels, strict=True))
        found = f"{self.size} eigenvalues from {low:.4g} to {high:.4g}"
        parts = [
            frame(WIDTH, HEIGHT),
            f'<path d="M{x(at[0]):.2f} {base}L{line}L{x(at[-1]):.2f} {base}Z" fill="#2a78d6" fill-opacity="0.25" '
            'stroke="none"/>',
            f'<path d="M{line}" stroke="#2a78d6" stroke-width="1.5" stroke-linejoin="round"/>',
            text(LEFT, 18, title, "start", "bold"),
            text(LEFT, 34, found, "start"),
            text(LEFT + WIDTH / 2, base + 38, "eigenvalue", "middle"),
            axis_name("density", HEIGHT),
        ]
        if at[0] < 0 < at[-1]:
            parts.append(
                f'<line x1="{x(0.0):.2f}" y1="{TOP}" x2="{x(0.0):.2f}" y2="{base}" stroke-dasharray="4 4" '
                'opacity="0.6"/>'
            )
        for tick in round_ticks(float(at[0]), float(at[-1])):
            words = f"{tick:.6g}".replace("-", "\N{MINUS SIGN}")
            parts.append(text(f"{x(tick):.2f}", base + 18, words, "middle"))
        decades = range(math.ceil(bottom), top + 1, 2)
        parts += [text(LEFT - 8, y(level) + 4, f"{10.0**level:g}", "end") for level in decades]
        size = (LEFT + WIDTH + 20, base + 46)
        return document(title or "Spectral density", f"Density of {found}, logarithmic", size, parts)


def spectral_density(
    matrix: Curvature, steps: int = 100, *, starts: int = 1, generator: torch.Generator | None = None
) -> SpectralDensity:
    """The spectrum of a network's curvature.

    Args:
        matrix: whose products; each step is one product with a block of `starts` vectors.
        steps: of Lanczos, nodes a start.
        starts: random vectors, of entries -1 and 1.
        generator: of their draw, on the CPU.

    Raises:
        ValueError: `steps` or `starts` is not positive.
        FloatingPointError: a product is not finite.
    """
    like: Tensor = matrix.parameters[0]
    drawn = draw_starts(starts, matrix.size, generator=generator, like=like)
    return SpectralDensity(matrix.size, lanczos(matrix, drawn, steps))
