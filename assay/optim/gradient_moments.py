"""Gradients of single samples, and their mean and variance taken a part of the batch at a time.

    g = (1/n) sum_i g_i            S = sum_i (g_i - g)^2, a value a coordinate

Two parts of a and b samples, of means g_a and g_b, join (Chan, Golub and LeVeque, 1979) to

    g = (a g_a + b g_b) / n        S = S_a + S_b + (a b / n) (g_b - g_a)^2,     n = a + b

so that S/(n - 1) is the variance of the whole batch however it was cut. In a linear layer g_i = d_i a_i^T, with d_i the
gradient of its output and a_i its input, so that nothing as large as all g_i is needed:

    g = (1/n) sum_i d_i a_i^T      S = sum_i d_i^2 (a_i^2)^T - n g^2      <g_i, g> = d_i^T g a_i

(The authors of AdAdaGrad average the variances within parts and add that between their means, which over M parts is too
much by a factor of 1 + (M - 1)/n on average.)
"""

import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_leaves, tree_map

from assay.optim.layerwise import working_dtype


class OuterProducts(NamedTuple):
    """Gradients d_i a_i^T of the weight of a linear layer, not multiplied out.

    Attributes:
        d: gradients of the layer's outputs.
        a: the layer's inputs.
    """

    d: Float[Tensor, "samples outputs"]
    a: Float[Tensor, "samples inputs"]


Grads = Iterable[Float[Tensor, "samples ..."] | OuterProducts]


def per_sample_gradients(
    model: nn.Module, loss: Callable[[Any, Any], Tensor], x: Any, y: Any, *, factored: bool = False
) -> dict[str, Float[Tensor, "batch ..."] | OuterProducts]:
    """The gradient of the loss of each sample alone, by `torch.func.vmap`.

    Their mean is the gradient of the batch's mean loss, where samples do not act on each other. In batch norm they do:
    its running statistics stand in for the batch's, as constants. Dropout draws for every sample anew; torch's
    generators are left as they were found. Memory goes with batch times parameters, those of `OuterProducts` left out:
    give a part of the batch at a time.

    Args:
        model: called with one argument.
        loss: `(outputs, targets)` of a batch of one, to a scalar.
        x: inputs, a tensor or a nesting of tensors, of which each has the batch as its first axis.
        y: targets, likewise.
        factored: give the weights of linear layers as `OuterProducts`, which takes a fraction of the time; of those
            `nn.Linear` that are called once, on one vector a sample. Nothing else may use such a weight.

    Returns:
        a gradient for every parameter that is trained, by its name.

    Warns:
        UserWarning: there is batch norm in training mode.
    """
    trained = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    cuda = {p.device for p in trained.values() if p.device.type == "cuda"}
    inputs: dict[str, Tensor] = {}
    shifts: dict[str, Tensor] = {}

    def of_one(whole: dict[str, Tensor], zeros: dict[str, Tensor], x: Any, y: Any) -> tuple[Tensor, dict[str, Tensor]]:
        shifts.update(zeros)
        x, y = tree_map(lambda t: t[None], (x, y))
        value = loss(functional_call(model, trained | whole, (x,)), y)
        return value, dict(inputs)

    # fused attention has no rule for vmap, and would go sample by sample
    with _running_statistics(model), sdpa_kernel(SDPBackend.MATH), torch.random.fork_rng(devices=cuda):
        with torch.random.fork_rng(devices=cuda):
            layers = _on_vectors(model, x) if factored else {}
        whole = {name: p for name, p in trained.items() if name not in layers}
        count = len(tree_leaves(x)[0])
        zeros = {name: output.new_zeros(count, *output.shape) for name, (_, output) in layers.items()}
        with ExitStack() as stack:
            for name, (layer, _) in layers.items():
                stack.enter_context(_shifted(layer, name, inputs, shifts))
            both = grad(of_one, (0, 1), has_aux=True)
            (found, d), a = vmap(both, (None, 0, 0, 0), randomness="different")(whole, zeros, x, y)
    return {name: OuterProducts(d[name][:, 0], a[name][:, 0]) if name in d else found[name] for name in trained}


def _on_vectors(model: nn.Module, x: Any) -> dict[str, tuple[nn.Linear, Tensor]]:
    """The linear layers that are called once, on one vector a sample, and their output, by the name of the weight."""
    owners = Counter(id(p) for _, p in model.named_parameters(remove_duplicate=False))
    calls: dict[nn.Module, list[tuple[int, Tensor]]] = {}
    layers = {
        f"{name}.weight" if name else "weight": layer
        for name, layer in model.named_modules()
        if type(layer) is nn.Linear and layer.weight.requires_grad and owners[id(layer.weight)] == 1
    }
    hooks = [
        layer.register_forward_hook(lambda layer, args, out: calls.setdefault(layer, []).append((args[0].ndim, out)))
        for layer in layers.values()
    ]
    with torch.no_grad():
        model(tree_map(lambda t: t[:1], x))
    for hook in hooks:
        hook.remove()
    of = {name: calls.get(layer, []) for name, layer in layers.items()}
    return {name: (layers[name], found[0][1]) for name, found in of.items() if [n for n, _ in found] == [2]}


@contextmanager
def _shifted(layer: nn.Linear, name: str, inputs: dict[str, Tensor], shifts: Mapping[str, Tensor]) -> Iterator[None]:
    """Note the input of `layer`, and add to its output a shift, with respect to which there is a gradient."""

    def hook(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        inputs[name] = args[0]
        return output + shifts[name]

    handle = layer.register_forward_hook(hook, prepend=True)  # before others change the output
    try:
        yield
    finally:
        handle.remove()


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
            moments.update(per_sample_gradients(model, loss, *part, factored=True).values())

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
    def of(cls, grads: Grads) -> "GradientMoments":
        """Those of one batch, inner products too."""
        grads, made = list(grads), cls()
        made.update(grads)
        made.project(grads)
        return made

    def update(self, grads: Grads) -> None:
        """Take in a part of the samples.

        Args:
            grads: a tensor a parameter, in the same order each time.

        Raises:
            ValueError: there are no gradients, or not equally many samples in all.
        """
        part = GradientMoments()
        for g in grads:
            samples = len(g.d if isinstance(g, OuterProducts) else g)
            if not samples or part.samples not in (0, samples):
                raise ValueError(
                    f"grads must be of equally many samples, one or more, got {part.samples} and {samples}"
                )
            mean, squares = _moments(g, samples)
            part.mean.append(mean)
            part.squares.append(squares)
            part.samples = samples
        if not part.samples:
            raise ValueError("grads must hold the gradients of a parameter, got none")
        if self.samples:
            self.merge(part)
        else:  # what nobody else has need not be copied
            self.samples, self.mean, self.squares = part.samples, part.mean, part.squares

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

    def project(self, grads: Grads) -> None:
        """Take the inner products with the mean of a part of the samples, all of which `update` has been given."""
        rows = [_products(g, mean) for g, mean in zip(grads, self.mean, strict=True)]
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


def _moments(g: Tensor | OuterProducts, samples: int) -> tuple[Tensor, Tensor]:
    """Mean and S."""
    if isinstance(g, OuterProducts):
        d, a = _working(g)
        mean = d.T @ a / samples
        # digits are lost where gradients hardly vary, and there every test passes with ease
        return mean, (d.square().T @ a.square()).addcmul_(mean, mean, value=-samples).clamp_(min=0)
    variance, mean = torch.var_mean(g.to(working_dtype(g.dtype)), dim=0, correction=0)
    return mean, variance * samples


def _products(g: Tensor | OuterProducts, mean: Tensor) -> Tensor:
    """<g_i, mean>."""
    if isinstance(g, OuterProducts):
        d, a = _working(g)
        return (d @ mean * a).sum(1)
    return g.to(mean.dtype).flatten(1) @ mean.flatten() if mean.ndim else g.to(mean.dtype) * mean


def _working(g: OuterProducts) -> tuple[Tensor, Tensor]:
    return g.d.to(working_dtype(g.d.dtype)), g.a.to(working_dtype(g.a.dtype))
