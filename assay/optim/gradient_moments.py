"""Gradients of single samples, and their mean and variance taken a part of the batch at a time.

    g = (1/n) sum_i g_i            S = sum_i (g_i - g)^2, a value a coordinate

Two parts of a and b samples, of means g_a and g_b, join (Chan, Golub and LeVeque, 1979) to

    g = (a g_a + b g_b) / n        S = S_a + S_b + (a b / n) (g_b - g_a)^2,     n = a + b

so that S/(n - 1) is the variance of the whole batch however it was cut. (The authors of AdAdaGrad average the variances
within parts and add that between their means, which over M parts is too much by a factor of 1 + (M - 1)/n on average.)
"""

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_map

from assay.optim.layerwise import working_dtype


def per_sample_gradients(
    model: nn.Module, loss: Callable[[Any, Any], Tensor], x: Any, y: Any
) -> dict[str, Float[Tensor, "batch ..."]]:
    """The gradient of the loss of each sample alone, by `torch.func.vmap`.

    Their mean is the gradient of the batch's mean loss, where samples do not act on each other. In batch norm they do:
    its running statistics stand in for the batch's, as constants. Dropout draws for every sample anew; torch's
    generators are left as they were found. Memory goes with batch times parameters: give a part of the batch at a time.

    Args:
        model: called with one argument.
        loss: `(outputs, targets)` of a batch of one, to a scalar.
        x: inputs, a tensor or a nesting of tensors, of which each has the batch as its first axis.
        y: targets, likewise.

    Returns:
        a gradient for every parameter that is trained, by its name.

    Warns:
        UserWarning: there is batch norm in training mode.
    """
    trained = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    cuda = {p.device for p in trained.values() if p.device.type == "cuda"}

    def of_one(parameters: dict[str, Tensor], x: Any, y: Any) -> Tensor:
        x, y = tree_map(lambda t: t[None], (x, y))
        return loss(functional_call(model, parameters, (x,)), y)

    # fused attention has no rule for vmap, and would go sample by sample
    with torch.random.fork_rng(devices=cuda), _running_statistics(model), sdpa_kernel(SDPBackend.MATH):
        found: dict[str, Tensor] = vmap(grad(of_one), (None, 0, 0), randomness="different")(trained, x, y)
    return found


@contextmanager
def _running_statistics(model: nn.Module) -> Iterator[None]:
    coupled = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training]
    # without running statistics it normalises each sample by itself, as in the code of AdAdaGrad
    coupled = [m for m in coupled if m.running_mean is not None]
    if coupled:
        warnings.warn(
            "gradients of single samples take batch norm with its running statistics: their mean is not quite the "
            "gradient of the batch",
            stacklevel=4,
        )
    for module in coupled:
        module.training = False
    try:
        yield
    finally:
        for module in coupled:
            module.training = True


class GradientMoments:
    """Mean and variance of the gradients of samples, and of their inner products with the mean.

        moments = GradientMoments()
        for part in parts:
            moments.update(per_sample_gradients(model, loss, *part).values())

    Inner products need the mean, so they take a second pass, by `project`. Memory is twice that of the parameters; all
    is held in float32 at least.

    Attributes:
        samples: n, how many there were.
        mean: g, a tensor a parameter.
        squares: S, likewise.
    """

    def __init__(self) -> None:
        self.samples = 0
        self.mean: list[Tensor] = []
        self.squares: list[Tensor] = []
        self._products: list[Tensor] = []

    @classmethod
    def of(cls, grads: Iterable[Float[Tensor, "samples ..."]]) -> "GradientMoments":
        """Those of one batch, inner products too."""
        grads, made = list(grads), cls()
        made.update(grads)
        made.project(grads)
        return made

    def update(self, grads: Iterable[Float[Tensor, "samples ..."]]) -> None:
        """Take in a part of the samples.

        Args:
            grads: a tensor a parameter, in the same order each time.

        Raises:
            ValueError: there are no gradients, or not equally many samples in all.
        """
        part = GradientMoments()
        for g in grads:
            # in one pass over the largest tensors there are here
            variance, mean = torch.var_mean(g.to(working_dtype(g.dtype)), dim=0, correction=0)
            part.mean.append(mean)
            part.squares.append(variance * len(g))
            if part.samples not in (0, len(g)):
                raise ValueError(f"grads must be of equally many samples, got {part.samples} and {len(g)}")
            part.samples = len(g)
        if not part.samples:
            raise ValueError("grads must hold gradients of at least one sample, got none")
        self.merge(part)

    def merge(self, other: "GradientMoments") -> None:
        """Take in the samples of `other`, such as those of another device; inner products are to be taken anew."""
        self._products = []
        if not self.samples:
            self.samples = other.samples
            self.mean, self.squares = [t.clone() for t in other.mean], [t.clone() for t in other.squares]
            return
        samples = self.samples + other.samples
        share = other.samples / samples
        for mean, squares, theirs, added in zip(self.mean, self.squares, other.mean, other.squares, strict=True):
            apart = theirs - mean
            squares.add_(added).addcmul_(apart, apart, value=self.samples * share)
            mean.add_(apart, alpha=share)
        self.samples = samples

    def project(self, grads: Iterable[Float[Tensor, "samples ..."]]) -> None:
        """Take the inner products with the mean of a part of the samples, all of which `update` has been given."""
        pairs = zip(grads, self.mean, strict=True)
        rows = [g.to(mean.dtype).flatten(1) @ mean.flatten() if mean.ndim else g * mean for g, mean in pairs]
        self._products.append(torch.stack(rows, dim=1))

    @property
    def products(self) -> Float[Tensor, "samples parameters"]:
        """<g_i, g>, parameter by parameter; their sum over these is that of the whole gradient.

        Raises:
            ValueError: `project` has not been given as many samples as `update`.
        """
        given = sum(map(len, self._products))
        if not given or given != self.samples:
            raise ValueError(f"project() must be given the {self.samples} samples of update(), got {given}")
        return torch.cat(self._products)

    def mean_squares(self) -> Float[Tensor, " parameters"]:
        """|g|^2, parameter by parameter."""
        return torch.stack([mean.square().sum() for mean in self.mean])

    def variances(self, correction: int = 1) -> Float[Tensor, " parameters"]:
        """Variance summed over coordinates, parameter by parameter: S / (n - correction).

        Raises:
            ValueError: there are not more than `correction` samples.
        """
        return torch.stack([squares.sum() for squares in self.squares]) / self.degrees(correction)

    def degrees(self, correction: int = 1) -> int:
        """The divisor of the variance, n - correction.

        Raises:
            ValueError: that is not positive.
        """
        if self.samples <= correction:
            raise ValueError(f"a variance needs at least {correction + 1} samples, got {self.samples}")
        return self.samples - correction
