"""Adversaries of stale weights, made beside the step that uses earlier ones.

    step t:   g = d/dtheta [ mean l(theta_t; x_t, y_t) + w mean l(theta_t; x'_t, y_t) ],    x'_t of theta_{t-tau}
              x'_{t+tau} = Pi( x_{t+tau} + step sign d l(theta_t; x_{t+tau}, y_{t+tau}) / dx )
              theta_{t+1} = update(theta_t, g)

Neither of the first two lines waits for the other, so they run at the same time. With tau = 0 the attack comes first,
and this is plain adversarial training.

Source: Liu et al., "Concurrent Adversarial Learning for Large-Batch Training" (ICLR 2022), algorithm 1. The authors'
code takes the mean of clean, augmented and adversarial batches, where the paper adds clean and adversarial means.
"""

import copy
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from assay.data.adversarial import PGD
from assay.nn.split_batch_norm import keep_stream, use_stream

Loss = Callable[..., Tensor]
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


class Moved(NamedTuple):
    """An adversarial batch.

    Attributes:
        x: inputs, detached.
        y: the true targets.
    """

    x: Tensor
    y: Tensor


class ConcurrentAdversary:
    """Attacks batches that will be trained on `staleness` steps later, while the present step computes its gradient.

        adversary = ConcurrentAdversary(model, epsilon=9 / 255)
        for (x, y), (next_x, next_y) in pairwise(batches):
            moved = adversary.start(next_x, next_y)
            concurrent_loss(model, x, y, moved).backward()
            adversary.wait()
            optimizer.step()

    On a GPU the attack has a CUDA stream of its own, on a CPU a thread: torch's kernels hold no interpreter lock. A
    process, which must copy the batches, was 5% faster where networks are large and slower where they are small. The
    bits are those of `concurrent=False`, where each attack is done when `start` returns. So it is under a dispatch mode
    (a FLOP counter) as well, which would not see into the thread.

    The attacked network shares the model's parameters. It has the adversarial stream of `SplitBatchNorm`; torch's batch
    norms take the batch's own statistics, without moving the running ones; all else is in eval mode. Make the adversary
    after all surgery; parameters must be changed in place from then on.

    Args:
        model: the network that is trained.
        epsilon: radius in l-inf, in pixels of [0, 1].
        step_size: of the one step, likewise; epsilon by default.
        staleness: tau; 0 attacks the present batch by the present weights.
        random_start: probability that a batch's attack starts uniformly in the ball instead of at the inputs; the
            authors' code has 0.8.
        targeted: descend to a wrong class, drawn uniformly for each sample, as the authors' code does, instead of
            ascending from the true one; for classes as targets.
        loss: `(outputs, targets, reduction="none")` to a loss for each sample.
        mean, std: of each channel, or one for all: inputs are (pixels - mean) / std.
        generator: of start and target classes, on the CPU; needed where either is drawn.
        concurrent: attack at the same time.

    Raises:
        ValueError: an argument is out of its range, or there is no generator and something to draw.

    Source: Liu et al. 2022, algorithm 1; start, target and epsilon = step_size = 9 / 255 from the authors' code.
    """

    def __init__(
        self,
        model: nn.Module,
        epsilon: float,
        *,
        step_size: float | None = None,
        staleness: int = 1,
        random_start: float = 0.0,
        targeted: bool = False,
        loss: Loss = cross_entropy,
        mean: float | tuple[float, ...] = 0.0,
        std: float | tuple[float, ...] = 1.0,
        generator: torch.Generator | None = None,
        concurrent: bool = True,
    ) -> None:
        if staleness < 0:
            raise ValueError(f"staleness must be at least 0, got {staleness}")
        if not 0 <= random_start <= 1:
            raise ValueError(f"random_start must lie in [0, 1], got {random_start}")
        if generator is None and (random_start or targeted):  # torch's own serves the training, at the same time
            raise ValueError("generator must be given for random_start and targeted, got None")
        size = epsilon if step_size is None else step_size
        steps = 1 if size else 0  # epsilon 0: nothing to move
        self._attacks = {
            start: PGD(epsilon, steps, size or None, start=start, mode="as is", mean=mean, std=std)
            for start in ("zero", "uniform")
        }
        self.staleness, self.random_start, self.targeted = staleness, random_start, targeted
        self.loss, self.generator, self.concurrent = loss, generator, concurrent
        self._attacked, self._buffers = _attacked_view(model)
        self._waiting: list[Moved] = []
        self._awaited = False
        self._running: Future[Moved] | None = None
        self._thread: ThreadPoolExecutor | None = None
        self._stream: torch.cuda.Stream | None = None

    def start(self, x: Tensor, y: Tensor) -> Moved | None:
        """Begin to attack a batch by the weights as they are now; `wait()` must follow before these change.

        Args:
            x: inputs [batch, ...] of the step `staleness` from here, normalised as `mean` and `std` say.
            y: their targets.

        Returns:
            the adversarial batch of the present step; `None` in the first `staleness` steps, which have none.

        Raises:
            RuntimeError: the attack that was started before has not been waited for.
        """
        if self._awaited:
            raise RuntimeError("start() was called again without wait(), which must come before the optimizer's step")
        for own, trained in self._buffers:
            own.copy_(trained)
        if not self.staleness:
            return self._attack(x, y)
        self._awaited = True
        present = self._waiting.pop(0) if len(self._waiting) == self.staleness else None
        if not self.concurrent or is_in_torch_dispatch_mode():
            self._waiting.append(self._attack(x, y))
        elif x.is_cuda:
            self._waiting.append(self._attack_on_stream(x, y))
        else:
            self._thread = self._thread or ThreadPoolExecutor(1, "assay-adversary")
            # a thread begins without the autocast of the one that starts it
            how = torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")
            self._running = self._thread.submit(self._attack_on_thread, x, y, *how)
        return present

    def wait(self) -> None:
        """Let the attack that was started come to its end: between the backward pass and the optimizer's step."""
        self._awaited = False
        if self._running is not None:
            running, self._running = self._running, None
            self._waiting.append(running.result())
        if self._stream is not None:
            torch.cuda.current_stream(self._stream.device).wait_stream(self._stream)

    def _attack(self, x: Tensor, y: Tensor) -> Moved:
        generator = self.generator
        random = self.random_start > 0 and float(torch.rand((), generator=generator)) < self.random_start
        wrong = torch.rand(y.shape, generator=generator).to(y.device) if self.targeted else None

        def objective(h: Tensor) -> Tensor:
            if wrong is None:
                return self.loss(h, y, reduction="none")
            others = h.shape[1] - 1
            return -self.loss(h, (y + 1 + (wrong * others).long()) % h.shape[1], reduction="none")

        attack = self._attacks["uniform" if random else "zero"]
        return Moved(attack(self._attacked, x, objective, generator), y)

    def _attack_on_thread(self, x: Tensor, y: Tensor, autocast: bool, dtype: torch.dtype) -> Moved:
        with torch.autocast("cpu", dtype, enabled=autocast):
            return self._attack(x, y)

    def _attack_on_stream(self, x: Tensor, y: Tensor) -> Moved:
        here = torch.cuda.current_stream(x.device)
        self._stream = self._stream or torch.cuda.Stream(x.device)  # type: ignore[no-untyped-call]
        self._stream.wait_stream(here)  # for the weights and the batch
        with torch.cuda.stream(self._stream):
            moved = self._attack(x, y)
        for tensor, user in ((x, self._stream), (y, self._stream), (moved.x, here)):
            tensor.record_stream(user)  # or the allocator might give its memory away too early
        return moved

    def state_dict(self) -> dict[str, Any]:
        """The adversarial batches that wait for their steps: all that is left of stale weights. Between steps."""
        return {"waiting": [tuple(moved) for moved in self._waiting]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what `state_dict` gave."""
        device = next(self._attacked.parameters()).device
        self._waiting = [Moved(*(tensor.to(device) for tensor in moved)) for moved in state["waiting"]]


def concurrent_loss(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    moved: Moved | None,
    *,
    loss: Loss = cross_entropy,
    adv_weight: float = 1.0,
    reduction: Literal["sum", "mean"] = "sum",
) -> Tensor:
    """The loss of a clean batch plus that of an adversarial one, each through its own stream of `SplitBatchNorm`.

    Args:
        model: the network.
        x: clean inputs [batch, ...].
        y: targets.
        moved: the adversarial batch, of whatever size; without one the loss is the clean one.
        loss: `(outputs, targets)` to a scalar.
        adv_weight: of the adversarial loss beside the clean one's 1.
        reduction: `sum`, as in the paper; `mean` divides by the sum of the weights.

    Raises:
        ValueError: `adv_weight` is negative, or `reduction` unknown.

    Source: Liu et al. 2022, section 3 and algorithm 1.
    """
    if not adv_weight >= 0:
        raise ValueError(f"adv_weight must be at least 0, got {adv_weight}")
    if reduction not in ("sum", "mean"):
        raise ValueError(f"reduction must be sum or mean, got {reduction!r}")
    clean = loss(model(x), y)
    if moved is None:
        return clean
    with use_stream(model, "adversarial"):
        total = clean + adv_weight * loss(model(moved.x), moved.y)
    return total if reduction == "sum" else total / (1 + adv_weight)


def _attacked_view(model: nn.Module) -> tuple[nn.Module, list[tuple[Tensor, Tensor]]]:
    """The model with the same parameters and modes of its own, so that it may be used while the model trains; and its
    buffers, which a step may change in the meantime, each with the model's."""
    memo: dict[int, Any] = {id(p): p for p in model.parameters()}
    copies = {id(buffer): (buffer.clone(), buffer) for buffer in model.buffers()}
    view = copy.deepcopy(model, memo | {name: own for name, (own, _) in copies.items()}).eval()
    view = keep_stream(view, "adversarial")
    for layer in view.modules():
        if isinstance(layer, _NORMS):  # which without running statistics takes the batch's
            layer.running_mean = layer.running_var = layer.num_batches_tracked = None
    left = {id(buffer) for buffer in view.buffers()}
    return view, [(own, trained) for own, trained in copies.values() if id(own) in left]
