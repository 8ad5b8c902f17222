"""One module a paper: facts, method factory, claim. And what a method's name on the command line stands for.

A paper's module `assay/papers/<slug>.py` (`-` written as `_`) that can treat a run has a function `method(...)`; its
parameters, by their annotations, are the options that may follow the name: `cutmix:alpha=1.0,p=0.5`.
"""

import inspect
import math
import pkgutil
import re
from collections.abc import Callable
from importlib import import_module
from typing import Any

from assay.engine import Method
from assay.errors import AssayError, UnknownName
from assay.methods import Cosine, LabelSmoothing

_STAND_INS = (Cosine, LabelSmoothing)
_FLAGS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_WANTS = {int: "a whole number", float: "a finite number", bool: "true or false", str: "a word"}


def slugs() -> list[str]:
    """The papers, in alphabetical order; nothing is imported."""
    return sorted(m.name.replace("_", "-") for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))


def factories() -> dict[str, Callable[..., Method]]:
    """Every method that a run can be given, by name: what makes it, with its options as parameters."""
    found: dict[str, Callable[..., Method]] = {method.name: method for method in _STAND_INS}
    return found | {slug: paper.method for slug in slugs() if hasattr(paper := _paper(slug), "method")}


def make_method(text: str) -> Method:
    """The method that `"name"` or `"name:option=value,..."` stands for.

    Raises:
        UnknownName: no such method, or no such option.
        AssayError: the text cannot be read, the paper has no method, or an option has a value it cannot take.
    """
    name, colon, rest = text.strip().partition(":")
    factory = _factory(name)
    parameters = inspect.signature(factory, eval_str=True).parameters
    options: dict[str, Any] = {}
    for item in rest.split(",") if colon else []:
        key, _, value = (part.strip() for part in item.partition("="))
        if not key or not value:
            raise AssayError(
                f"cannot read {item!r} in {text!r}; write name:option=value,option=value, "
                "and give every arm a --with of its own"
            )
        if key not in parameters:
            raise UnknownName(f"option of method {name!r}:", key, parameters)
        if key in options:
            raise AssayError(f"option {key!r} is given twice in {text!r}")
        options[key] = _read(key, value, parameters[key].annotation)
    for key, parameter in parameters.items():
        if key not in options and parameter.default is parameter.empty:
            raise AssayError(f"method {name!r} needs option {key!r}; write {name}:{key}=value")
    try:
        return factory(**options)
    except ValueError as error:  # how a toolbox object refuses a setting
        raise AssayError(f"method {text!r}: {error}") from error


def parse_arm(text: str) -> list[Method]:
    """The methods of an arm: `"ghost-batchnorm:size=32+label-smoothing"`, applied in this order.

    Raises:
        AssayError: as `make_method`, or the same method comes twice.
    """
    methods = [make_method(part) for part in re.split(r"\+(?![0-9])", text)]  # 1e+5 is a number
    names = [method.name for method in methods]
    for name in names:
        if names.count(name) > 1:
            raise AssayError(f"arm {text!r} has method {name!r} twice")
    return methods


def _factory(name: str) -> Callable[..., Method]:
    for method in _STAND_INS:
        if method.name == name:
            return method
    if name not in slugs():
        raise UnknownName("method", name, [*slugs(), *(method.name for method in _STAND_INS)])
    factory: Callable[..., Method] | None = getattr(_paper(name), "method", None)
    if factory is None:
        raise AssayError(f"paper {name!r} has no method that treats a run; `assay methods` lists those that have")
    return factory


def _paper(slug: str) -> Any:
    return import_module(f"{__name__}.{slug.replace('-', '_')}")


def _read(name: str, text: str, kind: Any) -> Any:
    """`text` as a value of the annotated type."""
    if kind not in _WANTS:
        raise NotImplementedError(f"option {name!r} must be annotated float, int, bool or str, got {kind!r}")
    try:
        value = _FLAGS[text.lower()] if kind is bool else kind(text)
        if kind is float and not math.isfinite(value):
            raise ValueError
    except (KeyError, ValueError):
        raise AssayError(f"option {name!r} must be {_WANTS[kind]}, got {text!r}") from None
    return value
