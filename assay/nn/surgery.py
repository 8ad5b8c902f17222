"""Surgery: layers replaced in place by a rule, and put back exactly.

    with replace(model, lambda name, layer: nn.GELU() if type(layer) is nn.ReLU else None) as changed:
        ...

The one mechanism under every method that exchanges layers.
"""

import weakref
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from types import TracebackType

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils.parametrize import is_parametrized

Rule = Callable[[str, nn.Module], nn.Module | None]
Selection = str | type[nn.Module] | Iterable[str | type[nn.Module]]

_HOOKS = (
    "_forward_pre_hooks", "_forward_pre_hooks_with_kwargs",
    "_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called",
    "_backward_pre_hooks", "_backward_hooks",
    "_state_dict_pre_hooks", "_state_dict_hooks", "_load_state_dict_pre_hooks", "_load_state_dict_post_hooks",
)  # fmt: skip


def replace(
    model: nn.Module, rule: Rule, *, include: Selection | None = None, exclude: Selection | None = None
) -> "Surgery":
    """Put `rule(name, layer)` in the place of every layer for which it gives one; all or nothing.

    The rule sees each distinct layer once, parents first, by its qualified name (`""` is the model itself). It returns
    the replacement, or `None` to leave the layer and be asked about its children. To keep optimizers valid, weights
    tied and undo lossless, it hands the layer's own parameters and buffers to the replacement instead of copies.

    What is kept: a shared layer gets one replacement in all its places; hooks move to the replacement and their handles
    still remove them; the replacement takes over the layer's mode, and tensors that the rule made anew go to the
    layer's device and floating dtype where it has just one. A replacement that contains the layer (a wrapper) leaves
    its hooks where they are. Nothing marks a treated layer: a rule that goes by type is idempotent, one that wraps is
    so with its wrapper's type in `exclude`.

    The children of `nn.MultiheadAttention` are left alone, since it reads their weights and never calls them.

    Args:
        model: changed in place; only where the rule replaces the model itself must `.model` of the result be used.
        rule: `(name, layer) -> replacement or None`.
        include: which layers the rule sees: types, or names with shell wildcards; each stands for the layer and all
            beneath it. All by default.
        exclude: which it does not see; wins over `include`.

    Returns:
        the surgery done: `.model`, `.replaced`, `.undo()`; as a context manager it gives the model and undoes at exit.

    Raises:
        ValueError: a name in `include` or `exclude` fits no layer, or a layer cannot be replaced without loss: it is
            parametrized, has hooks that belong to it alone, or shares a parameter that its replacement does not hold.
        TypeError: the model is wrapped for distributed training, or the rule returned something else than a module.
    """
    if isinstance(model, DistributedDataParallel):
        raise TypeError("model must be replaced in before it is wrapped: got DistributedDataParallel, want its .module")
    visible = _visible(model, include, exclude)
    replacements: dict[nn.Module, nn.Module] = {}
    names: dict[nn.Module, str] = {}
    places: list[tuple[nn.Module, str, nn.Module]] = []

    def visit(name: str, layer: nn.Module) -> None:
        if layer in names:
            return
        names[layer] = name
        if layer in visible:
            new = rule(name, layer)
            if new is not None and not isinstance(new, nn.Module):
                raise TypeError(f"rule must return a module or None, got {type(new).__name__} for {name!r}")
            if new is not None and new is not layer:
                if new in replacements.values():
                    raise ValueError(f"rule must make a module of its own for each layer, got one again for {name!r}")
                replacements[layer] = new
                return
        if isinstance(layer, nn.MultiheadAttention):
            return
        for key, child in layer._modules.items():
            if child is not None:
                places.append((layer, key, child))
                visit(f"{name}.{key}" if name else key, child)

    visit("", model)
    _refuse_broken_ties(model, replacements, names)
    swaps = {old: _Swap(names[old], old, new) for old, new in replacements.items()}
    return Surgery(model, swaps, [place for place in places if place[2] in swaps])


class Surgery:
    """Replacements done to a model; made by `replace`.

    Attributes:
        model: the model as it is now.
        replaced: the layers taken out, by qualified name (a shared layer under its first).
    """

    def __init__(
        self, model: nn.Module, swaps: dict[nn.Module, "_Swap"], places: list[tuple[nn.Module, str, nn.Module]]
    ) -> None:
        self._original, self._swaps, self._places, self._done = model, swaps, places, True
        self.replaced = {swap.name: old for old, swap in swaps.items()}
        self.model = swaps[model].new if model in swaps else model
        for swap in swaps.values():
            swap.do()
        for parent, key, old in places:
            parent._modules[key] = swaps[old].new

    def undo(self) -> nn.Module:
        """Put every layer back as it was, with its hooks; a second call does nothing.

        What has happened since stays: parameters and buffers that layer and replacement share have their present
        values, and the layer follows its replacement's mode and device.

        Returns:
            the model.

        Raises:
            RuntimeError: a place holds something else by now, such as a later surgery's layer; nothing is changed.
        """
        if not self._done:
            return self.model
        for parent, key, old in self._places:
            if parent._modules.get(key) is not self._swaps[old].new:
                raise RuntimeError(
                    f"cannot undo: {self._swaps[old].name!r} was replaced again since; undo later surgeries first"
                )
        for parent, key, old in self._places:
            parent._modules[key] = old
        for swap in self._swaps.values():
            swap.undo()
        self.model, self._done = self._original, False
        return self.model

    def __enter__(self) -> nn.Module:
        return self.model

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.undo()


class _Swap:
    """One layer and its replacement; checked when made, carried out by `do`."""

    def __init__(self, name: str, old: nn.Module, new: nn.Module) -> None:
        self.name, self.old, self.new = name, old, new
        self.wraps = any(module is old for module in new.modules())
        if not self.wraps:
            self._refuse_unmovable()
        slots: dict[int, tuple[dict, str]] = {id(t): (held, key) for held, key, t in _tensors(old)}
        self.shared = [(held, key, *slots[id(t)]) for held, key, t in _tensors(new) if id(t) in slots]

    def _refuse_unmovable(self) -> None:
        if is_parametrized(self.old):
            raise ValueError(f"layer {self.name!r} is parametrized: remove its parametrizations first, or exclude it")
        for kind in _HOOKS:
            mine = getattr(self.old, kind)
            for hook in mine.values():
                inner = getattr(hook, "hook", hook)
                # weight_norm, spectral_norm and prune compute the layer's own weight in such a hook
                if type(inner).__module__.startswith("torch.nn.utils") or getattr(inner, "__self__", None) is self.old:
                    raise ValueError(
                        f"layer {self.name!r} has a hook that works on itself alone ({inner}): remove it, or exclude it"
                    )
            if mine and getattr(self.new, kind):
                raise ValueError(
                    f"the replacement of {self.name!r} has hooks of its own, and the layer's cannot move there"
                )

    def do(self) -> None:
        self.mode = self.old.training
        kept = set(self.old.modules())
        for module in self.new.modules():
            if module not in kept:
                module.training = self.mode
        tensors = [*self.old.parameters(), *self.old.buffers()]
        devices = {t.device for t in tensors}
        dtypes = {t.dtype for t in tensors if t.is_floating_point()}
        if len(devices) == 1:
            self.new.to(device=devices.pop())
        if len(dtypes) == 1:
            self.new.to(dtype=dtypes.pop())
        if not self.wraps:
            _move_hooks(self.old, self.new)

    def undo(self) -> None:
        for held, key, original, name in self.shared:
            if held.get(key) is not None:  # `.to()` and `load_state_dict(assign=True)` put new tensors there
                original[name] = held[key]
        devices = {t.device for t in [*self.new.parameters(), *self.new.buffers()]}
        if len(devices) == 1:
            self.old.to(device=devices.pop())
        if not self.wraps:
            _move_hooks(self.new, self.old)
        if self.new.training != self.mode:
            self.old.train(self.new.training)


def _move_hooks(source: nn.Module, target: nn.Module) -> None:
    # the dictionaries themselves move, since a hook's handle refers to the dictionary it is in
    for kind in (*_HOOKS, "_is_full_backward_hook"):
        ours, theirs = getattr(source, kind), getattr(target, kind)
        object.__setattr__(source, kind, theirs)
        object.__setattr__(target, kind, ours)
    for module, other in ((target, source), (source, target)):
        for hook in module._load_state_dict_pre_hooks.values():
            if getattr(hook, "with_module", False) and hook.module() is other:  # type: ignore[attr-defined]
                hook.module = weakref.ref(module)  # type: ignore[attr-defined]


def _tensors(module: nn.Module) -> list[tuple[dict, str, Tensor]]:
    """Every parameter and buffer beneath `module`: the dictionary that holds it, its key there, itself."""
    return [
        (held, key, tensor)
        for part in module.modules()
        for held in (part._parameters, part._buffers)
        for key, tensor in held.items()
        if tensor is not None
    ]


def _refuse_broken_ties(
    model: nn.Module, replacements: dict[nn.Module, nn.Module], names: dict[nn.Module, str]
) -> None:
    places: dict[int, int] = {}
    for _, _, tensor in _tensors(model):
        places[id(tensor)] = places.get(id(tensor), 0) + 1
    for old, new in replacements.items():
        here: dict[int, int] = {}
        for _, _, tensor in _tensors(old):
            here[id(tensor)] = here.get(id(tensor), 0) + 1
        held_by_new = {id(p) for p in new.parameters()}
        for key, parameter in old.named_parameters():
            if places.get(id(parameter), 0) > here[id(parameter)] and id(parameter) not in held_by_new:
                raise ValueError(
                    f"the replacement of {names[old]!r} does not hold its parameter {key!r}, which other layers share: "
                    "hand it over in the rule, untie it first, or exclude the layer"
                )


def _visible(model: nn.Module, include: Selection | None, exclude: Selection | None) -> set[nn.Module]:
    everything = set(model.modules())
    shown = everything if include is None else _beneath(model, include, "include")
    return shown if exclude is None else shown - _beneath(model, exclude, "exclude")


def _beneath(model: nn.Module, selection: Selection, argument: str) -> set[nn.Module]:
    """The layers that `selection` fits, and all beneath them."""
    named = list(model.named_modules(remove_duplicate=False))
    found: set[nn.Module] = set()
    for pattern in [selection] if isinstance(selection, str | type) else selection:
        if isinstance(pattern, str):
            fits = [layer for name, layer in named if fnmatchcase(name, pattern)]
            if not fits:
                raise ValueError(f"{argument}={pattern!r} fits no layer; names are like {named[-1][0]!r}")
        else:
            fits = [layer for _, layer in named if isinstance(layer, pattern)]
        for layer in fits:
            found.update(layer.modules())
    return found
