"""What a trial is made of and what it leaves behind."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from assay.engine import Metric, Recipe, Record

Verdict = Literal["supported", "refuted", "inconclusive"]


@dataclass(frozen=True)
class Arm:
    """A named recipe.

    Attributes:
        name: what reports call it.
        recipe: how its runs are trained.
        budget: its own budget where it differs from the trial's.
        against: the arm it is compared with; the trial's first by default.
    """

    name: str
    recipe: Recipe
    budget: str | None = None
    against: str | None = None


@dataclass
class ArmResult:
    """An arm with its runs, in the order of the trial's seeds.

    Attributes:
        tuned: settings that tuning chose, with the validation figure of every tuning trial; `None` without tuning.
        control: it was added by the trial, as the baseline at another arm's FLOPs.
    """

    name: str
    recipe: dict[str, Any]
    budget: str
    runs: list[Record]
    tuned: dict[str, Any] | None = None
    control: bool = False


@dataclass(frozen=True)
class Comparison:
    """One arm set against another, on the trial's metric. Differences are oriented: more is better for `arm`.

    Attributes:
        arm, baseline: names of arms.
        differences: one a seed; a diverged run counts as the metric's worst value.
        estimate: their mean.
        low, high: the interval, simultaneous over the trial's comparisons at `confidence`.
        method: how the interval was made, in words.
        p: exact sign-flip permutation test, two-sided; `p_holm` is corrected over the trial's comparisons.
        smallest_detectable: the true effect that this trial would have found with 80% power.
        verdict: from the interval against the trial's smallest effect.
        notes: what a reader must know beside the figures.
    """

    arm: str
    baseline: str
    differences: list[float]
    estimate: float
    low: float
    high: float
    confidence: float
    method: str
    p: float
    p_holm: float
    smallest_detectable: float
    verdict: Verdict
    notes: list[str] = field(default_factory=list)


@dataclass
class TrialResult:
    """A finished trial: the question, every run, every comparison, and how to repeat it.

    Attributes:
        seconds: wall-clock time of the trial, `reused` runs costing none.
        training_seconds: time inside training steps, summed over the runs done now.
    """

    question: str
    task: dict[str, Any]
    metric: Metric
    budget: str
    seeds: list[int]
    vary: list[str]
    smallest_effect: float
    confidence: float
    arms: list[ArmResult]
    comparisons: list[Comparison]
    command: str = ""
    created: str = ""
    seconds: float = 0.0
    training_seconds: float = 0.0
    reused: int = 0
    environment: dict[str, Any] = field(default_factory=dict)
    code: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """JSON-able values; per-example outcomes stay in the store."""
        arms = [asdict(replace(arm, runs=[])) | {"runs": [run.to_json() for run in arm.runs]} for arm in self.arms]
        return asdict(replace(self, arms=[])) | {"arms": arms, "schema": 1}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "TrialResult":
        rest = {k: v for k, v in data.items() if k not in ("schema", "metric", "arms", "comparisons")}
        arms = [ArmResult(**{**a, "runs": [Record.from_json(r) for r in a["runs"]]}) for a in data["arms"]]
        for arm in arms:
            if arm.tuned and "seed" in arm.tuned:  # of results written when a setting was tried from one seed
                arm.tuned = {**arm.tuned, "seeds": [arm.tuned["seed"]]}
        comparisons = [Comparison(**c) for c in data["comparisons"]]
        return cls(**rest, metric=Metric(**data["metric"]), arms=arms, comparisons=comparisons)
