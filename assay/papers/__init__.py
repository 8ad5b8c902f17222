"""One module a paper: its card, with facts, objects, method and claim. And what a method's name stands for.

`assay/papers/<slug>.py` (`-` written as `_`) holds `PAPER`. A card that names a `method` can treat a run; the fields of
that class, by their annotations, are the options that may follow its slug: `cutmix:alpha=1.0,prob=0.5`. Listing the
cards imports nothing heavy.
"""

import pkgutil
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any
from warnings import warn

from assay import options
from assay.claims.card import Paper
from assay.claims.check import load_evidence
from assay.errors import AssayError, PluginWarning, UnknownName
from assay.plugins import Plugin, plugins

if TYPE_CHECKING:
    from assay.claims.card import Status
    from assay.engine import Method

STANDARD = {  # methods that are nobody's claim here: to try a trial out, to measure, or to see how one is written
    "adversarial-training": "assay.methods.adversarial_training.AdversarialTraining",
    "batch-scaling": "assay.methods.batch_scaling.BatchScaling",
    "cosine": "assay.methods.cosine.Cosine",
    "label-smoothing": "assay.methods.label_smoothing.LabelSmoothing",
    "weight-distance": "assay.methods.weight_distance.WeightDistance",
}


def own_slugs() -> list[str]:
    """The papers that are part of assay, in alphabetical order; no card is imported."""
    return sorted(m.name.replace("_", "-") for m in pkgutil.iter_modules(__path__) if m.name != "catalog")


def slugs() -> list[str]:
    """Those and the ones that plugins bring, in alphabetical order; no card is imported."""
    return sorted([*own_slugs(), *_plugins()])


def paper(slug: str) -> Paper:
    """The card of a paper.

    Raises:
        UnknownName: there is none of that slug.
        AssayError: it is a plugin's, which does not work.
    """
    brought = _plugins()
    if slug in own_slugs():
        return _own(slug)
    if slug not in brought:
        raise UnknownName("paper", slug, [*own_slugs(), *brought])
    return _brought(brought[slug])


def own_papers() -> list[Paper]:
    """The cards that are part of assay, by slug."""
    return [_own(slug) for slug in own_slugs()]


def papers() -> list[Paper]:
    """All cards, by slug. A plugin that does not work is left out, with a `PluginWarning`."""
    cards = own_papers()
    for plugin in _plugins().values():
        with _instead_of_an_error():
            cards.append(_brought(plugin))
    return sorted(cards, key=lambda card: card.slug)


def _plugins() -> dict[str, Plugin]:
    return plugins("paper", {*own_slugs(), *STANDARD})


def _own(slug: str) -> Paper:
    card: Paper = import_module(f"{__name__}.{slug.replace('-', '_')}").PAPER
    return card


def _brought(plugin: Plugin) -> Paper:
    card = plugin.load()
    if not isinstance(card, Paper) or card.slug != plugin.name:
        got = f"a paper of slug {card.slug!r}" if isinstance(card, Paper) else type(card).__name__
        raise AssayError(f"{plugin} must be a Paper of that slug, got {got}")
    return card


@contextmanager
def _instead_of_an_error() -> Iterator[None]:
    try:
        yield
    except AssayError as error:
        warn(f"left out: {error}", PluginWarning, stacklevel=3)


def standing(card: Paper) -> "tuple[Status, dict[str, Any] | None]":
    """Status and evidence: `checked` where there is evidence for its claim, `implemented` where there are objects,
    else `planned`.

    Raises:
        AssayError: evidence cannot be read.
    """
    evidence = load_evidence(card.slug)
    return ("checked" if evidence is not None else "implemented" if card.objects else "planned"), evidence


def methods() -> "dict[str, Callable[..., Method]]":
    """Every method that a run can be given, by name: what makes it, with its options as parameters. A plugin that does
    not work is left out, with a `PluginWarning`."""
    own = STANDARD | {card.slug: card.method for card in own_papers() if card.method}
    found = {name: _at(place) for name, place in own.items()}
    for name, plugin in _method_plugins().items():
        with _instead_of_an_error():
            if factory := _factory_of(plugin):
                found[name] = factory
    return dict(sorted(found.items()))


def make_method(text: str) -> "Method":
    """The method that `"name"` or `"name:option=value,..."` stands for.

    Raises:
        UnknownName: no such method, or no such option.
        AssayError: the text cannot be read, the paper has no method, an option has a value it cannot take, or it is a
            plugin's that does not work.
    """
    name, _, rest = (part.strip() for part in text.partition(":"))
    brought = _method_plugins()
    if name in STANDARD:
        factory: Callable[..., Method] | None = _at(STANDARD[name])
    elif name in own_slugs():
        place = _own(name).method
        factory = _at(place) if place else None
    elif name in brought:
        factory = _factory_of(brought[name])
    else:
        raise UnknownName("method", name, [*own_slugs(), *STANDARD, *brought])
    if factory is None:
        lacks = "it changes no training run" if paper(name).objects else "it is planned, not built"
        raise AssayError(
            f"paper {name!r} has no method that treats a run: {lacks}; `assay methods` lists those that do"
        )
    given = options.arguments(f"method {name!r}", factory, options.parse(rest))
    try:
        return _checked(brought[name], partial(factory, **given)) if name in brought else factory(**given)
    except ValueError as error:  # how a toolbox object refuses a setting
        raise AssayError(f"method {text!r}: {error}") from error


def _method_plugins() -> dict[str, Plugin]:
    """By name, what brings a method or the card of a paper that may have one."""
    cards = _plugins()
    return cards | plugins("method", {*own_slugs(), *STANDARD, *cards})


def _factory_of(plugin: Plugin) -> "Callable[..., Method] | None":
    if plugin.kind == "method":
        factory: Callable[..., Method] = plugin.load()
        if not callable(factory):
            raise AssayError(f"{plugin} must be a subclass of Method or a function, got {type(factory).__name__}")
        return factory
    place = _brought(plugin).method
    return plugin.told(partial(_at, place)) if place else None


def _checked(plugin: Plugin, make: "Callable[[], Method]") -> "Method":
    from assay.engine import Method

    def made() -> Any:
        try:
            return make()
        except ValueError as error:
            raise AssayError(f"{plugin}: {error}") from error

    method = plugin.told(made)
    if not isinstance(method, Method) or method.name != plugin.name:
        got = f"one named {method.name!r}" if isinstance(method, Method) else type(method).__name__
        raise AssayError(f"{plugin} must make a Method of that name, got {got}")
    return method


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
