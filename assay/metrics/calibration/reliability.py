"""Reliability diagram: the accuracy of each bin of confidence, beside the line on which both are equal.

    diagram = reliability(logits, target)
    Path("reliability.svg").write_text(diagram.svg(title="ResNet-20, as trained"))

Each bin has the interval in which its accuracy lies with 95% confidence (Wilson), and a bar at the foot for how many of
the examples it holds: a gap in a bin of a few examples says little.

Sources: DeGroot and Fienberg, "The comparison and evaluation of forecasters" (1983); Wilson, "Probable inference, the
law of succession, and statistical inference" (1927).
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from assay.analysis.drawing import LEFT, TOP, axis_name, document, frame, text
from assay.metrics.calibration.bins import Binning, bin_sums, error_of, sort_top
from assay.metrics.calibration.predictions import checked, top_label

Z = 1.959963984540054  # of 95%
PLOT = 300  # user units of the square between 0 and 1
FOOT, BELOW = 44, 40


@dataclass(frozen=True)
class Reliability:
    """Bins that hold examples, in rising order.

    Attributes:
        count: examples.
        confidence, accuracy: their means in a bin, in [0, 1].
        low, high: 95% interval of the accuracy.
        ece: expected calibration error by these bins.
    """

    count: Int64[np.ndarray, " bins"]
    confidence: Float[np.ndarray, " bins"]
    accuracy: Float[np.ndarray, " bins"]
    low: Float[np.ndarray, " bins"]
    high: Float[np.ndarray, " bins"]
    ece: float

    def svg(self, title: str = "") -> str:
        """The chart as a document of its own, in the colours of the page around it, readable without colour too.

        Args:
            title: above the plot.
        """
        width, height = LEFT + PLOT + 20, TOP + PLOT + FOOT + BELOW
        base = TOP + PLOT

        def x(value: float) -> str:
            return f"{LEFT + PLOT * value:.6g}"

        def y(value: float) -> str:
            return f"{base - PLOT * value:.6g}"

        largest = int(self.count.max())
        parts = [
            frame(PLOT, PLOT),
            f'<line x1="{x(0.0)}" y1="{y(0.0)}" x2="{x(1.0)}" y2="{y(1.0)}" stroke-dasharray="4 4" opacity="0.6"/>',
        ]
        rows = zip(self.count, self.confidence, self.accuracy, self.low, self.high, strict=True)
        for n, c, a, low, high in rows:
            said = f"{n} examples, confidence {c:.3f}, accuracy {a:.3f} ({low:.3f} to {high:.3f})"
            tall = FOOT * 0.8 * n / largest
            parts.append(
                f"<g><title>{said}</title>"
                f'<line x1="{x(c)}" y1="{y(low)}" x2="{x(c)}" y2="{y(high)}" stroke-width="2"/>'
                f'<circle cx="{x(c)}" cy="{y(a)}" r="4.5" fill="#2a78d6"/>'
                f'<rect x="{LEFT + PLOT * c - 3:.6g}" y="{base + FOOT - tall:.6g}" width="6" height="{tall:.6g}" '
                'fill="currentColor" stroke="none" opacity="0.5"/></g>'
            )
        for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
            label = f"{tick:g}"
            parts.append(text(x(tick), base + FOOT + 16, label, "middle"))
            parts.append(text(LEFT - 8, float(y(tick)) + 4, label, "end"))
        middle = LEFT + PLOT / 2
        parts += [
            text(LEFT, 18, title, "start", "bold"),
            text(LEFT, 34, f"ECE {self.ece:.4f}, {int(self.count.sum())} examples", "start"),
            text(middle, height - 6, "confidence", "middle"),
            axis_name("accuracy", PLOT),
        ]
        said = f"Accuracy against confidence; expected calibration error {self.ece:.4f}"
        return document(title or "Reliability diagram", said, (width, height), parts)


def reliability(
    predictions: Tensor,
    target: Tensor,
    n_bins: int = 15,
    *,
    binning: Binning = "uniform",
    probabilities: bool = False,
    ignore_index: int | None = None,
) -> Reliability:
    """What a reliability diagram shows; arguments as in
    `assay.metrics.calibration.bins.expected_calibration_error`."""
    given = checked(predictions.detach(), target, probabilities=probabilities, ignore_index=ignore_index)
    series = sort_top(top_label(given))
    sums = bin_sums(series, n_bins, binning)
    ends = torch.cat([sums.count.new_zeros(1), sums.count[0].cumsum(0)])
    total = torch.cat([series.gaps.new_zeros(1), series.confidence[0].double().cumsum(0)])[ends].diff()
    held = sums.count[0] > 0
    n = sums.count[0][held].cpu().numpy()
    c = total[held].cpu().numpy() / n
    a = np.clip(sums.gap[0][held].cpu().numpy() / n + c, 0, 1)
    centre, half = (a + Z**2 / (2 * n)) / (1 + Z**2 / n), np.sqrt(a * (1 - a) / n + Z**2 / (4 * n**2))
    half *= Z / (1 + Z**2 / n)
    return Reliability(
        n, c, a, np.clip(centre - half, 0, 1), np.clip(centre + half, 0, 1), float(error_of(sums, "l1")[0])
    )
