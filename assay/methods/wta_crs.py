"""Winner-take-all column-row sampling as a method of a run."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from assay.analysis.saved_activations import SavedActivations
from assay.engine import Batch, Method
from assay.errors import AssayError, CannotTreat
from assay.nn.column_row_sampling import Estimator
from assay.nn.gradient_norm_cache import GradientNormCache
from assay.nn.wta_crs import WTACRSLinear, to_wta_crs

if TYPE_CHECKING:
    from assay.engine import Run


@dataclass
class WTACRS(Method):
    """Linear layers and products keep a part of the rows of their inputs for backward; evaluation is ordinary.

    The record's extra `saved_activation_bytes` is what autograd keeps of the first step's forward pass.

    Args:
        ratio: share of the token rows that is kept, in (0, 1]; 1 trains as usual, but tells what is kept.
        estimator: `wta`; `crs`, all rows drawn; `topk`, the likeliest alone, which is biased.
        min_rows: no fewer rows are kept.
        cache: choose rows by the norms of their gradients the last time that their sample was seen; else by their own
            norms alone.

    Raises:
        AssayError: a setting is out of its range.
    """

    name: ClassVar[str] = "wta-crs"
    needs: ClassVar[frozenset[str]] = frozenset({"ids"})

    ratio: float = 0.3
    estimator: Estimator = "wta"
    min_rows: int = 10
    cache: bool = True

    def __post_init__(self) -> None:
        try:
            WTACRSLinear(1, 1, device="meta", **self._settings)
        except ValueError as error:
            raise AssayError(str(error)) from None

    @property
    def _settings(self) -> dict[str, Any]:
        return {"ratio": self.ratio, "estimator": self.estimator, "min_rows": self.min_rows}

    def setup(self, run: "Run") -> None:
        self._norms = GradientNormCache()
        try:
            run.model = to_wta_crs(run.model, cache=self._norms if self.cache else None, **self._settings)
        except ValueError as error:
            raise CannotTreat(f"method 'wta-crs' cannot treat task {run.task.name!r}: {error}") from error
        self._axes: list[int] = []
        self._watching = [
            layer.register_forward_pre_hook(lambda layer, inputs: self._axes.append(inputs[0].ndim))
            for layer in run.model.modules()
            if isinstance(layer, WTACRSLinear)
        ]

    def objective(self, run: "Run", batch: Batch, proceed: Callable[[Batch], Tensor]) -> Tensor:
        with self._norms.batch(batch.ids):
            return proceed(batch) if not self._watching else self._first(run, batch, proceed)

    def _first(self, run: "Run", batch: Batch, proceed: Callable[[Batch], Tensor]) -> Tensor:
        with SavedActivations(run.model) as saved:
            loss = proceed(batch)
        run.log("saved_activation_bytes", saved.bytes)
        for handle in self._watching:
            handle.remove()
        self._watching = []
        if max(self._axes, default=0) < 3:
            raise CannotTreat(
                f"method 'wta-crs' cannot treat task {run.task.name!r}: {type(run.model).__name__} has no linear layer "
                "on token rows, with inputs [batch, tokens, features]; rows that are whole samples are not sampled"
            )
        return loss

    def state_dict(self) -> dict[str, Any]:
        return self._norms.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._norms.load_state_dict(state)
