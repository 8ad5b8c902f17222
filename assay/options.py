"""Options written as text, `depth=3,exact=true`, read as the types that a signature declares."""

import inspect
import math
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from assay.errors import AssayError, UnknownName

_FLAGS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
_NAMELESS = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
_WANTS = {int: "a whole number", float: "a number", bool: "true or false"}


def parse(text: str) -> dict[str, str]:
    """Names and values of `"a=1,b=2"`; nothing of an empty text.

    Raises:
        AssayError: a part is not `name=value`, or a name comes twice.
    """
    found: dict[str, str] = {}
    for part in text.split(",") if text.strip() else ():
        name, _, value = (side.strip() for side in part.partition("="))
        if not name or not value:
            where = f" in {text!r}" if part != text else ""
            raise AssayError(f"cannot read {part!r}{where}; write name=value,name=value")
        if name in found:
            raise AssayError(f"{name} is given twice in {text!r}")
        found[name] = value
    return found


def arguments(
    what: str, factory: Callable[..., Any], given: Mapping[str, Any], *, apart: Collection[str] = ()
) -> dict[str, Any]:
    """`given` as arguments of `factory`: texts read as the types that it declares, all else as it is.

    Args:
        what: `factory` as errors call it, such as `"method 'lamb'"`.
        factory: a class or a function.
        given: options by name.
        apart: parameters of `factory` that are no options.

    Raises:
        UnknownName: `factory` has no such option.
        AssayError: a text cannot be read as its type, or an option without a default lacks.
    """
    declared = inspect.signature(factory, eval_str=True).parameters
    parameters = {
        k: p for k, p in declared.items() if k not in apart and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    }
    found = {}
    for name, value in given.items():
        if name not in parameters:
            raise UnknownName(f"option of {what}:", name, parameters)
        found[name] = read(name, value, parameters[name].annotation) if isinstance(value, str) else value
    for name, parameter in parameters.items():
        if name not in found and parameter.default is parameter.empty:
            raise AssayError(f"{what} needs option {name!r}")
    return found


def read(name: str, text: str, kind: Any) -> Any:
    """`text` as `kind`: str, int, float, bool, Path, a `Literal`, or one of these or None.

    Raises:
        UnknownName: it is none of a `Literal`'s values.
        AssayError: it cannot be read as `kind`.
    """
    if get_origin(kind) is Literal:
        members = {str(member): member for member in get_args(kind)}
        if text not in members:
            raise UnknownName(name, text, members)
        return members[text]
    if get_origin(kind) in (Union, UnionType):
        if NoneType in get_args(kind) and text.lower() == "none":
            return None
        kinds = [member for member in get_args(kind) if member is not NoneType]
        if len(kinds) == 1:
            return read(name, text, kinds[0])
    if kind in (str, Any, inspect.Parameter.empty):
        return text
    if kind is bool and text.lower() in _FLAGS:
        return _FLAGS[text.lower()]
    if kind in (int, float, Path):
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if value == value:  # not NaN
            return value
    raise AssayError(f"{name} must be {_WANTS.get(kind, f'given in Python, as {kind}')}, got {text!r}")
