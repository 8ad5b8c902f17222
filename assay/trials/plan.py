"""What a trial will cost, before it is run: every run that `compare` would do, priced from a rehearsal."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from statistics import fmean
from typing import Any, Literal

import torch

from assay.engine import Budget, Recipe, Task
from assay.engine.record import environment
from assay.trials import tune as tuning
from assay.trials.crew import Crew
from assay.trials.gpus import Estimate, Gpu, estimate
from assay.trials.job import Job, failure, threads
from assay.trials.rehearsal import Rehearsal, RunCost, rehearse
from assay.trials.result import Arm
from assay.trials.trial import asked, control, executor_for, threads_for

Purpose = Literal["trial", "tuning", "control"]
SAME_COST = ("lr", "momentum", "beta2", "weight_decay", "schedule", "warmup", "clip_norm")


@dataclass(frozen=True)
class Part:
    """Runs of an arm for one purpose. All figures but `runs` are of one run, on average where tuning makes them differ.

    Attributes:
        arm: its name.
        purpose: the trial's own runs, those that tune the arm, or those of a baseline at another arm's FLOPs.
        runs: how many; a run that two arms share is counted with the first.
        steps: of training.
        flops: of training, as the record will have them.
        seconds: of training on this machine.
        evaluation_flops, evaluation_seconds: of all evaluations.
        memory: bytes of tensors that a step holds at most.
        parameters: of the network.
        precision: of the recipe.
        convolutions: share of convolutions in the FLOPs.
    """

    arm: str
    purpose: Purpose
    runs: int
    steps: float
    flops: float
    seconds: float
    evaluation_flops: float
    evaluation_seconds: float
    memory: int
    parameters: int
    precision: str
    convolutions: float


@dataclass(frozen=True)
class Plan:
    """What a trial will cost, as if none of its runs had been done before.

    Attributes:
        task: name.
        budget: of an arm that has none of its own.
        seeds: runs of an arm.
        parts: every run of it.
        workers: how many runs go on at once here.
        environment: the machine on which time was measured.
        notes: what the figures leave open.
    """

    task: str
    budget: str
    seeds: int
    parts: list[Part]
    workers: int
    environment: dict[str, Any]
    notes: list[str] = field(default_factory=list)

    @property
    def runs(self) -> int:
        return sum(part.runs for part in self.parts)

    @property
    def flops(self) -> float:
        """Of all training."""
        return sum(part.runs * part.flops for part in self.parts)

    @property
    def evaluation_flops(self) -> float:
        return sum(part.runs * part.evaluation_flops for part in self.parts)

    @property
    def seconds(self) -> float:
        """Of all runs, one after another on this machine; what starts a run is left out."""
        return sum(part.runs * (part.seconds + part.evaluation_seconds) for part in self.parts)

    @property
    def memory(self) -> int:
        """Of the largest step."""
        return max(part.memory for part in self.parts)

    def on(self, gpu: Gpu, *, price: float | None = None, utilisation: float | None = None) -> Estimate:
        """The same on one GPU; see `assay.trials.gpus.estimate`.

        Raises:
            AssayError: an arm's precision has no known rate, or price or utilisation is out of range.
        """
        at_peak = sum(
            part.runs * gpu.seconds_at_peak(part.flops + part.evaluation_flops, part.precision, part.convolutions)
            for part in self.parts
        )
        return estimate(gpu, at_peak, memory=self.memory, price=price, utilisation=utilisation)

    def to_json(self) -> dict[str, Any]:
        """JSON-able values, the sums with them."""
        sums = {name: getattr(self, name) for name in ("runs", "flops", "evaluation_flops", "seconds", "memory")}
        return asdict(self) | {"total": sums}


def plan(
    task: Task,
    arms: Sequence[Arm],
    *,
    seeds: int | Sequence[int] = 5,
    budget: Budget | str | None = None,
    metric: str | None = None,
    vary: Iterable[str] = ("init", "order"),
    smallest_effect: float = 0.0,
    confidence: float = 0.95,
    tune: Mapping[str, tuning.Space] | None = None,
    tune_trials: int = 8,
    tune_seeds: int = 1,
    equal_flops: bool = True,
    executor: str | None = None,
    workers: int | None = None,
    address: str | None = None,
    cpus_per_run: int | None = None,
    gpus_per_run: float = 0.0,
    evaluations: int = 10,
    threads: int | None = None,
    accelerator: str = "cpu",
) -> Plan:
    """Price `compare` of the same arguments, by a few steps of each arm.

    What tuning will choose is not known, so that the trial's runs are priced at the settings that the arms come with,
    and so are tuning runs that differ only in rates, probabilities and other settings that are no whole numbers or
    words. Controls are foreseen from the estimated FLOPs.

    Raises:
        AssayError: what was asked for is impossible, or an arm fails in its first steps.
    """
    number = threads_for(threads, cpus_per_run)
    judged, numbers, arms, job = asked(
        task,
        arms,
        seeds=seeds,
        budget=budget,
        metric=metric,
        vary=vary,
        smallest_effect=smallest_effect,
        confidence=confidence,
        evaluations=evaluations,
        threads=number,
        accelerator=accelerator,
    )
    doing = executor_for(
        executor,
        workers,
        accelerator,
        address=address,
        threads=number,
        cpus_per_run=cpus_per_run,
        gpus_per_run=gpus_per_run,
    )
    tried = (
        tuning.planned({arm.name: arm.recipe for arm in arms}, tune, trials=tune_trials, metric=judged) if tune else {}
    )
    bench = _Bench(replace(job, seed=numbers[0]))
    for arm in arms:
        bench.add(arm, "trial", [arm.recipe] * len(numbers))
    if tune:
        for arm in arms:
            recipes = [recipe for recipe in tried[arm.name] for _ in tuning.tuning_seeds(numbers, tune_seeds)]
            bench.add(arm, "tuning", recipes, evaluations=0, test=False)
    if equal_flops:
        spent = {arm.name: bench.cost(arm.recipe, str(arm.budget)).training.flops for arm in arms}
        baselines = {arm.name: arm for arm in arms}
        for arm in arms[1:]:
            baseline = baselines[str(arm.against)]
            if more := control(arm, baseline, spent[arm.name], spent[baseline.name]):
                bench.add(more, "control", [more.recipe] * len(numbers))
    with doing as one:
        at_once = one.at_once() if isinstance(one, Crew) else 1
    return Plan(
        task=task.name,
        budget=job.budget,
        seeds=len(numbers),
        parts=bench.parts,
        workers=min(at_once, len(numbers) * len(arms)),
        environment=environment(torch.device("cpu" if bench.accelerator == "cpu" else "cuda")) | {"threads": number},
        notes=_notes(arms, tune or {}),
    )


class _Bench:
    """Prices runs, by one rehearsal for all that cost alike."""

    def __init__(self, job: Job) -> None:
        self.job, self.accelerator = job, job.run().accelerator
        self.parts: list[Part] = []
        self._rehearsed: dict[str, Rehearsal] = {}
        self._counted: set[str] = set()

    def add(
        self,
        arm: Arm,
        purpose: Purpose,
        recipes: Sequence[Recipe],
        *,
        evaluations: int | None = None,
        test: bool = True,
    ) -> None:
        """Price one run of each of `recipes`; equal ones are of different seeds, or unknown yet. What another arm does
        too is done once."""
        left, again = [], Counter[str]()
        for recipe in recipes:
            text = _text([purpose, str(arm.budget), recipe.describe()])
            key = f"{text}, number {again[text]}"
            again[text] += 1
            if key not in self._counted:
                left.append(recipe)
            self._counted.add(key)
        if not left:
            return
        points = self.job.evaluations if evaluations is None else evaluations
        alike = [_like(recipe, arm.recipe) for recipe in left]
        found = [self.cost(recipe, str(arm.budget), evaluations=points, test=test) for recipe in alike]
        rehearsals = [self.rehearsal(recipe, str(arm.budget)) for recipe in alike]
        self.parts.append(
            Part(
                arm=arm.name,
                purpose=purpose,
                runs=len(left),
                steps=fmean(cost.steps for cost in found),
                flops=fmean(cost.training.flops for cost in found),
                seconds=fmean(cost.training.seconds for cost in found),
                evaluation_flops=fmean(cost.evaluation.flops for cost in found),
                evaluation_seconds=fmean(cost.evaluation.seconds for cost in found),
                memory=max(rehearsal.memory for rehearsal in rehearsals),
                parameters=max(rehearsal.parameters for rehearsal in rehearsals),
                precision=arm.recipe.precision,
                convolutions=fmean(rehearsal.convolutions for rehearsal in rehearsals),
            )
        )

    def cost(self, recipe: Recipe, budget: str, *, evaluations: int | None = None, test: bool = True) -> RunCost:
        points = self.job.evaluations if evaluations is None else evaluations
        return self.rehearsal(recipe, budget).whole(Budget.parse(budget), evaluations=points, test=test)

    def rehearsal(self, recipe: Recipe, budget: str) -> Rehearsal:
        key = _text({name: value for name, value in recipe.describe().items() if name not in SAME_COST})
        if key not in self._rehearsed:
            job = replace(self.job, recipe=recipe, budget=budget)
            with threads(job.threads):
                try:
                    self._rehearsed[key] = rehearse(job.run())
                except Exception as error:
                    raise failure(job, error)  # noqa: B904 - the cause is set already, and an AssayError has its own
        return self._rehearsed[key]


def _like(recipe: Recipe, arm: Recipe) -> Recipe:
    """`recipe` with the settings of its methods that are numbers but not whole ones as `arm` has them."""
    own = {method.name: method.settings() for method in arm.methods}
    floats = {
        f"{method.name}.{name}": own[method.name][name]
        for method in recipe.methods
        for name, value in method.settings().items()
        if isinstance(value, float) and name in own.get(method.name, {})
    }
    return tuning.with_settings(recipe, floats)


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _notes(arms: Sequence[Arm], tune: Mapping[str, tuning.Space]) -> list[str]:
    notes = []
    if tune:
        notes.append(
            f"The trial's runs are priced before tuning: what it will choose of {', '.join(tune)} is not known."
        )
    timed = [arm.name for arm in arms if Budget.parse(str(arm.budget)).unit == "seconds"]
    if timed:
        notes.append("A budget in seconds buys as many FLOPs as this machine is fast, now.")
    return notes
