"""Methods in Hugging Face's Trainer: `pip install assay[transformers]`."""

import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, get_last_checkpoint

from assay.engine import Batch, Method, Recipe
from assay.engine.arithmetic import Arithmetic
from assay.errors import AssayError, CannotTreat
from assay.integrations.batches import IDS
from assay.integrations.session import Session

_STATE = "assay.pt"
_Base: Any = Trainer if TYPE_CHECKING else object


class MethodsMixin(_Base):  # type: ignore[misc]
    """Methods at work in a Trainer: to be mixed in before the Trainer's own class.

        class MethodsTrainer(MethodsMixin, Trainer): ...

        trainer = MethodsTrainer(model, args, train_dataset=data, methods=[LabelSmoothing()], loss=F.cross_entropy,
                                 traits={"classification"})
        trainer.train()

    The network may be another object from then on; `trainer.model` is it. With `loss`, the network is called without
    the labels, and the loss is that of its `logits`, or of its output where that is a tensor; without, it is the one
    that the network returns. Evaluation has the plain loss. Optimizer and schedule are those of `args`, or with a
    `recipe` that recipe's in place of them. Where a method goes around the whole step, the mixin updates the weights
    itself; the Trainer, which does so too, then finds no gradients. The seed is `args.seed`. Checkpoints hold the
    methods' state.

    Args:
        model: the network; a `model_init` is refused, since methods must treat the network before the Trainer has it.
        args: the Trainer's settings.
        positional: what else the Trainer takes, in its order.
        methods: in force in this order.
        recipe: its optimizer and schedule are used; `batch_size`, `clip_norm` and `precision` must be those of `args`.
        loss: `(logits, labels, reduction="mean")`, such as `F.cross_entropy`.
        traits: as in `Session`; so is `ids`, a column of the batches.
        named: what else the Trainer takes, by name.

    Raises:
        AssayError: `args`, the recipe and the methods do not fit together.
        CannotTreat: a method cannot be carried.
    """

    optimizer: Any
    lr_scheduler: Any
    label_names: list[str]

    def __init__(
        self,
        model: nn.Module,
        args: TrainingArguments,
        *positional: Any,
        methods: Iterable[Method] = (),
        recipe: Recipe | None = None,
        loss: Callable[..., Tensor] | None = None,
        traits: Iterable[str] = (),
        ids: bool = False,
        **named: Any,
    ) -> None:
        if model is None or named.get("model_init") is not None:
            raise AssayError("give the model itself, not model_init: methods treat it before the Trainer has it")
        if loss is not None and (named.get("compute_loss_func") is not None or args.label_smoothing_factor):
            raise AssayError("give either loss or the Trainer's compute_loss_func and label_smoothing_factor, not both")
        if recipe is not None:
            _agree(recipe, args)
        self.session = Session(
            *(model, methods, loss, recipe),
            traits=traits, seed=args.seed, ids=ids, objective=self._objective,
            arithmetic=_ByAccelerate(self), host="Hugging Face's Trainer",
        )  # fmt: skip
        self.session.clip_norm = args.max_grad_norm or 0.0
        self._recipe, self._training = recipe, False
        self._whole = self.session.overriding("step")
        self._check_steps(args)
        super().__init__(self.session.model, args, *positional, **named)
        if recipe is not None and (self.optimizer is not None or self.lr_scheduler is not None):
            raise AssayError("give either a recipe or optimizers, not both")
        if loss is not None:
            self.model_accepts_loss_kwargs = False  # or the Trainer would not divide the loss by the batches added up
            self.label_names = self.label_names or ["labels"]
        if len(self.label_names) > 1:
            raise AssayError(f"batches must have one entry of labels, they have {', '.join(self.label_names)}")
        self.add_callback(_Events(self))

    def _check_steps(self, args: TrainingArguments) -> None:
        reading = self.session.overriding("gradients", "step")
        if reading and args.fp16:
            raise CannotTreat(f"method {', '.join(reading)!r} meets gradients, which fp16 scales: give bf16=True")
        if self._whole and args.gradient_accumulation_steps != 1:
            raise CannotTreat(
                f"method {', '.join(self._whole)!r} goes around the whole step: "
                f"gradient_accumulation_steps must be 1, got {args.gradient_accumulation_steps}"
            )

    # The loss and the step ----------------------------------------------------------------------------------------

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        inputs = self._prepare_inputs(inputs)
        self._batch, self._back = self.session.taken(inputs, self._target)
        self._wrapped, self._items, self._training = model, num_items_in_batch, True
        try:
            if self._whole:
                model.train()
                return self.session.around(self._batch)
            loss: Tensor = super().training_step(model, inputs, num_items_in_batch)
        finally:
            self._training = False
        if self.accelerator.sync_gradients:  # the last of the batches that are added up
            self.session.gradients()
        return loss

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        if self._training:
            return self.session.objective(self._batch)
        plain = self.session.plain_loss
        inputs = {name: value for name, value in inputs.items() if name != IDS}
        if plain is None:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        labels = inputs.pop(self._target)
        outputs = model(**inputs)
        loss = plain(_logits(outputs), labels)
        return (loss, {"logits": outputs} if isinstance(outputs, Tensor) else outputs) if return_outputs else loss

    def _objective(self, session: Session, batch: Batch) -> Tensor:
        for module in session.still:  # the Trainer puts all modules into training mode at each step
            module.eval()
        inputs = {name: value for name, value in self._back(batch).items() if name != IDS}
        with self.compute_loss_context_manager():
            if session.plain_loss is None:
                loss: Tensor = super().compute_loss(self._wrapped, inputs, num_items_in_batch=self._items)
                return loss
            labels = inputs.pop(self._target)
            return session.loss(_logits(self._wrapped(**inputs)), labels)

    @property
    def _target(self) -> str:
        return self.label_names[0] if self.label_names else "labels"

    # Optimizer, evaluation, checkpoints ---------------------------------------------------------------------------

    def create_optimizer(self, *given: Any, **named: Any) -> Optimizer:
        if self._recipe is None:
            super().create_optimizer(*given, **named)
        elif self.optimizer is None:
            self.optimizer = self.session.make_optimizer(self.session.trained())
        made: Optimizer = self.optimizer
        return made

    def create_scheduler(self, num_training_steps: int, optimizer: Optimizer | None = None) -> Any:
        if self._recipe is None:
            return super().create_scheduler(num_training_steps, optimizer)
        if self.lr_scheduler is None:
            raw = _raw(optimizer or self.optimizer)
            made = self.session.make_schedule(raw, num_training_steps)
            self.lr_scheduler = made if made is not None else LambdaLR(raw, lambda step: 1.0)
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def evaluation_loop(self, *given: Any, **named: Any) -> Any:
        self.session.begin_evaluation()
        return super().evaluation_loop(*given, **named)

    def train(self, resume_from_checkpoint: str | bool | None = None, *given: Any, **named: Any) -> Any:
        folder = resume_from_checkpoint
        if folder is True:
            folder = get_last_checkpoint(str(self.args.output_dir))
        if folder:
            if not (Path(folder) / _STATE).is_file():
                raise AssayError(f"checkpoint {folder} has no {_STATE}: it was written without methods")
            # before the Trainer puts the weights back, whose shapes a method may have changed
            self.session.load_state_dict(torch.load(Path(folder) / _STATE, weights_only=True))
        return super().train(resume_from_checkpoint, *given, **named)


class _Events(TrainerCallback):  # type: ignore[misc]
    """What the Trainer tells of itself."""

    def __init__(self, trainer: MethodsMixin) -> None:
        self.trainer, self.session = trainer, trainer.session

    def on_train_begin(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        loader = kwargs["train_dataloader"]
        batches = len(loader) if hasattr(loader, "__len__") else None
        self.session.start(state.max_steps, batches and math.ceil(batches / args.gradient_accumulation_steps))
        self.session.optimizers = {"main": _raw(self.trainer.optimizer)}

    def on_optimizer_step(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        if not self.trainer._whole and not self.trainer.accelerator.optimizer_step_was_skipped:
            self.session.updated()

    def on_save(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            folder = Path(str(args.output_dir)) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
            torch.save(self.session.state_dict(), folder / _STATE)

    def on_train_end(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        self.session.finish()
        self.trainer.model = self.trainer.model_wrapped = self.session.model


class _ByAccelerate(Arithmetic):
    """Backward and update by the Trainer's accelerator; how the network computes is its affair."""

    def __init__(self, trainer: MethodsMixin) -> None:
        super().__init__("32-true", "cpu")
        self.trainer = trainer

    def backward(self, loss: Tensor, inputs: list[Tensor] | None) -> None:
        self.trainer.accelerator.backward(loss, inputs=inputs)

    def step(self, optimizer: Optimizer) -> None:
        self.trainer.optimizer.step()


def _agree(recipe: Recipe, args: TrainingArguments) -> None:
    precision = "bf16-mixed" if args.bf16 else "16-mixed" if args.fp16 else "32-true"
    for name, own, theirs, flag in (
        ("batch_size", recipe.batch_size, args.train_batch_size, "per_device_train_batch_size"),
        ("clip_norm", recipe.clip_norm, args.max_grad_norm or 0.0, "max_grad_norm"),
        ("precision", recipe.precision, precision, "bf16 and fp16"),
    ):
        if own != theirs:
            raise AssayError(f"recipe {name} must be that of the TrainingArguments, {theirs} (by {flag}), got {own}")


def _raw(optimizer: Any) -> Optimizer:
    """The optimizer without accelerate's wrapper."""
    raw: Optimizer = getattr(optimizer, "optimizer", optimizer)
    return raw


def _logits(outputs: Any) -> Any:
    return outputs["logits"] if isinstance(outputs, Mapping) else outputs
