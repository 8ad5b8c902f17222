"""Trial results made of seeded random figures, for tests of what reads them."""

import math

import numpy as np

from assay.engine import Metric, Record
from assay.trials.result import ArmResult, TrialResult
from assay.trials.statistics import Pairs, compare_pairs

ACCURACY = Metric("accuracy", "max", worst=0.0, unit="%")
BITS = Metric("bits_per_byte", "min", worst=8.0, unit="bits/byte")
ENVIRONMENT = {"python": "3.11.9", "torch": "2.13.0", "device": "a processor", "cores": 2, "threads": 1}
CODE = {"assay": "0.1.0", "digest": "0123456789abcdef", "torch": "2.13.0"}


def make_run(
    rng: np.random.Generator,
    *,
    metric: Metric = ACCURACY,
    seed: int = 0,
    level: float = 0.9,
    cost: float = 1.0,
    points: int = 10,
    diverges: bool = False,
    noise: float = 0.005,
    recipe: dict[str, object] | None = None,
) -> Record:
    """A run whose metric goes from its worst value towards `level`; a diverging one ends after half its points."""
    steps_of = np.linspace(0, 230, points + 1)[1:].astype(int)
    shifts = rng.normal(0, noise, points).tolist()
    curve = []
    for i in range(points // 2 if diverges else points):
        share = (i + 1) / points
        value = metric.worst + (level - metric.worst) * (1 - math.exp(-4 * share)) + shifts[i]
        steps = float(steps_of[i])
        spent = {"steps": steps, "epochs": steps / 23, "samples": 64 * steps}
        spent |= {"seconds": 0.05 * cost * steps * (1 + 0.05 * rng.random()), "flops": 3.1e8 * cost * steps}
        curve.append(spent | {"train_loss": 2.3 * math.exp(-3 * share), f"valid/{metric.name}": value})
    end = {k: curve[-1][k] for k in ("steps", "epochs", "samples", "seconds", "flops")} if curve else {}
    final = metric.worst + (level - metric.worst) * (1 - math.exp(-4)) + shifts[-1]
    return Record(
        task={"name": "digits", "settings": {}},
        recipe=dict(recipe or {"optimizer": "sgd", "lr": 0.1, "batch_size": 64, "methods": []}),
        seed=seed,
        vary=["init", "order"],
        budget="10epochs",
        status="diverged" if diverges else "finished",
        diverged_at=int(end.get("steps", 0)) + 3 if diverges else None,
        steps=int(end.get("steps", 0)),
        epochs=end.get("epochs", 0.0),
        samples=int(end.get("samples", 0)),
        seconds=end.get("seconds", 0.0),
        flops=end.get("flops", 0.0),
        wall_seconds=1.2 * end.get("seconds", 0.0),
        metrics={}
        if diverges
        else {"valid": {metric.name: final, "loss": 0.31}, "test": {metric.name: final - 0.004, "loss": 0.33}},
        curve=curve,
        peak_memory=int(400e6 * cost),
        parameters=13_002,
        trainable=13_002,
        environment=dict(ENVIRONMENT),
        code=dict(CODE),
    )


def make_pairs(metric: Metric, arm: ArmResult, baseline: ArmResult) -> Pairs:
    """The paired differences of two arms, a diverged run counting as the worst value."""

    def final(run: Record) -> float:
        return run.metrics["test"][metric.name] if run.metrics else metric.worst

    sign = 1 if metric.goal == "max" else -1
    differences = [sign * (final(a) - final(b)) for a, b in zip(arm.runs, baseline.runs, strict=True)]
    diverged, baseline_diverged = (sum(not run.metrics for run in side.runs) for side in (arm, baseline))
    return Pairs(arm.name, baseline.name, differences, diverged=diverged, baseline_diverged=baseline_diverged)


def make_result(
    *,
    seed: int = 0,
    seeds: int = 5,
    metric: Metric = ACCURACY,
    levels: dict[str, float] | None = None,
    diverging: dict[str, list[int]] | None = None,
    costs: dict[str, float] | None = None,
    control: str | None = None,
    tuned: bool = False,
    noise: float = 0.005,
    question: str = "Does label-smoothing help digits at 10 epochs?",
    command: str = "assay compare digits --with label-smoothing --seeds 5",
    smallest_effect: float = 0.005,
) -> TrialResult:
    """A trial of the arms in `levels` (name -> final metric), the first being the baseline.

    Args:
        diverging: positions of an arm's runs that diverge.
        costs: an arm's FLOPs, seconds and memory relative to the baseline's.
        control: an arm that is also compared with the baseline at its FLOPs.
        tuned: give each arm a history of tuning, of whose three trials the second was chosen and the third diverged.
    """
    rng = np.random.default_rng(seed)
    levels = levels or {"baseline": 0.93, "label-smoothing": 0.935}
    diverging, costs = diverging or {}, costs or {}
    names = list(levels)
    if control is not None:
        levels = levels | {f"baseline at {control}'s FLOPs": levels[names[0]] + 0.002}
        costs = costs | {f"baseline at {control}'s FLOPs": costs.get(control, 1.0)}
    arms = []
    for name, level in levels.items():
        method = [] if name.startswith("baseline") else [{"name": name, "alpha": 0.1}]
        recipe: dict[str, object] = {"optimizer": "sgd", "lr": 0.1, "batch_size": 64, "methods": method}
        runs = [
            make_run(
                rng,
                metric=metric,
                seed=s,
                level=level,
                cost=costs.get(name, 1.0),
                diverges=s in diverging.get(name, []),
                noise=noise,
                recipe=recipe,
            )
            for s in range(seeds)
        ]
        arms.append(ArmResult(name, recipe, "10epochs", runs, control=control is not None and name not in names))
    by_name = {arm.name: arm for arm in arms}
    pairs = [make_pairs(metric, by_name[name], arms[0]) for name in names[1:]]
    if control is not None:
        pairs.append(make_pairs(metric, by_name[control], arms[-1]))
    if tuned:
        for arm in arms:
            tried = [{"lr": lr} for lr in (0.1, 0.0316227766, 1.0)]
            figures = [0.91, 0.93, metric.worst]
            trials = [
                {"settings": s, "value": v, "values": [v], "status": "diverged" if v == metric.worst else "finished"}
                for s, v in zip(tried, figures, strict=True)
            ]
            arm.tuned = {"chosen": tried[1], "seeds": [1_000_003], "trials": trials}
    return TrialResult(
        question=question,
        task={"name": "digits", "settings": {"hidden": 64}},
        metric=metric,
        budget="10epochs",
        seeds=list(range(seeds)),
        vary=["init", "order"],
        smallest_effect=smallest_effect,
        confidence=0.95,
        arms=arms,
        comparisons=compare_pairs(pairs, smallest_effect=smallest_effect),
        command=command,
        created="2026-01-02T03:04:05+00:00",
        seconds=140.0,
        training_seconds=100.0,
        reused=1,
        environment=dict(ENVIRONMENT),
        code=dict(CODE),
    )
