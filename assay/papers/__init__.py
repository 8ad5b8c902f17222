"""One module a paper: facts, method factory, claim. And what a method's name on the command line stands for.

A paper's module `assay/papers/<slug>.py` (`-` written as `_`) that can treat a run has a function `method(...)`; its
parameters, by their annotations, are the options that may follow the name: `cutmix:alpha=1.0,p=0.5`.
"""

import pkgutil
import re
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

from assay import options
from assay.errors import AssayError, UnknownName

if TYPE_CHECKING:
    from assay.engine import Method


def slugs() -> list[str]:
    """The papers, in alphabetical order; nothing is imported."""
    return sorted(m.name.replace("_", "-") for m in pkgutil.iter_modules(__path__) if m.name != "catalog")


def factories() -> dict[str, Callable[..., "Method"]]:
    """Every method that a run can be given, by name: what makes it, with its options as parameters."""
    found: dict[str, Callable[..., Method]] = {method.name: method for method in _stand_ins()}
    return found | {slug: paper.method for slug in slugs() if hasattr(paper := _paper(slug), "method")}


def make_method(text: str) -> "Method":
    """The method that `"name"` or `"name:option=value,..."` stands for.

    Raises:
        UnknownName: no such method, or no such option.
        AssayError: the text cannot be read, the paper has no method, or an option has a value it cannot take.
    """
    name, _, rest = (part.strip() for part in text.partition(":"))
    factory = _factory(name)
    given = options.arguments(f"method {name!r}", factory, options.parse(rest))
    try:
        return factory(**given)
    except ValueError as error:  # how a toolbox object refuses a setting
        raise AssayError(f"method {text!r}: {error}") from error


def parse_arm(text: str) -> list["Method"]:
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


def _stand_ins() -> tuple[type["Method"], ...]:
    from assay.methods import Cosine, LabelSmoothing  # they bring torch, which listing papers does without

    return Cosine, LabelSmoothing


def _factory(name: str) -> Callable[..., "Method"]:
    for method in _stand_ins():
        if method.name == name:
            return method
    if name not in slugs():
        raise UnknownName("method", name, [*slugs(), *(method.name for method in _stand_ins())])
    factory: Callable[..., Method] | None = getattr(_paper(name), "method", None)
    if factory is None:
        raise AssayError(f"paper {name!r} has no method that treats a run; `assay methods` lists those that have")
    return factory


def _paper(slug: str) -> Any:
    return import_module(f"{__name__}.{slug.replace('-', '_')}")
