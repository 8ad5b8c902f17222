"""Tuning as part of an arm: every arm gets the same number of trials, judged on the validation split.

All tuning runs use seeds that no run of the trial uses (`tuning_seeds`), and do not read the test split. Where a seed
redraws the split, these are the splits of the tuning seeds, whose validation examples other seeds may test on.
"""

import inspect
import itertools
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from statistics import fmean
from typing import TYPE_CHECKING, Any, Protocol

from assay import options
from assay.engine import Method, Metric, Recipe, Record
from assay.engine.recipe import OPTIMIZERS, SCHEDULES
from assay.errors import AssayError, UnknownName

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

Space = list[Any] | tuple[Any, ...] | None  # values, (low, high), or what is ordinary around the recipe's value
Settings = dict[str, Any]

ROUND = 4  # settings asked for at a time: fixed, so that what is tried does not depend on how many workers there are
CHOICES: dict[str, Sequence[Any]] = {
    "optimizer": OPTIMIZERS,
    "schedule": SCHEDULES,
    "momentum": (0.0, 0.5, 0.8, 0.9, 0.95, 0.99),
    "beta2": (0.9, 0.95, 0.98, 0.99, 0.999, 0.9999),
    "warmup": (0.0, 0.05, 0.1, 0.2, 0.3),
    "clip_norm": (0.0, 0.1, 0.5, 1.0, 5.0),
}


@dataclass(frozen=True)
class Tuned:
    """What tuning found for one arm.

    Attributes:
        recipe: the arm's recipe with the best settings.
        history: for `ArmResult.tuned`: the chosen settings, the seeds, and every trial with its validation figure, the
            mean of its seeds' `values`, in the order tried; the first is the recipe as it was given.
    """

    recipe: Recipe
    history: dict[str, Any]


def tuning_seeds(seeds: Sequence[int], count: int = 1) -> list[int]:
    """The seeds of tuning runs: `count` from 1000003 on that the trial does not use itself.

    Raises:
        AssayError: there must be one at least.
    """
    if count < 1:
        raise AssayError(f"tune_seeds must be at least 1, got {count}")
    return list(itertools.islice((seed for seed in itertools.count(1_000_003) if seed not in seeds), count))


def tune(
    recipes: Mapping[str, Recipe],
    spaces: Mapping[str, Space],
    *,
    trials: int,
    metric: Metric,
    seeds: Sequence[int],
    run: Callable[[Sequence[tuple[str, Recipe, int]]], Sequence[Record]],
) -> dict[str, Tuned]:
    """Choose settings for each arm by its runs' mean validation figure; ties go to the one tried first.

    If every space is a list, all combinations are tried, with the settings that the arms came with; otherwise Optuna's
    TPE chooses, in rounds of fixed size, after the arm's own settings.

    Args:
        recipes: the arms.
        spaces: by a recipe's field or `method.setting`: a list of values, a range `(low, high)`, or `None` for a space
            around the recipe's value. An arm without that method is tuned on the rest.
        trials: settings tried for each arm; lists alone are tried to the end whatever it is.
        metric: what is judged; a diverged run counts as its worst value.
        seeds: each setting is run from all of them, as one seed's best may be its luck; the first is the search's too.
        run: does runs of (arm, recipe, seed).

    Raises:
        AssayError: a setting that no arm has, or a space that makes no sense.
    """
    searches = _searches(recipes, spaces, trials, metric, seeds[0])
    tried: dict[str, list[dict[str, Any]]] = {name: [] for name in recipes}
    while asked := [(name, settings) for name, search in searches.items() for settings in search.ask()]:
        made = [(name, with_settings(recipes[name], settings)) for name, settings in asked]
        records = iter(run([(name, recipe, seed) for name, recipe in made for seed in seeds]))
        for name, settings in asked:
            own = list(itertools.islice(records, len(seeds)))
            values = [_figure(record, metric) for record in own]
            status = "diverged" if any(record.status == "diverged" for record in own) else "finished"
            tried[name].append({"settings": settings, "value": fmean(values), "values": values, "status": status})
            searches[name].tell(fmean(values))
    sign = 1 if metric.goal == "max" else -1
    found = {}
    for name, history in tried.items():
        chosen = max(history, key=lambda t: sign * t["value"])["settings"] if history else {}
        found[name] = Tuned(
            with_settings(recipes[name], chosen), {"chosen": chosen, "seeds": [*seeds], "trials": history}
        )
    return found


def planned(
    recipes: Mapping[str, Recipe], spaces: Mapping[str, Space], *, trials: int, metric: Metric
) -> dict[str, list[Recipe]]:
    """What `tune` would run for each arm: every combination where all spaces are lists. What Optuna would choose is not
    known beforehand; there it is the arm's own recipe, as often as there are runs.

    Raises:
        AssayError: as `tune`.
    """
    searches = _searches(recipes, spaces, trials, metric, seed=0)
    return {name: [with_settings(recipe, s) for s in searches[name].planned()] for name, recipe in recipes.items()}


def with_settings(recipe: Recipe, settings: Settings) -> Recipe:
    """`recipe` with its own fields, and those of its methods (`method.setting`), changed; texts are read as the types
    that are declared."""
    methods = []
    for method in recipe.methods:
        start = f"{method.name}."
        theirs = {name.removeprefix(start): value for name, value in settings.items() if name.startswith(start)}
        theirs = _as_declared(method, theirs)
        try:
            methods.append(replace(method, **theirs) if theirs else method)  # type: ignore[type-var]
        except (TypeError, ValueError) as error:
            raise AssayError(f"method {method.name!r} cannot take {theirs}: {error}") from error
    return recipe.with_settings({k: v for k, v in settings.items() if "." not in k}).with_methods(methods)


def _as_declared(method: Method, settings: Settings) -> Settings:
    texts = {name for name, value in settings.items() if isinstance(value, str)}
    declared = inspect.signature(type(method), eval_str=True).parameters if texts else {}
    return {
        name: options.read(f"{method.name}.{name}", value, declared[name].annotation)
        if name in texts and name in declared
        else value
        for name, value in settings.items()
    }


def _searches(
    recipes: Mapping[str, Recipe], spaces: Mapping[str, Space], trials: int, metric: Metric, seed: int
) -> "dict[str, _Search]":
    if trials < 1:
        raise AssayError(f"tune_trials must be at least 1, got {trials}")
    present = {name: _settings(recipe) for name, recipe in recipes.items()}
    for setting in spaces:
        if not any(setting in settings for settings in present.values()):
            raise UnknownName("setting to tune", setting, set().union(*present.values()))
    given = {name: {s: settings[s] for s in spaces if s in settings} for name, settings in present.items()}
    searches: dict[str, _Search] = {}
    for name, recipe in recipes.items():
        own = {setting: _read(recipe, setting, spaces[setting]) for setting in given[name]}
        if all(isinstance(space, list) for space in spaces.values()):
            # the other arms' own settings are in it too, so that all arms are tried on the same
            searches[name] = _Grid(own, [given[name], *(g for g in given.values() if g.keys() == own.keys())])
        else:
            searches[name] = _Tpe(own, given[name], trials, metric, seed)
    return searches


def _settings(recipe: Recipe) -> Settings:
    own = {f.name: getattr(recipe, f.name) for f in fields(recipe) if f.name != "methods"}
    return own | {f"{method.name}.{name}": v for method in recipe.methods for name, v in method.settings().items()}


def _read(recipe: Recipe, setting: str, space: Space) -> Space:
    """`space` with its values as the recipe holds them, each one tried for size."""
    if space is None:
        return None
    if not space:
        raise AssayError(f"tuning {setting} needs at least one value")
    values = [_settings(with_settings(recipe, {setting: value}))[setting] for value in space]
    return values if isinstance(space, list) else tuple(values)


def _figure(record: Record, metric: Metric) -> float:
    if record.status == "diverged":
        return metric.worst
    if metric.name not in record.metrics["valid"]:
        raise AssayError(f"task {record.task['name']!r} has no validation figure of {metric.name!r} to tune by")
    return record.metrics["valid"][metric.name]


class _Search(Protocol):
    def planned(self) -> list[Settings]:
        """All that will be asked for, as far as that is known before anything is told."""
        ...

    def ask(self) -> list[Settings]:
        """What to try next; nothing at the end."""
        ...

    def tell(self, value: float) -> None:
        """The figure of one of what was asked for, in order."""
        ...


class _Grid:
    def __init__(self, spaces: Mapping[str, Space], first: Sequence[Settings]) -> None:
        product = itertools.product(*(space or () for space in spaces.values()))
        self.waiting: list[Settings] = []
        for settings in [*first, *(dict(zip(spaces, values, strict=True)) for values in product)] if spaces else []:
            if settings not in self.waiting:
                self.waiting.append(settings)

    def planned(self) -> list[Settings]:
        return self.waiting

    def ask(self) -> list[Settings]:
        asked, self.waiting = self.waiting, []
        return asked

    def tell(self, value: float) -> None:
        return


class _Tpe:
    def __init__(self, spaces: Mapping[str, Space], given: Settings, trials: int, metric: Metric, seed: int) -> None:
        import optuna

        self.given, self.left = given, trials if given else 0
        self.spaces = {name: _distribution(name, spaces[name], value) for name, value in given.items()}
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=ROUND)
        self.study = optuna.create_study(direction="maximize" if metric.goal == "max" else "minimize", sampler=sampler)
        self.asked: list[optuna.Trial | None] = []  # None for the recipe as it was given
        self.begun = False

    def planned(self) -> list[Settings]:
        return [self.given] * self.left

    def ask(self) -> list[Settings]:
        number = min(ROUND, self.left)
        self.left -= number
        first, self.begun = number > 0 and not self.begun, True
        trials = [self.study.ask(self.spaces) for _ in range(number - first)]
        self.asked = [None, *trials] if first else [*trials]
        return [self.given if trial is None else dict(trial.params) for trial in self.asked]

    def tell(self, value: float) -> None:
        import optuna

        trial = self.asked.pop(0)
        if trial is not None:
            self.study.tell(trial, value)
            return
        with suppress(ValueError):  # the recipe's own settings lie outside the space: the search does without them
            self.study.add_trial(optuna.trial.create_trial(params=self.given, distributions=self.spaces, value=value))


def _distribution(name: str, space: Space, given: Any) -> "BaseDistribution":
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    number = isinstance(given, int | float) and not isinstance(given, bool)
    if space is None:
        if name == "batch_size":
            return CategoricalDistribution(sorted({max(int(given * f), 1) for f in (0.25, 0.5, 1, 2, 4)}))
        if name in CHOICES:
            return CategoricalDistribution(tuple(CHOICES[name]))
        if name == "weight_decay" and given == 0:
            return FloatDistribution(1e-6, 1e-2, log=True)
        if not isinstance(given, float) or given <= 0:
            raise AssayError(f"there is no ordinary space for {name} around {given!r}; give values or a range")
        return FloatDistribution(given / 10, given * 10, log=True)
    if isinstance(space, list):
        return CategoricalDistribution(space)
    if not number or len(space) != 2 or not space[0] < space[1]:
        raise AssayError(f"the range of {name} must be (low, high) of a number, got {space!r}")
    low, high = space
    wide = low > 0 and high >= 10 * low
    return IntDistribution(low, high, log=wide) if isinstance(given, int) else FloatDistribution(low, high, log=wide)
