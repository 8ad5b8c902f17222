"""How far the weights have come from where they began, and by which law in time.

    d(t) = ||w_t - w_0||,        d(t) ~ c log t        in the first phase, at a high learning rate

A random walk on a random potential whose loss covariance grows as ||w - w'||^alpha gives E d^2 ~ (log t)^(4 / alpha);
alpha = 2 is the law above.

Source: Hoffer, Hubara, Soudry, "Train longer, generalize better" (NIPS 2017), section 3.
"""

from collections.abc import Callable, Iterable
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from assay.analysis.fits import Line, fit_line

_LAWS: dict[str, Callable[[np.ndarray], np.ndarray]] = {"log": np.log, "sqrt": np.sqrt, "linear": np.asarray}


class WeightDistance:
    """Records the distance of a network's weights from their values at construction.

    Args:
        model: its parameters are watched, all of them joined into one vector.
        parameters: watch these instead (the authors' code takes the first tensor alone).
    """

    def __init__(self, model: nn.Module, parameters: Iterable[Tensor] | None = None) -> None:
        self._watched = list(model.parameters() if parameters is None else parameters)
        self._start = [p.detach().clone() for p in self._watched]
        self._steps: list[int] = []
        self._distances: list[Tensor | float] = []

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Record the distance now; it stays on the device until it is read.

        Args:
            step: updates made so far, at least 1 and more than at the last call.

        Raises:
            ValueError: the steps do not grow.
        """
        if step <= (self._steps[-1] if self._steps else 0):
            raise ValueError(f"step must grow from 1 on, got {step} after {self._steps[-1:]}")
        # a trainer of others may have moved the network since
        self._start = [q.to(p.device) for p, q in zip(self._watched, self._start, strict=True)]
        moved = [
            torch.linalg.vector_norm(p - q, dtype=torch.promote_types(p.dtype, torch.float32))
            for p, q in zip(self._watched, self._start, strict=True)
        ]
        self._steps.append(step)
        self._distances.append(torch.linalg.vector_norm(torch.stack([m.to(moved[0].device) for m in moved])))

    @property
    def steps(self) -> np.ndarray:
        """Steps of the records, int64 [records]."""
        return np.asarray(self._steps, dtype=np.int64)

    @property
    def distances(self) -> np.ndarray:
        """Distances, float64 [records]."""
        return np.asarray([float(d) for d in self._distances], dtype=np.float64)

    def fit(self, law: Literal["log", "sqrt", "linear"] = "log", *, until: int | None = None) -> Line:
        """The line of least squares of the distance against log t, sqrt t or t; compare their `r2`.

        Args:
            law: of the step t.
            until: the last step to count, such as the end of the phase at a constant learning rate.

        Raises:
            ValueError: the law is unknown, or fewer than two records count.
        """
        if law not in _LAWS:
            raise ValueError(f"law must be one of {', '.join(_LAWS)}, got {law!r}")
        t, d = self._counted(until)
        return fit_line(_LAWS[law](t), d)

    def alpha(self, *, until: int | None = None) -> float:
        """The exponent of the random potential: 2 / the slope of log d against log log t.

        Args:
            until: the last step to count; steps below 2, and distances of 0, never do.

        Raises:
            ValueError: fewer than two records count.
        """
        t, d = self._counted(until)
        usable = (t >= 2) & (d > 0)
        return 2 / fit_line(np.log(np.log(t[usable])), np.log(d[usable])).slope

    def _counted(self, until: int | None) -> tuple[np.ndarray, np.ndarray]:
        counted = self.steps <= (np.inf if until is None else until)
        return self.steps[counted].astype(np.float64), self.distances[counted]

    def state_dict(self) -> dict[str, Any]:
        """Start and records, for an exact resume."""
        return {"start": self._start, "steps": self._steps, "distances": self.distances.tolist()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what `state_dict` gave."""
        self._start = [s.to(p.device) for s, p in zip(state["start"], self._watched, strict=True)]
        self._steps = list(state["steps"])
        self._distances = list(state["distances"])
