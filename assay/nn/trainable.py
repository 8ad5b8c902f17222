"""Train a part of a network and leave the rest as it is.

    theta = (trained, frozen),    frozen(t) = frozen(0)

Frozen is `requires_grad = False` and no gradient left over, so that no optimizer moves it, by weight decay or momentum
either. Layers keep their mode: a batch norm in train mode averages its statistics whether its affine parameters are
trained or not.

Source: Frankle, Schwab, Morcos, "Training BatchNorm and Only BatchNorm" (ICLR 2021), section 3.
"""

from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase
from types import TracebackType

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from assay.nn.affine import affine_parameters
from assay.nn.random_weights import RandomWeights

Select = str | Sequence[str] | Callable[[str, nn.Parameter], bool]

PARTS = ("batchnorm", "norm", "output", "shortcuts", "random", "others", "all")
_SHORTCUTS = {"shortcut", "downsample"}  # what ours and torchvision's, timm's and transformers' blocks call theirs


def trainable_only(model: nn.Module, select: Select = "batchnorm") -> "Frozen":
    """Train the parameters that `select` chooses and no others.

    Before the optimizer is made, and before a wrapper for distributed training, both of which read the flags once.

    Args:
        model: changed in place.
        select: one of the parts below or several joined by `/`, such as `"batchnorm/output"`; a list of patterns of
            parameter names, wildcards as in a shell; or `(name, parameter) -> bool`. The parts: `batchnorm`, the affine
            parameters of batch norms; `norm`, those of every normalisation; `output`, the last linear layer that the
            model registers; `shortcuts`, the weights (not the normalisation) in modules called `shortcut` or
            `downsample`; `random`, what `add_random_weights` made; `others`, all but batchnorm, output and random;
            `all`, all but random.

    Returns:
        what was done: `.trained`, `.undo()`; as a context manager it gives the model and undoes at exit.

    Raises:
        ValueError: a part is unknown or the model has nothing of it, a pattern fits no parameter, or none is chosen.
        TypeError: the model is wrapped for distributed training.
    """
    if isinstance(model, DistributedDataParallel):
        raise TypeError("model must be frozen before it is wrapped: got DistributedDataParallel, want its .module")
    chosen = _chosen(model, select)
    if not chosen:
        raise ValueError(f"select must choose at least one parameter of {type(model).__name__}, got none")
    return Frozen(model, chosen)


def freeze(
    model: nn.Module, *, batchnorm: bool = False, output: bool = True, others: bool = True,
    exceptions: Sequence[str] = (),
) -> "Frozen":  # fmt: skip
    """Freeze by the three groups of the authors' code; the defaults train batch norm alone.

    Args:
        model: changed in place.
        batchnorm: freeze the affine parameters of batch norms.
        output: freeze the output layer.
        others: freeze all else.
        exceptions: patterns of the names of parameters that are trained all the same.

    Returns:
        as `trainable_only`.

    Raises:
        ValueError: a pattern fits no parameter, a group that is to be trained is empty, or nothing is left to train.
    """
    flags = {"batchnorm": batchnorm, "output": output, "others": others}
    trained = _named(model, list(exceptions))
    for part in (part for part, frozen in flags.items() if not frozen):
        trained |= _part(model, part)
    return trainable_only(model, lambda name, parameter: name in trained)


class Frozen:
    """What `trainable_only` did to a model.

    Attributes:
        model: the model.
        trained: names of the parameters that are trained.
    """

    def __init__(self, model: nn.Module, trained: set[str]) -> None:
        named = list(model.named_parameters())
        self.model, self.trained = model, [name for name, _ in named if name in trained]
        self._before = [(parameter, parameter.requires_grad) for _, parameter in named]
        _set((parameter, name in trained) for name, parameter in named)

    def undo(self) -> nn.Module:
        """Require gradients as before; a second call does nothing.

        Returns:
            the model.
        """
        _set(self._before)
        self._before = []
        return self.model

    def __enter__(self) -> nn.Module:
        return self.model

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.undo()


def _set(flags: Iterable[tuple[nn.Parameter, bool]]) -> None:
    for parameter, flag in flags:
        parameter.requires_grad_(flag)
        if not flag:
            parameter.grad = None  # an optimizer would go on stepping by it


def _chosen(model: nn.Module, select: Select) -> set[str]:
    if isinstance(select, str):
        return {name for part in select.split("/") for name in _part(model, part)}
    if callable(select):
        return {name for name, parameter in model.named_parameters() if select(name, parameter)}
    return _named(model, select)


def _named(model: nn.Module, patterns: Sequence[str]) -> set[str]:
    names = [name for name, _ in model.named_parameters()]
    found: set[str] = set()
    for pattern in patterns:
        fits = {name for name in names if fnmatchcase(name, pattern)}
        if not fits:
            raise ValueError(f"{pattern!r} fits no parameter; the first is {names[:1]}")
        found |= fits
    return found


def _part(model: nn.Module, part: str) -> set[str]:
    """The names of a part's parameters."""
    if part not in PARTS:
        raise ValueError(f"select must be made of {', '.join(PARTS)}, got {part!r}")
    parts = _parts(model)
    if not parts[part]:
        has = ", ".join(name for name, names in parts.items() if names)
        raise ValueError(f"model must have parameters of part {part!r} to train; it has {has or 'none at all'}")
    return parts[part]


def _parts(model: nn.Module) -> dict[str, set[str]]:
    named = dict(model.named_parameters())  # a tied one under its first name

    def names(parameters: Iterable[nn.Parameter]) -> set[str]:
        ids = {id(p) for p in parameters}
        return {name for name, parameter in named.items() if id(parameter) in ids}

    linear = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    batchnorm = names(affine_parameters(model).values())
    norm = names(affine_parameters(model, "norm").values())
    output = names(linear[-1].parameters()) if linear else set()
    random = names(layer.values for layer in model.modules() if isinstance(layer, RandomWeights))
    everything = set(named) - random
    shortcuts = {name for name in everything if _SHORTCUTS & set(name.split("."))} - norm
    return {
        "batchnorm": batchnorm,
        "norm": norm,
        "output": output,
        "shortcuts": shortcuts,
        "random": random,
        "others": everything - batchnorm - output,
        "all": everything,
    }
