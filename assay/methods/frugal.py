"""FRUGAL as a method of a run, with GaLore and BAdam among its settings."""

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import nn
from torch.optim import Optimizer

from assay.engine import Method, Recipe
from assay.engine.recipe import make_schedule
from assay.errors import AssayError, CannotTreat
from assay.optim import frugal
from assay.optim.state_bytes import state_bytes

if TYPE_CHECKING:
    from assay.engine import Run


@dataclass
class FRUGAL(Method):
    """FRUGAL in place of the recipe's optimizer, on the weights of all layers but the last linear one.

    Embeddings, normalisation, biases and the last layer are trained by the state-full rule alone. The betas and the
    weight decay are the recipe's. `projection=svd,state_free=none,reset_statistics=false,lr_scale=0.25` is GaLore,
    `state_free=none` BAdam. The record's extra `optimizer state (bytes)` is the most that was held after a step: blocks
    differ in size.

    Args:
        density: share of each weight, or of the weights, that has state, in [0, 1].
        projection: `block`, `columns`, `rows`, `randk`, `random` or `svd`.
        update_gap: steps between two choices of that share.
        block_order: of `block`: `random`, `ascending`, `descending` or `mirror`.
        state_full: `adamw`, `sgdm` or `lion`.
        state_free: `sign_sgd`, `sgd` or `none`, of the rest.
        lr_scale: learning rate of these weights, as a multiple of the others'.
        state_free_lr_scale: that of the rest, as a multiple of the state-full part's.
        reset_statistics: start the state anew with each choice.
        lr: learning rate; the recipe's by default.

    Raises:
        AssayError: a setting is out of its range.
        CannotTreat: the network has no weights to project.
    """

    name: ClassVar[str] = "frugal"
    strategies: ClassVar[frozenset[str]] = frozenset({"ddp", "fsdp"})

    density: float = 0.25
    projection: Literal["block", "columns", "rows", "randk", "random", "svd"] = "block"
    update_gap: int = 200
    block_order: Literal["random", "ascending", "descending", "mirror"] = "random"
    state_full: Literal["adamw", "sgdm", "lion"] = "adamw"
    state_free: Literal["sign_sgd", "sgd", "none"] = "sign_sgd"
    lr_scale: float = 1.0
    state_free_lr_scale: float = 1.0
    reset_statistics: bool = True
    lr: float | None = None

    def __post_init__(self) -> None:
        if self.lr is not None and not self.lr > 0:
            raise AssayError(f"lr must be positive, got {self.lr}")
        try:
            frugal.FRUGAL([torch.zeros(1, 1)], **self._options())
        except ValueError as error:
            raise AssayError(str(error)) from None

    def _options(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "lr"}

    def check_devices(self, recipe: Recipe, devices: int, strategy: str) -> None:
        super().check_devices(recipe, devices, strategy)
        if strategy == "fsdp" and self.projection != "block":
            raise CannotTreat(
                f"method {self.name!r} projects whole matrices, which strategy fsdp divides; give projection=block, or "
                "strategy ddp"
            )

    def setup(self, run: "Run") -> None:
        recipe = run.recipe if self.lr is None else replace(run.recipe, lr=self.lr)
        if all("projection" in group for group in frugal.frugal_groups(run.model)):
            raise CannotTreat(f"method {self.name!r} needs layers beside the last one, this network has none")
        seed = run.seed_for(f"generator:{self.name}")
        run.make_optimizer = lambda parameters: self._make(recipe, run.model, parameters, seed)
        run.make_schedule = lambda made, total: make_schedule(recipe, made, total)

    def _make(self, recipe: Recipe, model: nn.Module, parameters: Any, seed: int) -> Optimizer:
        wanted = {id(p) for p in parameters}  # a task with several optimizers names those of each
        groups = frugal.frugal_groups(model)
        mine = [group | {"params": [p for p in group["params"] if id(p) in wanted]} for group in groups]
        return frugal.FRUGAL(
            [group for group in mine if group["params"]],
            lr=recipe.lr,
            betas=(recipe.momentum, recipe.beta2),
            weight_decay=recipe.weight_decay,
            seed=seed,
            **self._options(),
        )

    def updated(self, run: "Run") -> None:
        held = sum(map(state_bytes, run.optimizers.values()))
        run.log("optimizer state (bytes)", max(held, run.extras.get("optimizer state (bytes)", 0)))
