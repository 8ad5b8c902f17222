"""What part each parameter plays in a network, and optimizer groups made by it.

A rule on parameters ("decay matrices only", "train the normalisation alone") is written once, over roles, and needs no
list of names. Every parameter has one role, a tied one that of the first module it belongs to.
"""

from collections.abc import Mapping
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Any

from torch import nn


class Role(StrEnum):
    """The part a parameter plays."""

    MATRIX = "matrix"
    """Two dimensions or more: the weights of linear, convolution, attention and recurrent layers."""
    VECTOR = "vector"
    """One dimension or none: biases, scales, class tokens of that shape."""
    NORM = "norm"
    """Affine parameters of a normalisation layer."""
    EMBEDDING = "embedding"
    """Tables looked up by index."""
    READOUT = "readout"
    """The layer that gives the outputs. Not told from the model: name it in `overrides`."""
    NO_DECAY = "no_decay"
    """Whatever else must not be decayed. Likewise only by `overrides`."""


def parameter_roles(model: nn.Module, overrides: Mapping[str, Role | str] | None = None) -> dict[str, Role]:
    """The role of every parameter, by name.

    Normalisation is what `nn.LayerNorm` and `nn.RMSNorm` own, and parameters of one dimension or none of any class
    with `Norm` in its name or that of a base; embedding is what `nn.Embedding` and `nn.EmbeddingBag` own.

    Args:
        model: the network.
        overrides: role by pattern of parameter name, such as `{"head.*": "readout", "*pos_embed": "embedding"}`;
            wildcards as in a shell, the first that matches counts.

    Returns:
        name to role, in the order of `model.named_parameters()`.

    Raises:
        ValueError: a pattern matches no parameter, or a role is unknown.
    """
    wanted = {pattern: Role(role) for pattern, role in (overrides or {}).items()}
    names = [name for name, _ in model.named_parameters()]
    for pattern in wanted:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ValueError(f"overrides: {pattern!r} matches no parameter; the first is {names[:1]}")
    roles: dict[str, Role] = {}
    for path, module in model.named_modules():
        for own_name, parameter in module.named_parameters(recurse=False):
            name = f"{path}.{own_name}" if path else own_name
            roles[name] = _role(module, parameter)
    told = {name: [role for pattern, role in wanted.items() if fnmatchcase(name, pattern)] for name in names}
    return {name: told[name][0] if told[name] else roles[name] for name in names}


def _role(module: nn.Module, parameter: nn.Parameter) -> Role:
    if isinstance(module, nn.LayerNorm | nn.RMSNorm):  # theirs may have several dimensions
        return Role.NORM
    if isinstance(module, nn.Embedding | nn.EmbeddingBag):
        return Role.EMBEDDING
    if parameter.ndim > 1:
        return Role.MATRIX
    return Role.NORM if any("Norm" in kind.__name__ for kind in type(module).__mro__) else Role.VECTOR


def role_groups(
    model: nn.Module,
    settings: Mapping[Role | str, Mapping[str, Any]],
    overrides: Mapping[str, Role | str] | None = None,
) -> list[dict[str, Any]]:
    """Optimizer groups of the trainable parameters, one a role.

    Args:
        model: the network; parameters that do not require a gradient are left out.
        settings: for some roles, what their group sets, such as `{"norm": {"weight_decay": 0.0}}`; the others take
            the optimizer's defaults.
        overrides: as in `parameter_roles`.

    Returns:
        groups with `params`, the `role` they are of, and the settings; no group is empty.

    Raises:
        ValueError: a pattern matches no parameter, or a role is unknown.
    """
    chosen = {Role(role): dict(options) for role, options in settings.items()}
    members: dict[Role, list[nn.Parameter]] = {}
    roles = parameter_roles(model, overrides)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            members.setdefault(roles[name], []).append(parameter)
    return [{"params": members[role], "role": role.value, **chosen.get(role, {})} for role in Role if role in members]


def decay_groups(model: nn.Module, overrides: Mapping[str, Role | str] | None = None) -> list[dict[str, Any]]:
    """Groups by which vectors, normalisation and `no_decay` parameters have no weight decay and no layer adaptation.

    For `LAMB` and `LARS`; the exclusions of their authors' code, without regular expressions on names.
    """
    excluded = {"weight_decay": 0.0, "layer_adaptation": False}
    return role_groups(model, dict.fromkeys((Role.VECTOR, Role.NORM, Role.NO_DECAY), excluded), overrides)
