"""Checks and evidence: run a paper's claim, keep what came out, and hold it to what was fixed beforehand."""

import json
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import assay
from assay.claims.card import Claim, Paper
from assay.errors import AssayError

if TYPE_CHECKING:
    from assay.engine import Task
    from assay.trials.plan import Plan
    from assay.trials.result import Arm, TrialResult

SCHEMA = 1


@dataclass(frozen=True)
class Check:
    """How a claim is to be run. A claim's `trial` calls `compare` on it, so that all claims are run alike.

    Attributes:
        claim: the claim under check.
        quick: seconds instead of minutes: the same arms, fewer seeds and a smaller budget; no verdict is drawn from it.
        store: where runs are kept, so that an interrupted check goes on where it stopped.
        data_dir: where data sets are read from.
        executor, workers, address: as `assay.trials.compare` takes them.
        on_progress: receives the trial's progress.
    """

    claim: Claim
    quick: bool = False
    store: str | Path | None = None
    data_dir: str | Path | None = None
    executor: str = "pool"
    workers: int | None = None
    address: str | None = None
    on_progress: Callable[[Any], None] | None = None

    def compare(
        self,
        arms: "Sequence[Arm]",
        *,
        quick_task: str,
        quick_budget: str,
        vary: Sequence[str] = ("init", "order"),
        tune: Mapping[str, Any] | None = None,
        tune_trials: int = 8,
        tune_seeds: int = 1,
        equal_flops: bool = True,
        evaluations: int = 5,
    ) -> "TrialResult":
        """Run the claim's trial with its own task, metric, seeds and budget, or the quick stand-ins for them.

        Args:
            arms: the baseline first.
            quick_task, quick_budget: what `quick` replaces task and budget by; it runs two seeds, looks at the learning
                curve once and tunes nothing.
            vary, tune, tune_trials, tune_seeds, equal_flops, evaluations: as `assay.trials.compare` takes them.
        """
        from assay.tasks import load

        claim = self.claim
        return self._carry_out(
            load(quick_task if self.quick else claim.task, data_dir=self.data_dir),
            arms,
            seeds=2 if self.quick else claim.seeds,
            budget=quick_budget if self.quick else claim.budget,
            metric=claim.metric,
            vary=vary,
            smallest_effect=claim.smallest_effect,
            tune=None if self.quick else tune,
            tune_trials=tune_trials,
            tune_seeds=tune_seeds,
            equal_flops=equal_flops,
            evaluations=min(evaluations, 1) if self.quick else evaluations,
            executor=self.executor,
            workers=self.workers,
            address=self.address,
        )

    def _carry_out(self, task: "Task", arms: "Sequence[Arm]", **how: Any) -> "TrialResult":
        from assay.trials import compare

        return compare(
            task, arms, store=self.store, question=self.claim.statement, command="", on_progress=self.on_progress, **how
        )


@dataclass(frozen=True)
class Pricing(Check):
    """A check that is priced and not run: what a claim's `trial` makes of it is a `Plan`."""

    def _carry_out(self, task: "Task", arms: "Sequence[Arm]", **how: Any) -> Any:
        from assay.trials.plan import plan

        return plan(task, arms, **how)


def price(check: Pricing) -> "Plan":
    """What running the claim would cost.

    Raises:
        AssayError: the claim is no trial, so that there are no runs to price, or a run fails in its first steps.
    """
    from assay.trials.plan import Plan

    found: object = check.claim.trial(check)
    if not isinstance(found, Plan):
        raise AssayError(f"the claim {check.claim.statement!r} is not one trial, so it cannot be priced")
    return found


def evidence_from(paper: Paper, check: Check, result: "TrialResult") -> dict[str, Any]:
    """The content of `results/<slug>.json`: claim as fixed, every run's figures, verdict, environment, cost."""
    arm, baseline = check.claim.decides
    deciding = [c for c in result.comparisons if (c.arm, c.baseline) == (arm, baseline)]
    if len(deciding) != 1:
        raise AssayError(f"claim of {paper.slug!r} is decided by {arm!r} against {baseline!r}, which the trial lacks")
    return {
        "schema": SCHEMA,
        "slug": paper.slug,
        "quick": check.quick,
        "command": f"assay check {paper.slug} --save",
        "claim": check.claim.describe(),
        "verdict": deciding[0].verdict,
        "estimate": deciding[0].estimate,
        "interval": [deciding[0].low, deciding[0].high],
        "confidence": deciding[0].confidence,
        "commit": commit(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": result.environment,
        "cost": {
            "training_seconds": sum(run.seconds for a in result.arms for run in a.runs),
            "flops": sum(run.flops for a in result.arms for run in a.runs),
            "runs": sum(len(a.runs) for a in result.arms),
        },
        "trial": result.to_json(),
    }


def commit() -> str:
    """The commit of the checkout that assay runs from, `+` behind it where files differ; empty outside a checkout."""
    root = Path(assay.__file__).parents[1]
    if not (root / ".git").exists():
        return ""
    git = ["git", "-C", str(root)]
    try:
        head = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run([*git, "status", "--porcelain", "assay"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):  # no git on this machine, or a checkout without a commit
        return ""
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")


def results_folder() -> Path:
    """Where evidence lies: `results/` of the checkout, or inside the installed package."""
    root = Path(assay.__file__).parent
    return root.parent / "results" if (root.parent / "pyproject.toml").exists() else root / "results"


def load_evidence(slug: str) -> dict[str, Any] | None:
    """What `assay check SLUG --save` last wrote, or `None`."""
    path = results_folder() / f"{slug}.json"
    if not path.exists():
        return None
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except ValueError as error:
        raise AssayError(f"evidence {path} is not JSON: {error}") from None
    if found.get("schema") != SCHEMA:
        raise AssayError(f"evidence {path} has schema {found.get('schema')!r}; this version reads {SCHEMA}")
    return found


def save_evidence(evidence: Mapping[str, Any]) -> Path:
    """Write `results/<slug>.json`, whole or not at all.

    Raises:
        AssayError: a quick check is no evidence, or the place cannot be written.
    """
    if evidence["quick"]:
        raise AssayError("a quick check is no evidence and is not saved; run it without --quick")
    from assay.trials.files import json_text, write_whole

    path = results_folder() / f"{evidence['slug']}.json"
    write_whole(path, json_text(evidence), what="evidence")
    return path
