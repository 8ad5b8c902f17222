"""Batch sizes that grow by tests of the gradient's noise, with AdaGrad, as a method of a run."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.optim import Adagrad, Optimizer
from torch.utils._pytree import tree_map

from assay.engine import Batch, GrowingStream, Method, Recipe, Task
from assay.engine.recipe import make_optimizer
from assay.engine.task import batches
from assay.errors import AssayError, CannotTreat, UnknownName
from assay.methods.normalized_gd import NormalizedGD
from assay.optim.adagrad_norm import AdaGradNorm
from assay.optim.adaptive_batch import AdaptiveBatchSize
from assay.optim.gradient_moments import GradientMoments, OuterProducts, per_sample_gradients

if TYPE_CHECKING:
    from assay.engine import Run

USES = {  # the options that a test has a use for
    "norm": {"eta"},
    "inner-product": {"theta"},
    "augmented": {"theta", "nu"},
    "coordinate": {"eta", "quantile"},
    "none": set[str](),
}
OPTIMIZERS = ("adagrad", "adagrad-norm", "recipe")


@dataclass
class AdAdaGrad(Method):
    """The batch starts at the recipe's size and grows when a test finds its gradient too noisy.

    Each step's batch is tested by the gradients of its samples before the update, and the next one's size follows; it
    never falls. What is above `part_size` is computed in parts whose gradients add up. Epochs have every sample once,
    however the batch grows, and the last batch is made to end a budget of samples or epochs exactly. The recipe's
    schedule goes by the share of the budget that is spent. Batch norm sees the parts of a batch each by itself, and
    for the test its running statistics. The record's series `batch size` has the growth.

    Args:
        test: `norm`; `inner-product`; `augmented`, that and orthogonality; `coordinate`, the norm test of every
            coordinate; `none`, for the optimizer alone.
        eta: of the norm tests; a batch that is all noise grows by 1 / eta^2.
        theta: of the inner-product test.
        nu: of the orthogonality test.
        quantile: share of the coordinates that must pass the coordinate-wise test.
        exact: test on all training data, at the cost of an epoch each time.
        interval: steps from test to test.
        max_batch: where growth ends; the training set by default.
        part_size: most samples whose gradients are held at a time.
        optimizer: `adagrad`; `adagrad-norm`; `recipe`, the recipe's own.
        lr: learning rate; the recipe's by default.

    Raises:
        AssayError: an option is out of its range, or nothing would change.
    """

    name: ClassVar[str] = "adadagrad"
    needs: ClassVar[frozenset[str]] = frozenset({"loss", "stream", "budget"})

    test: Literal["norm", "inner-product", "augmented", "coordinate", "none"] = "norm"
    eta: float = 0.5
    theta: float = 0.5
    nu: float = 1.0
    quantile: float = 1.0
    exact: bool = False
    interval: int = 1
    max_batch: int | None = None
    part_size: int = 256
    optimizer: Literal["adagrad", "adagrad-norm", "recipe"] = "adagrad"
    lr: float | None = None

    def __post_init__(self) -> None:
        if self.test not in USES:
            raise UnknownName("test", self.test, USES)
        if self.optimizer not in OPTIMIZERS:
            raise UnknownName("optimizer", self.optimizer, OPTIMIZERS)
        if self.test == "none" and self.optimizer == "recipe":
            raise AssayError("test=none and optimizer=recipe together change nothing")
        if self.lr is not None and not self.lr > 0:
            raise AssayError(f"lr must be positive, got {self.lr:g}")
        if self.part_size < 1:
            raise AssayError(f"part_size must be positive, got {self.part_size}")
        self._new_rule(2, 2 if self.max_batch is None else self.max_batch)

    def settings(self) -> dict[str, Any]:
        """Those that the test has a use for."""
        unused = {"eta", "theta", "nu", "quantile"} - USES[self.test]
        if self.test == "none":
            unused |= {"exact", "interval", "max_batch"}
        return {name: value for name, value in super().settings().items() if name not in unused}

    def check(self, task: Task, recipe: Recipe) -> None:
        super().check(task, recipe)
        cannot = f"method {self.name!r} cannot treat task {task.name!r}: "
        for hook, why in (
            ("objective", "its objective need not be a mean over samples, whose gradients are tested"),
            ("step", "its training step cannot be done in parts"),
            ("stream", "its batches come from a stream of its own, which cannot grow"),
        ):
            if getattr(type(task), hook) is not getattr(Task, hook):
                raise CannotTreat(cannot + why)
        if recipe.precision == "16-mixed":
            raise CannotTreat(cannot + "gradients of samples have no loss scaler; give precision bf16-mixed")
        if self.test != "none" and recipe.batch_size < 2:
            raise CannotTreat(cannot + f"a variance needs a batch_size of at least 2, got {recipe.batch_size}")
        after = recipe.methods[recipe.methods.index(self) + 1 :]
        within = [m.name for m in after if type(m).step is not Method.step]
        others = [m.name for m in recipe.methods if type(m).objective is not Method.objective]
        others += [m.name for m in recipe.methods if isinstance(m, NormalizedGD)]  # whose loss ties a batch together
        for other in within + others:
            raise CannotTreat(
                f"method {self.name!r} cannot be combined with {other!r}: the gradients it tests, or the parts of a "
                "batch, would not be what that method makes of them"
            )

    def setup(self, run: "Run") -> None:
        recipe = run.recipe if self.lr is None else replace(run.recipe, lr=self.lr)

        def optimizer(parameters: Any) -> Optimizer:
            if self.optimizer == "recipe":
                return make_optimizer(recipe, parameters)
            kind = Adagrad if self.optimizer == "adagrad" else AdaGradNorm
            return kind(parameters, lr=recipe.lr, weight_decay=recipe.weight_decay)

        def stream() -> GrowingStream:
            assert run.splits.train is not None
            samples = len(run.splits.train)
            start = min(recipe.batch_size, samples)
            if self.test != "none":
                self._rule = self._new_rule(start, max(start, min(self.max_batch or samples, samples)))
            augment = run.seed_for("augment")
            self._stream = GrowingStream(run.splits.train, start, run.seed_for("order"), augment_seed=augment)
            self._stream.batch_size = self._next(run, start, 0)
            return self._stream

        run.make_optimizer, run.make_stream = optimizer, stream

    def step(self, run: "Run", batch: Batch, proceed: Callable[[Batch], Tensor]) -> Tensor:
        run.trace("batch size", len(batch.ids))
        parts = self._parts(batch)
        tested = self.test != "none" and self._rule.due
        moments = self._moments(run, parts) if tested else None
        loss = proceed(batch) if len(parts) == 1 else _added_up(run, parts)
        size = self._stream.batch_size
        if self.test != "none":
            try:
                size = self._rule.update(moments, exact=self.exact)
            except FloatingPointError:  # the run has diverged, as its losses would show a few steps later
                return torch.full_like(loss, torch.nan)
            if self._rule.due != tested:
                run.recount()
        self._stream.batch_size = self._next(run, size, run.samples + len(batch.ids))
        return loss

    def state_dict(self) -> dict[str, Any]:
        return self._rule.state_dict() if self.test != "none" else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self.test != "none":
            self._rule.load_state_dict(state)

    def _new_rule(self, start: int, largest: int) -> AdaptiveBatchSize:
        try:
            return AdaptiveBatchSize(
                start,
                largest,
                "norm" if self.test == "none" else self.test,
                eta=self.eta,
                theta=self.theta,
                nu=self.nu,
                quantile=self.quantile,
                interval=self.interval,
            )
        except ValueError as error:
            raise AssayError(str(error).replace("max_batch_size", "max_batch")) from error

    def _parts(self, batch: Batch) -> list[Batch]:
        count = -(-len(batch.ids) // self.part_size)
        return [tree_map(lambda t, i=i: t.tensor_split(count)[i], batch) for i in range(count)]

    def _moments(self, run: "Run", parts: Sequence[Batch]) -> GradientMoments:
        if self.exact:
            parts = list(batches(run.splits.train, self.part_size, run.device))  # type: ignore[arg-type]

        def gradients(part: Batch) -> list[Tensor | OuterProducts]:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "gradients of single samples", UserWarning)  # the docstring says it
                return list(per_sample_gradients(run.forward_module, run.loss, part.x, part.y, factored=True).values())

        moments, grads = GradientMoments(), list[Tensor | OuterProducts]()
        for part in parts:
            grads = gradients(part)
            moments.update(grads)
        if self._rule.needs_products:
            for part in parts:
                moments.project(grads if len(parts) == 1 else gradients(part))
        return moments

    def _next(self, run: "Run", size: int, samples: int) -> int:
        """`size`, or all that a budget of samples has left after `samples` of them, if that is nearly as much."""
        whole = len(self._stream.examples)
        if run.budget.unit not in ("samples", "epochs"):
            return size
        left = round(run.budget.amount * (whole if run.budget.unit == "epochs" else 1)) - samples
        return left if 1 < left <= min(1.5 * size, whole) else size


def _added_up(run: "Run", parts: Sequence[Batch]) -> Tensor:
    """A training step on `parts` as on one batch."""
    samples, losses = sum(len(part.ids) for part in parts), []
    for part in parts:
        loss = run.objective(part) * (len(part.ids) / samples)
        run.backward(loss)
        losses.append(loss.detach())
    run.update()
    return torch.stack(losses).sum()
