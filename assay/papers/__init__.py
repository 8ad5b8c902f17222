"""One module a paper: its card, with facts, objects, method and claim. And what a method's name stands for.

`assay/papers/<slug>.py` (`-` written as `_`) holds `PAPER`. A card that names a `method` can treat a run; the fields of
that class, by their annotations, are the options that may follow its slug: `cutmix:alpha=1.0,prob=0.5`. Listing the
cards imports nothing heavy.
"""

import pkgutil
import re
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

from assay import options
from assay.claims.card import Paper
from assay.claims.check import load_evidence
from assay.errors import AssayError, UnknownName

if TYPE_CHECKING:
    from assay.claims.card import Status
    from assay.engine import Method

STANDARD = {  # methods that are nobody's claim here: to try a trial out, to measure, or to see how one is written
    "cosine": "assay.methods.cosine.Cosine",
    "label-smoothing": "assay.methods.label_smoothing.LabelSmoothing",
    "weight-distance": "assay.methods.weight_distance.WeightDistance",
}


def slugs() -> list[str]:
    """The papers, in alphabetical order; no card is imported."""
    return sorted(m.name.replace("_", "-") for m in pkgutil.iter_modules(__path__) if m.name != "catalog")


def paper(slug: str) -> Paper:
    """The card of a paper.

    Raises:
        UnknownName: there is none of that slug.
    """
    if slug not in slugs():
        raise UnknownName("paper", slug, slugs())
    card: Paper = import_module(f"{__name__}.{slug.replace('-', '_')}").PAPER
    return card


def papers() -> list[Paper]:
    """All cards, by slug."""
    return [paper(slug) for slug in slugs()]


def standing(card: Paper) -> "tuple[Status, dict[str, Any] | None]":
    """Status and evidence: `checked` where there is evidence for its claim, `implemented` where there are objects,
    else `planned`.

    Raises:
        AssayError: evidence cannot be read.
    """
    evidence = load_evidence(card.slug)
    return ("checked" if evidence is not None else "implemented" if card.objects else "planned"), evidence


def methods() -> "dict[str, Callable[..., Method]]":
    """Every method that a run can be given, by name: what makes it, with its options as parameters."""
    named = STANDARD | {card.slug: card.method for card in papers() if card.method}
    return {name: _at(place) for name, place in sorted(named.items())}


def make_method(text: str) -> "Method":
    """The method that `"name"` or `"name:option=value,..."` stands for.

    Raises:
        UnknownName: no such method, or no such option.
        AssayError: the text cannot be read, the paper has no method, or an option has a value it cannot take.
    """
    name, _, rest = (part.strip() for part in text.partition(":"))
    if name not in STANDARD and name not in slugs():
        raise UnknownName("method", name, [*slugs(), *STANDARD])
    place = STANDARD.get(name) or paper(name).method
    if place is None:
        card = paper(name)
        lacks = "it changes no training run" if card.objects else "it is planned, not built"
        raise AssayError(
            f"paper {name!r} has no method that treats a run: {lacks}; `assay methods` lists those that do"
        )
    factory = _at(place)
    given = options.arguments(f"method {name!r}", factory, options.parse(rest))
    try:
        return factory(**given)
    except ValueError as error:  # how a toolbox object refuses a setting
        raise AssayError(f"method {text!r}: {error}") from error


def parse_arm(text: str) -> "list[Method]":
    """The methods of an arm: `"ghost-batchnorm:ghost_batch_size=32+label-smoothing"`, applied in this order.

    Raises:
        AssayError: as `make_method`, or the same method comes twice.
    """
    made = [make_method(part) for part in re.split(r"\+(?![0-9])", text)]  # 1e+5 is a number
    names = [method.name for method in made]
    for name in names:
        if names.count(name) > 1:
            raise AssayError(f"arm {text!r} has method {name!r} twice")
    return made


def _at(place: str) -> "Callable[..., Method]":
    module, _, name = place.rpartition(".")
    factory: Callable[..., Method] = getattr(import_module(module), name)
    return factory
