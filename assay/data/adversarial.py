"""Projected gradient ascent on the input: an adversary, whatever it is to make large.

    x'_{t+1} = Pi( x'_t + step_size * s(g) ),   g = d objective(model(x'_t)) / d x'_t
    s(g) = sign g in l-inf,  g / ||g||_2 in l2;  Pi: onto the ball of radius epsilon about x, and onto [0, 1]

Pixels lie in [0, 1]; epsilon and steps are in their units whatever normalisation the network's inputs have.

Source: Madry et al., "Towards deep learning models resistant to adversarial attacks" (ICLR 2018).
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

TINY = 1e-12  # a gradient below it has no direction
GAUSSIAN = 1e-3  # standard deviation of the start that TRADES uses


@dataclass(frozen=True)
class PGD:
    """The attack, with its settings.

    Args:
        epsilon: radius of the ball, in pixels of [0, 1].
        steps: at least 0; none gives the start.
        step_size: in pixels; 2.5 epsilon / steps by default, which reaches any point of the ball.
        norm: `linf` or `l2`, the latter over all of a sample.
        restarts: the attack is begun so many times, and of each sample the largest objective kept.
        start: `uniform` in the ball, `gaussian` noise of 0.001 as TRADES has it, or `zero`, which leaves an objective
            that compares with the clean input without a gradient.
        mode: of the network while it is attacked, `eval` or `train`, or `as is`. In `train` layers with statistics of
            their own see the attack's batches.
        mean, std: of each channel, or one for all: inputs are (pixels - mean) / std.

    Raises:
        ValueError: a setting is out of range.

    Source: Madry et al. 2018; starts and modes as in Zhang et al., "Theoretically principled trade-off between
    robustness and accuracy" (TRADES, 2019), which attacks in eval mode.
    """

    epsilon: float
    steps: int = 10
    step_size: float | None = None
    norm: Literal["linf", "l2"] = "linf"
    restarts: int = 1
    start: Literal["uniform", "gaussian", "zero"] = "uniform"
    mode: Literal["eval", "train", "as is"] = "eval"
    mean: float | tuple[float, ...] = 0.0
    std: float | tuple[float, ...] = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.epsilon < math.inf:
            raise ValueError(f"epsilon must be at least 0 and finite, got {self.epsilon}")
        if self.steps < 0 or self.restarts < 1:
            raise ValueError(f"steps must be at least 0 and restarts at least 1, got {self.steps} and {self.restarts}")
        if self.step_size is not None and not 0 < self.step_size < math.inf:
            raise ValueError(f"step_size must be positive and finite, got {self.step_size}")
        for name, value, known in (
            ("norm", self.norm, ("linf", "l2")),
            ("start", self.start, ("uniform", "gaussian", "zero")),
            ("mode", self.mode, ("eval", "train", "as is")),
        ):
            if value not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
        if not all(s > 0 for s in _tuple(self.std)):
            raise ValueError(f"std must be positive, got {self.std}")

    def __call__(
        self,
        model: Callable[[Tensor], Tensor],
        x: Tensor,
        objective: Callable[[Tensor], Tensor],
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Inputs near `x` with a large objective.

        Args:
            model: from inputs to outputs; where it is a module its mode is put back after the attack. Its parameters
                get no gradients.
            x: inputs [batch, ...] of a floating type, normalised as `mean` and `std` say. They should be pictures:
                what lies outside of [0, 1] in pixels is pulled in.
            objective: from outputs to one value a sample [batch], to be made large.
            generator: of the start; on the CPU it serves inputs on any device.

        Returns:
            x', of the shape of `x`, detached.

        Raises:
            ValueError: `x` is of no floating type, or the objective does not give a value a sample.
        """
        if not x.is_floating_point() or not x.ndim:
            raise ValueError(f"x must be a batch of a floating type, got {x.dtype} of shape {list(x.shape)}")
        mean, std = (_along_channels(v, x) for v in (self.mean, self.std))
        plain = self.mean == 0 and self.std == 1
        pixels = x.detach() if plain else x.detach() * std + mean
        low, high = torch.zeros_like(pixels), torch.ones_like(pixels)
        if self.norm == "linf":  # the ball is a box, so that both projections are one
            low, high = (pixels - self.epsilon).clamp_(0, 1), (pixels + self.epsilon).clamp_(0, 1)

        def inputs(at: Tensor) -> Tensor:
            return at.detach() if plain else (at - mean) / std

        def value(inputs: Tensor) -> Tensor:
            found = objective(model(inputs))
            if found.shape != x.shape[:1]:
                raise ValueError(f"objective must give one value a sample [{len(x)}], got shape {list(found.shape)}")
            return found

        best, most = pixels, None
        with self.in_mode(model):
            for _ in range(self.restarts):
                at = self._started(pixels, low, high, generator)
                for _ in range(self.steps):
                    given = inputs(at).requires_grad_()
                    with torch.enable_grad():
                        # a view, because torch's counting of FLOPs by module cannot stand a leaf as a module's input
                        (g,) = torch.autograd.grad(value(given.view_as(given)).sum(), given)
                    at = self._stepped(at, g if plain else g / std, pixels, low, high)
                if self.restarts == 1:
                    best = at
                    break
                with torch.no_grad():
                    reached = value(inputs(at))
                if most is None:
                    best, most = at, reached
                else:
                    best = torch.where(_along_batch(reached > most, at), at, best)
                    most = torch.maximum(reached, most)
        return inputs(best).to(x.dtype)

    @contextmanager
    def in_mode(self, model: object) -> Iterator[None]:
        """The network in the attack's mode; inside, its answers are those that the attack sees."""
        if self.mode == "as is" or not isinstance(model, nn.Module):
            yield
            return
        before = [(module, module.training) for module in model.modules()]
        model.train(self.mode == "train")
        try:
            yield
        finally:
            for module, training in before:
                module.training = training

    @torch.no_grad()
    def _stepped(self, at: Tensor, g: Tensor, pixels: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """`at`, moved along the gradient `g`, which is not needed afterwards, and projected."""
        size = 2.5 * self.epsilon / self.steps if self.step_size is None else self.step_size
        if self.norm == "linf":
            return torch.clamp(g.sign_().mul_(size).add_(at), low, high)
        return self._projected(at + size * g / _along_batch(_lengths(g).clamp_min(TINY), g) - pixels, pixels)

    def _projected(self, change: Tensor, pixels: Tensor) -> Tensor:
        """`pixels` and a change of at most epsilon in l2, in [0, 1]. Clamping afterwards only shortens the change."""
        scale = (self.epsilon / _lengths(change).clamp_min(TINY)).clamp_max(1)
        return (pixels + change * _along_batch(scale, change)).clamp_(0, 1)

    @torch.no_grad()
    def _started(self, pixels: Tensor, low: Tensor, high: Tensor, generator: torch.Generator | None) -> Tensor:
        if self.start == "zero":
            return pixels.clamp(0, 1)
        device = pixels.device if generator is None else generator.device

        def draw(kind: Callable[..., Tensor], *shape: int) -> Tensor:
            return kind(shape, generator=generator, device=device, dtype=pixels.dtype).to(pixels.device)

        if self.start == "gaussian":
            change = GAUSSIAN * draw(torch.randn, *pixels.shape)
        elif self.norm == "linf":
            change = self.epsilon * (2 * draw(torch.rand, *pixels.shape) - 1)
        else:  # uniform in a ball of d dimensions: any direction, and a radius whose d-th power is uniform
            direction = draw(torch.randn, *pixels.shape)
            radius = self.epsilon * draw(torch.rand, len(pixels)) ** (1 / max(pixels[0].numel(), 1))
            change = direction * _along_batch(radius / _lengths(direction).clamp_min(TINY), direction)
        return torch.clamp(pixels + change, low, high) if self.norm == "linf" else self._projected(change, pixels)


def _tuple(value: float | tuple[float, ...]) -> tuple[float, ...]:
    return value if isinstance(value, tuple) else (value,)


def _along_channels(value: float | tuple[float, ...], x: Tensor) -> Tensor | float:
    if not isinstance(value, tuple):
        return value
    if x.ndim < 2 or len(value) not in (1, x.shape[1]):
        raise ValueError(f"mean and std must have one value a channel of x {list(x.shape)}, got {len(value)}")
    return torch.tensor(value, dtype=x.dtype, device=x.device).view(-1, *[1] * (x.ndim - 2))


def _along_batch(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *[1] * (like.ndim - 1))


def _lengths(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x.flatten(1), dim=1) if x.ndim > 1 else x.abs()
