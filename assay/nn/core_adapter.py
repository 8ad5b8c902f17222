"""Core: online adaptation of a trained model to the test batches it is given.

For each batch: predict by alpha-BN, take the class correlation of these predictions as a loss, and step gamma and beta
of the BatchNorm layers on its gradient.

Source: You, Li, Zhao, "Test-time batch statistics calibration for covariate shift" (2021), arXiv 2110.04065; what its
text leaves open follows the protocol of Wang et al., "Tent: fully test-time adaptation by entropy minimization" (ICLR
2021), with which it compares.
"""

import copy
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributions import Categorical
from torch.optim import Adam, Optimizer

from assay.losses.class_correlation import class_correlation_loss
from assay.nn.alpha_batch_norm import AlphaBatchNorm, alpha_bn
from assay.nn.surgery import Selection

Objective = Callable[[Tensor], Tensor]


def _entropy(logits: Tensor) -> Tensor:
    each: Tensor = Categorical(logits=logits.float(), validate_args=False).entropy()  # type: ignore[no-untyped-call]
    return each.mean()


_LOSSES: Mapping[str, Objective] = {"core": class_correlation_loss, "entropy": _entropy}


class CoreAdapter(nn.Module):
    """`adapter(batch) -> logits`: predicts, and learns from each batch without its labels.

    Continual by default: a batch is predicted before the step it causes, and what was learnt stays for the next ones;
    call `reset()` where the stream changes. Episodic: every batch starts from the source model and is predicted after
    its own steps, at the price of one more forward pass.

    It works under `torch.no_grad()`, which it lifts for itself, and under autocast. The model is in eval mode whatever
    mode the adapter is in, so that dropout is off. The logits carry no gradient. A batch whose loss or gradient is not
    finite is predicted and otherwise passed over; `skipped` counts these.

    Several processes each adapt to their own stream, and nothing is exchanged: statistics, loss and weights are per
    rank. Treat the module under a DistributedDataParallel, not the wrapper.

    Its state dict holds the adapted model, the source's gamma and beta, and the optimizer, so that a stream goes on
    from it as it would have.

    Args:
        model: trained, with BatchNorm. Adapted is a copy, the model stays as it is.
        alpha: weight of the stored statistics, as in `alpha_bn`.
        loss: `"core"`, `"entropy"` (Tent's), or `logits -> scalar`.
        optimizer: makes it of the parameters, such as `partial(SGD, lr=2.5e-4, momentum=0.9)`; by default Adam.
        lr: of the default optimizer.
        steps: on each batch, at least 1.
        episodic: see above.
        unbiased: as in `alpha_bn`.
        include: which BatchNorm layers, as in `assay.nn.surgery.replace`; the others stay and are not adapted.
        exclude: which not.
        in_place: adapt `model` itself; `release()` gives it back as it was.

    Raises:
        ValueError: an argument is out of range, or the model has no BatchNorm with gamma and beta.
        TypeError: the model is wrapped for distributed training.

    Source: You, Li, Zhao, "Test-time batch statistics calibration for covariate shift" (2021).
    """

    def __init__(
        self,
        model: nn.Module,
        alpha: float | Mapping[str, float] = 0.9,
        *,
        loss: Literal["core", "entropy"] | Objective = "core",
        optimizer: Callable[[list[nn.Parameter]], Optimizer] | None = None,
        lr: float = 1e-3,
        steps: int = 1,
        episodic: bool = False,
        unbiased: bool = False,
        include: Selection | None = None,
        exclude: Selection | None = None,
        in_place: bool = False,
    ) -> None:
        super().__init__()
        if steps < 1:
            raise ValueError(f"steps must be at least 1, got {steps}")
        if isinstance(loss, str) and loss not in _LOSSES:
            raise ValueError(f"loss must be one of {', '.join(_LOSSES)} or a function, got {loss!r}")
        self.loss = _LOSSES[loss] if isinstance(loss, str) else loss
        self.steps, self.episodic = steps, episodic
        self._make = optimizer or partial(Adam, lr=lr)
        self._surgery = alpha_bn(
            model if in_place else copy.deepcopy(model), alpha, unbiased=unbiased, include=include, exclude=exclude
        )
        self.model = self._surgery.model
        layers = [layer for layer in self.model.modules() if isinstance(layer, AlphaBatchNorm)]
        self._adapted = list(dict.fromkeys(p for layer in layers for p in layer.parameters(recurse=False)))
        if not self._adapted:
            self._surgery.undo()
            raise ValueError("model must hold a BatchNorm layer with gamma and beta to adapt, got only affine=False")
        self._source = [p.detach().clone() for p in self._adapted]
        self._wanted = [p.requires_grad for p in self._adapted]
        self._mode = self.model.training
        self.model.eval()
        self.reset()

    def reset(self) -> None:
        """Go back to the source model, to the bit, and to a fresh optimizer."""
        with torch.no_grad():
            for p, source in zip(self._adapted, self._source, strict=True):
                p.copy_(source)
                p.requires_grad_(True)
        self.optimizer = self._make(self._adapted)
        self.skipped = 0

    def release(self) -> nn.Module:
        """Undo everything: the model as it was given (or its copy). The adapter is of no use afterwards."""
        self.reset()
        for p, wanted in zip(self._adapted, self._wanted, strict=True):
            p.requires_grad_(wanted)
        return self._surgery.undo().train(self._mode)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Logits [batch, classes] of what the model takes.

        Raises:
            RuntimeError: within `torch.inference_mode()`, which allows no gradient.
        """
        if torch.is_inference_mode_enabled():
            raise RuntimeError(
                "CoreAdapter learns from its batches: call it under torch.no_grad(), not inference_mode()"
            )
        if self.episodic:
            skipped = self.skipped
            self.reset()
            self.skipped = skipped
        predicted: list[Tensor] = []
        for _ in range(self.steps):
            with torch.enable_grad():
                logits = self.model(*args, **kwargs)
                loss = self.loss(logits)
                # asked for these alone, so that no other parameter has a gradient computed or kept
                gradients = torch.autograd.grad(loss, self._adapted)
            predicted.append(logits.detach())
            if not self._step(loss.detach(), gradients):
                break
        if self.episodic:
            with torch.no_grad():
                return torch.as_tensor(self.model(*args, **kwargs))
        return predicted[0]

    @torch.no_grad()
    def _step(self, loss: Tensor, gradients: tuple[Tensor, ...]) -> bool:
        largest = torch.stack([loss.float(), *(g.abs().max().float() for g in gradients)])
        if not bool(largest.isfinite().all()):
            self.skipped += 1
            return False
        for p, gradient in zip(self._adapted, gradients, strict=True):
            p.grad = gradient
        self.optimizer.step()
        for p in self._adapted:
            p.grad = None
        return True

    def train(self, mode: bool = True) -> "CoreAdapter":
        super().train(mode)
        self.model.eval()
        return self

    def get_extra_state(self) -> dict[str, Any]:
        return {"source": self._source, "optimizer": self.optimizer.state_dict(), "skipped": self.skipped}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self._source = [s.to(p) for s, p in zip(state["source"], self._adapted, strict=True)]
        self.optimizer = self._make(self._adapted)
        self.optimizer.load_state_dict(state["optimizer"])
        self.skipped = state["skipped"]
