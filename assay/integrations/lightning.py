"""Methods in Lightning's Trainer: `pip install assay[lightning]`."""

import math
from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._pytree import tree_map_only

from assay.engine import Batch, Method, Recipe
from assay.engine.arithmetic import Arithmetic
from assay.errors import AssayError, CannotTreat
from assay.integrations.session import Session

_STATE = "assay"


class Methods(Callback):  # type: ignore[misc]
    """Methods at work in a module of your own: make it with the module, and give it to the Trainer.

        module = MyModule()  # its training_step calls self.model and self.loss
        methods = Methods(module, [CutMix(prob=0.5)], loss="loss", traits={"classification", "images"})
        Trainer(callbacks=[methods]).fit(module, loader)

    The network may be another object from then on; the module has it. `training_step` gets treated batches and, while
    it runs, the treated loss, which mixed precision leaves in float32; validation keeps the plain one. Optimizer and
    schedule are the module's own, or with a `recipe` that recipe's in place of them, the schedule spread over the
    Trainer's steps. Where a method goes around the whole step, the module is put into manual optimization, in which
    Lightning refuses to accumulate gradients and to clip them; the recipe's `clip_norm` is heeded always. Checkpoints
    hold the methods' state.

    Args:
        module: with automatic optimization and one optimizer.
        methods: in force in this order.
        recipe: its optimizer, schedule and `clip_norm` are used; `precision` must be the Trainer's.
        network: name of the attribute that holds the network.
        loss: name of the attribute or method `(outputs, targets, reduction="mean")`, if methods act on it.
        target: the name of the targets in batches that are dictionaries.
        traits: as in `Session`; so are `seed` and `ids`.

    Raises:
        AssayError: the module does not fit.
        CannotTreat: a method cannot be carried.
    """

    def __init__(
        self,
        module: LightningModule,
        methods: Iterable[Method],
        recipe: Recipe | None = None,
        *,
        network: str = "model",
        loss: str | None = None,
        target: str = "labels",
        traits: Iterable[str] = (),
        seed: int = 0,
        ids: bool = False,
    ) -> None:
        if not module.automatic_optimization:
            raise AssayError("the module does its own manual optimization; assay's methods need the automatic one")
        for name in filter(None, (network, loss)):
            if not hasattr(module, name):
                raise AssayError(f"{type(module).__name__} has no attribute {name!r}: name its network and its loss")
        plain = getattr(module, loss) if loss else None
        if isinstance(plain, nn.Module):
            raise AssayError(f"{loss} must be a function such as F.cross_entropy, got a {type(plain).__name__}")
        self.module, self.network, self.recipe, self._target = module, network, recipe, target
        self.session = Session(
            *(getattr(module, network), methods, plain, recipe),
            traits=traits, seed=seed, ids=ids, objective=self._objective,
            arithmetic=_ByLightning(module), host="Lightning's Trainer",
        )  # fmt: skip
        self._own_step = module.training_step
        self._whole = self.session.overriding("step")
        self._training = False
        self._call: Callable[[Batch], Any]
        self._said: dict[str, Any] = {}
        setattr(module, network, self.session.model)
        if loss:
            self._hide_loss(loss)
        if recipe is not None:
            self._hold_all_weights()
            module.configure_optimizers = self._configure_optimizers
        if self._whole:
            module.automatic_optimization = False
        module.training_step = self._training_step()
        self._keep_state()

    # What is put in place of the module's own ---------------------------------------------------------------------

    def _hide_loss(self, name: str) -> None:
        plain = getattr(self.module, name)

        @wraps(plain)
        def loss(*args: Any, **kwargs: Any) -> Tensor:
            if not self._training:
                own: Tensor = plain(*args, **kwargs)
                return own
            kind = self.session.device.type
            if torch.is_autocast_enabled(kind):  # as in a run, whose loss lies outside, on outputs in full precision
                args, kwargs = tree_map_only(Tensor, _full, (args, kwargs))
            with torch.autocast(kind, enabled=False):
                treated: Tensor = self.session.loss(*args, **kwargs)
                return treated

        setattr(self.module, name, loss)

    def _hold_all_weights(self) -> None:
        inside = {id(p) for p in self.session.model.parameters()}
        outside = [name for name, p in self.module.named_parameters() if p.requires_grad and id(p) not in inside]
        if outside:
            raise AssayError(f"a recipe trains {self.network!r} alone, which would leave out {', '.join(outside)}")

    def _training_step(self) -> Callable[..., Any]:
        @wraps(self._own_step)
        def training_step(batch: Any, *args: Any, **kwargs: Any) -> Any:
            treated, back = self.session.taken(batch, self._target)
            self._call = lambda given: self._own_step(back(given), *args, **kwargs)
            if self._whole:
                loss = self.session.around(treated)
                for config in self.module.trainer.lr_scheduler_configs:
                    config.scheduler.step()
            else:
                loss = self.session.objective(treated)
            return self._said | {"loss": loss}

        return training_step

    def _objective(self, session: Session, batch: Batch) -> Tensor:
        self._training = True
        try:
            said = self._call(batch)
        finally:
            self._training = False
        self._said = dict(said) if isinstance(said, dict) else {"loss": said}
        loss = self._said["loss"]
        if not isinstance(loss, Tensor):
            raise AssayError(f"training_step must return a loss, or a dictionary that has one, got {loss!r}")
        return loss

    def _configure_optimizers(self) -> Any:
        steps, _ = self._lengths(self.module.trainer)
        if steps is None:
            raise AssayError("give the Trainer max_steps or max_epochs, over which the recipe's schedule is spread")
        optimizer = self.session.make_optimizer(self.session.trained())
        schedule = self.session.make_schedule(optimizer, steps)
        made = {"lr_scheduler": {"scheduler": schedule, "interval": "step"}} if schedule is not None else {}
        return {"optimizer": optimizer} | made

    def _keep_state(self) -> None:
        # the module's hooks and not the callback's: these alone come before the weights are put back
        save: Any = self.module.on_save_checkpoint
        load: Any = self.module.on_load_checkpoint

        def on_save_checkpoint(checkpoint: dict[str, Any]) -> None:
            save(checkpoint)
            checkpoint[_STATE] = self.session.state_dict()

        def on_load_checkpoint(checkpoint: dict[str, Any]) -> None:
            if _STATE in checkpoint:
                self.session.load_state_dict(checkpoint[_STATE])
            elif self.module.trainer.state.fn == "fit":
                raise AssayError("training cannot go on from this checkpoint: it was written without methods")
            load(checkpoint)

        self.module.on_save_checkpoint = on_save_checkpoint
        self.module.on_load_checkpoint = on_load_checkpoint

    # What Lightning calls -----------------------------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if pl_module is not self.module:
            raise AssayError("the Trainer was given another module than the methods were")
        if stage != "fit":
            return
        if self.recipe is not None and self.recipe.precision != trainer.precision:
            raise AssayError(f"the recipe's precision is {self.recipe.precision}, the Trainer's {trainer.precision}")
        if self._whole and trainer.precision == "16-mixed":
            around = ", ".join(self._whole)
            raise CannotTreat(f"method {around!r} goes around the whole step: precision must not be 16-mixed")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if len(trainer.optimizers) != 1:
            raise AssayError(f"the module must have one optimizer, it has {len(trainer.optimizers)}")
        if self._whole and self.recipe is None and trainer.lr_scheduler_configs:
            around = ", ".join(self._whole)
            raise CannotTreat(
                f"method {around!r} goes around the whole step, where Lightning steps no schedule: give a recipe"
            )
        self.session.start(*self._lengths(trainer))
        (optimizer,) = trainer.optimizers
        if self._whole:
            self.session.optimizers = {"main": pl_module.optimizers()}
            return
        self.session.optimizers = {"main": optimizer}
        # not on_train_batch_end, before which Lightning steps the schedule, and which comes without an update too
        self._hook = optimizer.register_step_post_hook(lambda *_: self.session.updated())

    def _lengths(self, trainer: Trainer) -> tuple[int | None, int | None]:
        """Steps in all and in an epoch, where Lightning knows them."""
        total = trainer.estimated_stepping_batches
        epoch = trainer.num_training_batches / trainer.accumulate_grad_batches
        return int(total) if 0 < total < math.inf else None, math.ceil(epoch) if epoch < math.inf else None

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        if self._whole:
            return
        self.session.gradients()
        if self.session.clip_norm:
            pl_module.clip_gradients(optimizer, self.session.clip_norm, "norm")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._whole:
            self._hook.remove()
        self.session.finish()
        setattr(pl_module, self.network, self.session.model)

    def _on_evaluation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if batch_idx == 0:
            self.session.begin_evaluation()

    on_validation_batch_start = _on_evaluation_batch_start
    on_test_batch_start = _on_evaluation_batch_start
    on_predict_batch_start = _on_evaluation_batch_start


def _full(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


class _ByLightning(Arithmetic):
    """Backward and update by a module in manual optimization; how the network computes is Lightning's affair."""

    def __init__(self, module: LightningModule) -> None:
        super().__init__("32-true", "cpu")
        self.module = module

    def backward(self, loss: Tensor, inputs: list[Tensor] | None) -> None:
        self.module.manual_backward(loss, inputs=inputs)

    def step(self, optimizer: Optimizer) -> None:
        optimizer.step()
