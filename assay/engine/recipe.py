"""What a run does beyond its task: optimizer, schedule, batch size and the methods in force."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

from torch.optim import SGD, Adam, AdamW, Optimizer, lr_scheduler

from assay.errors import AssayError, UnknownName

if TYPE_CHECKING:
    from assay.engine.method import Method

OPTIMIZERS = ("sgd", "adam", "adamw")
SCHEDULES = ("constant", "linear", "cosine", "onecycle")
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed", "64-true")


@dataclass(frozen=True)
class Recipe:
    """The settings of one arm.

    Attributes:
        optimizer: `sgd`, `adam` or `adamw`, torch's own; a method may put another in its place.
        lr: learning rate, the peak where there is a schedule.
        momentum: SGD's momentum, and beta1 of the Adams.
        beta2: second-moment decay of the Adams.
        weight_decay: as the optimizer takes it (coupled in SGD and Adam, decoupled in AdamW).
        schedule: `constant`, `linear` (to 0), `cosine` (to 0) or `onecycle`, over the whole budget.
        warmup: share of the budget, in [0, 1), over which the rate first rises linearly.
        batch_size: samples a step.
        clip_norm: largest 2-norm of a gradient, 0 for none.
        precision: Lightning Fabric's name: `32-true`, `bf16-mixed`, `16-mixed`, `64-true`.
        methods: applied in this order.
    """

    optimizer: str = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    beta2: float = 0.999
    weight_decay: float = 0.0
    schedule: str = "constant"
    warmup: float = 0.0
    batch_size: int = 64
    clip_norm: float = 0.0
    precision: str = "32-true"
    methods: "tuple[Method, ...]" = field(default=())

    def __post_init__(self) -> None:
        for name, known in (("optimizer", OPTIMIZERS), ("schedule", SCHEDULES), ("precision", PRECISIONS)):
            if getattr(self, name) not in known:
                raise UnknownName(name, getattr(self, name), known)
        for name in ("lr", "batch_size"):
            if not 0 < getattr(self, name) < math.inf:
                raise AssayError(f"{name} must be positive and finite, got {getattr(self, name):g}")
        for name in ("weight_decay", "clip_norm"):
            if not 0 <= getattr(self, name) < math.inf:
                raise AssayError(f"{name} must be finite and not negative, got {getattr(self, name):g}")
        for name in ("momentum", "beta2", "warmup"):
            if not 0 <= getattr(self, name) < 1:
                raise AssayError(f"{name} must lie in [0, 1), got {getattr(self, name):g}")

    def with_settings(self, settings: Mapping[str, Any]) -> "Recipe":
        """A copy with the named fields changed; strings are read as the field's type.

        Raises:
            AssayError: no such field, or a value it cannot take.
        """
        kinds = {f.name: type(f.default) for f in fields(self) if f.name != "methods"}
        changed = {}
        for name, value in settings.items():
            if name not in kinds:
                raise UnknownName("setting", name, kinds)
            changed[name] = _read(name, value, kinds[name])
        return replace(self, **changed)

    def with_methods(self, methods: "Iterable[Method]") -> "Recipe":
        """A copy with these methods in force."""
        return replace(self, methods=tuple(methods))

    def describe(self) -> dict[str, Any]:
        """The recipe as JSON-able values: what identifies it."""
        plain = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "methods"}
        return plain | {"methods": [{"name": m.name, **m.settings()} for m in self.methods]}


def _read(name: str, value: Any, kind: type) -> Any:
    try:
        number = float(value) if kind in (int, float) else value
        if kind is int and number != int(number):
            raise ValueError
        return kind(number)
    except (TypeError, ValueError, OverflowError):
        wants = {int: "a whole number", float: "a number"}.get(kind, "a word")
        raise AssayError(f"{name} must be {wants}, got {value!r}") from None


def make_optimizer(recipe: Recipe, parameters: Any) -> Optimizer:
    """The recipe's optimizer over `parameters` (tensors or groups)."""
    if recipe.optimizer == "sgd":
        return SGD(parameters, lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay)
    kind = Adam if recipe.optimizer == "adam" else AdamW
    return kind(parameters, lr=recipe.lr, betas=(recipe.momentum, recipe.beta2), weight_decay=recipe.weight_decay)


def make_schedule(recipe: Recipe, optimizer: Optimizer, total: int) -> lr_scheduler.LRScheduler | None:
    """The recipe's schedule over `total` ticks, for whatever rates the optimizer's groups have; `None` if constant."""
    if recipe.schedule == "onecycle":
        peaks = [group["lr"] for group in optimizer.param_groups]
        share = recipe.warmup or 0.3
        return lr_scheduler.OneCycleLR(optimizer, peaks, total + 1, pct_start=share, cycle_momentum=False)
    warm = round(recipe.warmup * total)
    if recipe.schedule == "constant" and not warm:
        return None
    rest = max(total - warm, 1)

    def factor(tick: int) -> float:
        if tick < warm:
            return (tick + 1) / (warm + 1)
        left = 1 - (tick - warm) / rest
        return {"constant": 1.0, "linear": left, "cosine": (1 - math.cos(math.pi * left)) / 2}[recipe.schedule]

    return lr_scheduler.LambdaLR(optimizer, factor)
