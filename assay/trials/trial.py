"""A trial: arms x seeds on one task, each run done once, and every arm set against its baseline."""

import math
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
from joblib import cpu_count

from assay.engine import Budget, Metric, Recipe, Record, Task
from assay.engine.devices import is_rank
from assay.errors import AssayError, Interrupted, UnknownName
from assay.trials import tune as tuning
from assay.trials.crew import signals
from assay.trials.executors import Executor, PoolExecutor, SerialExecutor
from assay.trials.job import Job, Progress
from assay.trials.leases import Leases
from assay.trials.logs import Log, write
from assay.trials.on_ray import RayExecutor
from assay.trials.result import Arm, ArmResult, TrialResult
from assay.trials.statistics import Pairs, compare_pairs
from assay.trials.store import Store

LOOK = 0.5  # seconds between two looks at runs that other processes are doing
EQUAL = 1.05  # an arm that spends more than this multiple of its baseline's FLOPs is also set against more baseline


def compare(
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
    store: Store | str | Path | None = None,
    executor: Executor | str | None = None,
    workers: int | None = None,
    address: str | None = None,
    cpus_per_run: int | None = None,
    gpus_per_run: float = 0.0,
    evaluations: int = 10,
    threads: int | None = None,
    accelerator: str = "cpu",
    devices: int = 1,
    strategy: str | None = None,
    log: str | None = None,
    log_dir: str | Path | None = None,
    question: str = "",
    command: str = "",
    on_progress: Callable[[Progress], None] | None = None,
) -> TrialResult:
    """Train every arm from every seed, and say what the difference is.

    Args:
        task: what is trained.
        arms: at least two; the first is the baseline of all that name no other (`Arm.against`).
        seeds: how many (0, 1, ...), or which.
        budget: of every run, such as `"10epochs"`; the task's own by default.
        metric: one of the task's, by name, its first by default; read on the test split.
        vary: what a seed redraws: among `init`, `order` and `split`.
        smallest_effect: the smallest gain that counts, in the metric's unit, at least 0.
        confidence: that all intervals hold together, in (0, 1).
        tune: settings to tune in every arm, with their spaces; see `assay.trials.tune.tune`.
        tune_trials: settings tried for each arm.
        tune_seeds: runs of each setting tried; it is judged by their mean.
        equal_flops: set an arm that spends over 5% more FLOPs than its baseline also against the baseline given as
            many. Not where the budget is in seconds or FLOPs: then it is these that are equal.
        store: where runs are kept and found again; without one, nothing is kept. What another process that uses it is
            doing now is left to it, and awaited at the end.
        executor: a `"pool"` of worker processes (ordinary on a CPU), `"serial"`, in this process (on anything else),
            `"ray"`, on a Ray cluster, or one of your own.
        workers: runs at a time: of the pool, by default, on a CPU, as many as leave a core to every device; on Ray as
            many as it holds.
        address, cpus_per_run, gpus_per_run: of `"ray"`: as in `assay.trials.RayExecutor`.
        evaluations: points of each learning curve.
        threads: CPU threads of a run, 1 or `cpus_per_run` by default; its figures depend on them in the last bits.
        accelerator: as in `Run`.
        devices, strategy: how many share each run, and how; as in `Run`, but their processes are started here.
        log: log every run, too: by `tensorboard`, `csv`, `wandb` (offline) or `mlflow`; see docs/logs.md.
        log_dir: where to, `.assay/logs` by default.
        question, command: for the report.
        on_progress: told, in this process, how each run is getting on.

    Raises:
        AssayError: what was asked for is impossible, which is found before anything is trained, or a run failed.
        Interrupted: Ctrl-C or SIGTERM; with a store, the same call goes on where this one stopped.
    """
    began = time.perf_counter()
    threads = threads_for(threads, cpus_per_run)
    judged, seeds, arms, job = asked(
        task,
        arms,
        seeds=seeds,
        budget=budget,
        metric=metric,
        vary=vary,
        smallest_effect=smallest_effect,
        confidence=confidence,
        evaluations=evaluations,
        threads=threads,
        accelerator=accelerator,
        devices=devices,
        strategy=strategy,
    )
    logged = Log.make(log, log_dir, task.name) if log else None
    with ExitStack() as stack:
        doing = stack.enter_context(
            executor_for(
                executor,
                workers,
                accelerator,
                address=address,
                threads=threads,
                cpus_per_run=cpus_per_run,
                gpus_per_run=gpus_per_run,
                devices=devices,
            )
        )
        if isinstance(store, str | Path):
            store = Store(store)
        folder = store.checkpoints if store else Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="assay-")))
        leases = store.leases() if store else None
        if leases:
            stack.enter_context(leases)
        told = on_progress or (lambda event: None)
        bench = _Bench(replace(job, folder=folder, log=logged), judged, store, doing, told, leases)
        try:
            tuned = bench.tune(arms, tune, tune_trials, tuning.tuning_seeds(seeds, tune_seeds)) if tune else {}
            arms = [replace(arm, recipe=tuned[arm.name].recipe) if tuned else arm for arm in arms]
            runs = bench.train(arms, seeds)
            controls = _controls(arms, runs) if equal_flops else {}
            runs |= bench.train(list(controls.values()), seeds)
        except (Interrupted, KeyboardInterrupt) as stop:
            goes_on = f"the same call goes on from {store.location}" if store else "without a store, nothing is kept"
            raise Interrupted(f"stopped with {len(bench.records)} runs done; {goes_on}") from stop

    shared = task.fixed_test or "split" not in job.vary
    overlap = None if shared else _overlap(task, seeds[0])
    sides = [(arm.name, str(arm.against)) for arm in arms[1:]] + [(name, c.name) for name, c in controls.items()]
    pairs = [_pair(a, runs[a], b, runs[b], judged, shared=shared, overlap=overlap) for a, b in sides]
    first = runs[arms[0].name][0]
    result = TrialResult(
        question=question
        or f"Is {' or '.join(arm.name for arm in arms[1:])} better than {arms[0].name} on {task.name}?",
        task=first.task,
        metric=judged,
        budget=job.budget,
        seeds=seeds,
        vary=list(job.vary),
        smallest_effect=smallest_effect,
        confidence=confidence,
        arms=[
            ArmResult(
                name=arm.name,
                recipe=arm.recipe.describe(),
                budget=str(arm.budget),
                runs=runs[arm.name],
                tuned=tuned[arm.name].history if arm.name in tuned else None,
                control=arm not in arms,
            )
            for arm in (*arms, *controls.values())
        ],
        comparisons=compare_pairs(pairs, smallest_effect=smallest_effect, confidence=confidence),
        command=command,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=time.perf_counter() - began,
        training_seconds=bench.training_seconds,
        reused=bench.reused,
        environment=first.environment,
        code=first.code,
    )
    if store:
        store.put_trial(result)
    return result


class Asked(NamedTuple):
    """What was asked for, with all that was left out filled in: `job` is what the runs of the arms have in common."""

    metric: Metric
    seeds: list[int]
    arms: list[Arm]
    job: Job


def asked(
    task: Task,
    arms: Sequence[Arm],
    *,
    seeds: int | Sequence[int],
    budget: Budget | str | None,
    metric: str | None,
    vary: Iterable[str],
    smallest_effect: float,
    confidence: float,
    evaluations: int,
    threads: int,
    accelerator: str,
    devices: int = 1,
    strategy: str | None = None,
) -> Asked:
    """The arguments of `compare`, read.

    Raises:
        AssayError: what was asked for is impossible.
    """
    judged, numbers = _metric(task, metric), _seeds(seeds)
    amount = Budget.parse(task.budget if budget is None else budget)
    arms = _arms(arms, amount)
    if not 0 <= smallest_effect < math.inf:
        raise AssayError(f"smallest_effect must be at least 0 and finite, got {smallest_effect:g}")
    if not 0 < confidence < 1:
        raise AssayError(f"confidence must lie between 0 and 1, such as 0.95, got {confidence:g}")
    if threads < 1:
        raise AssayError(f"threads must be at least 1, got {threads}")
    job = Job(
        task,
        task.recipe,
        0,
        str(amount),
        vary=tuple(sorted(set(vary))),
        evaluations=evaluations,
        threads=threads,
        accelerator=accelerator,
        devices=devices,
        strategy=strategy,
    )
    if devices > 1 and is_rank():
        raise AssayError("several devices are started by the trial itself: call it once, without torchrun")
    for arm in arms:  # a run refuses what cannot be as it is made, and what its task lacks as it is identified
        replace(job, recipe=arm.recipe, budget=str(arm.budget)).key  # noqa: B018
    return Asked(judged, numbers, arms, job)


@dataclass
class _Bench:
    """Gets runs done: from the store where it has them, else by the executor.

    Attributes:
        job: what all runs have in common.
        leases: on the runs that this process is doing.
        records: every run of this trial so far, by key.
        reused: how many of them were in the store, or came there from another process.
        training_seconds: spent on the others.
    """

    job: Job
    metric: Metric
    store: Store | None
    executor: Executor
    on_progress: Callable[[Progress], None]
    leases: Leases | None = None
    records: dict[str, Record] = field(default_factory=dict)
    reused: int = 0
    training_seconds: float = 0.0

    def train(self, arms: Sequence[Arm], seeds: Sequence[int]) -> dict[str, list[Record]]:
        """The runs of each arm, in the order of `seeds`."""
        jobs = [
            replace(
                self.job,
                recipe=arm.recipe,
                seed=seed,
                budget=str(arm.budget),
                label=f"{arm.name}, seed {seed}",
                arm=arm.name,
            )
            for seed in seeds  # seed by seed, so that every arm is tried early
            for arm in arms
        ]
        records = self.run(jobs)
        return {arm.name: records[i :: len(arms)] for i, arm in enumerate(arms)}

    def tune(
        self, arms: Sequence[Arm], spaces: Mapping[str, tuning.Space], trials: int, seeds: Sequence[int]
    ) -> dict[str, tuning.Tuned]:
        """Settings for each arm, found on the validation split."""
        budgets = {arm.name: str(arm.budget) for arm in arms}

        def run(asked: Sequence[tuple[str, Recipe, int]]) -> list[Record]:
            return self.run(
                [
                    replace(
                        self.job,
                        recipe=recipe,
                        seed=seed,
                        budget=budgets[name],
                        label=f"tuning {name}",
                        arm=name,
                        evaluations=0,
                        test=False,
                    )
                    for name, recipe, seed in asked
                ]
            )

        recipes = {arm.name: arm.recipe for arm in arms}
        return tuning.tune(recipes, spaces, trials=trials, metric=self.metric, seeds=seeds, run=run)

    def run(self, jobs: Sequence[Job]) -> list[Record]:
        """The records of `jobs`, in their order; equal ones are done once."""
        wanted = {job.key: job for job in jobs}

        def tell(event: Progress) -> None:
            done = sum(key in self.records for key in wanted)
            self.on_progress(replace(event, done=done, total=len(wanted)))

        left = self._undone(list(wanted.values()), tell)
        while left:
            self.executor.run(left, begin=self._begin, on_record=self._keep, on_progress=tell)
            left = self._await([job for job in left if job.key not in self.records], tell)
        return [self.records[job.key] for job in jobs]

    def _undone(self, jobs: Sequence[Job], tell: Callable[[Progress], None]) -> list[Job]:
        """Those of `jobs` that have no record yet, neither here nor in the store."""
        kept = self.store.known(job.key for job in jobs if job.key not in self.records) if self.store else set()
        left = []
        for job in jobs:
            if self.store and job.key in kept and (found := self.store.get(job.key)):
                self.records[job.key] = found
                self.reused += 1
                if job.log is not None:
                    write(job, found)
            if job.key in self.records:
                tell(Progress(job.key, job.label, 1.0, "reused", 0, 0))
            else:
                left.append(job)
        return left

    def _begin(self, job: Job) -> bool:
        return self.leases is None or self.leases.claim(job.key)

    def _await(self, jobs: Sequence[Job], tell: Callable[[Progress], None]) -> list[Job]:
        """Let other processes do `jobs`; what is still to be done when one of these is this process's after all."""
        with signals() as received:
            while self.leases and (jobs := self._undone(jobs, tell)):
                for job in jobs:
                    tell(Progress(job.key, job.label, 0.0, "elsewhere", 0, 0))
                if any(self.leases.claim(key) for key in self.leases.free([job.key for job in jobs])):
                    return list(jobs)
                time.sleep(LOOK)
                if received:
                    raise Interrupted("stopped")
        return []

    def _keep(self, job: Job, record: Record) -> None:
        self.training_seconds += record.seconds
        if self.store and not self.store.put(job.key, record):
            record = self.store.get(job.key) or record  # another process did this run too: let all speak of one
        self.records[job.key] = record
        if job.test and record.status == "finished" and self.metric.name not in record.metrics["test"]:
            raise AssayError(f"task {job.task.name!r} gave no {self.metric.name!r} on its test split; has it one?")


def _metric(task: Task, name: str | None) -> Metric:
    if not task.metrics:
        raise AssayError(f"task {task.name!r} has no metrics to compare by")
    known = {metric.name: metric for metric in task.metrics}
    if name is not None and name not in known:
        raise UnknownName(f"metric of {task.name}", name, known)
    return task.metrics[0] if name is None else known[name]


def _seeds(seeds: int | Sequence[int]) -> list[int]:
    found = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    if not found or len(set(found)) < len(found) or min(found) < 0:
        raise AssayError(f"seeds must be a count from 1 up, or different numbers from 0 up, got {seeds}")
    return found


def _arms(arms: Sequence[Arm], budget: Budget) -> list[Arm]:
    """`arms` with their budgets and baselines filled in."""
    names = [arm.name for arm in arms]
    if len(names) < 2:
        raise AssayError(f"a comparison needs at least two arms, got {len(names)}")
    if len(set(names)) < len(names):
        raise AssayError(f"arms must have different names, got {', '.join(names)}")
    for arm in arms:
        if arm.against is not None and arm.against not in names:
            raise UnknownName("arm", arm.against, names)
        if arm.against == arm.name or (arm.against and arm is arms[0]):
            raise AssayError(f"arm {arm.name!r} cannot be compared with {arm.against!r}: the first arm is the baseline")
    return [
        replace(arm, budget=str(Budget.parse(arm.budget or budget)), against=arm.against or names[0]) for arm in arms
    ]


def threads_for(threads: int | None, cpus_per_run: int | None) -> int:
    """CPU threads of a run, of which one number or the other may be given."""
    if threads is not None and cpus_per_run not in (None, threads):
        raise AssayError(f"threads and cpus_per_run are one thing, got {threads} and {cpus_per_run}; leave one out")
    return next((number for number in (threads, cpus_per_run) if number is not None), 1)


def executor_for(
    given: Executor | str | None,
    workers: int | None,
    accelerator: str,
    *,
    address: str | None = None,
    threads: int = 1,
    cpus_per_run: int | None = None,
    gpus_per_run: float = 0.0,
    devices: int = 1,
) -> AbstractContextManager[Executor]:
    """Who does the runs; the arguments as in `compare`."""
    if given not in (None, "pool", "ray", "serial") and isinstance(given, str):
        raise UnknownName("executor", given, ("pool", "ray", "serial"))
    if given == "ray":
        if devices > 1:
            raise AssayError(f"on Ray a run has one device, got {devices}; several are for the pool")
        return RayExecutor(address, cpus_per_run=threads, gpus_per_run=gpus_per_run, limit=workers)
    for name, value in (("address", address), ("cpus_per_run", cpus_per_run), ("gpus_per_run", gpus_per_run or None)):
        if value is not None:
            raise AssayError(f"{name} is for executor 'ray', got {value!r} without it")
    if given is not None and not isinstance(given, str):
        return nullcontext(given)  # its owner ends it
    if devices > 1 and accelerator == "cpu":
        cores = cpu_count()
        if devices > cores:
            warnings.warn(f"{devices} devices are processes here, more than the {cores} cores there are", stacklevel=3)
        workers = workers if workers is not None else max(cores // devices, 1)
    if given == "serial" or (given is None and (accelerator != "cpu" or workers == 1)):
        return SerialExecutor()
    # one accelerator is shared by all workers, so that more than one is for its user to decide
    return PoolExecutor(workers if workers is not None or accelerator == "cpu" else 1)


def _controls(arms: Sequence[Arm], runs: Mapping[str, Sequence[Record]]) -> dict[str, Arm]:
    """For each arm that costs more, by its name: its baseline, given as many FLOPs."""
    by_name = {arm.name: arm for arm in arms}
    found = {}
    for arm in arms[1:]:
        baseline = by_name[str(arm.against)]
        whole = [
            (mine.flops, theirs.flops)
            for mine, theirs in zip(runs[arm.name], runs[baseline.name], strict=True)
            if mine.status == theirs.status == "finished"  # a diverged run stopped early
        ]
        spent, normal = (float(np.mean(values)) for values in zip(*whole, strict=True)) if whole else (0.0, 0.0)
        if made := control(arm, baseline, spent, normal):
            found[arm.name] = made
    return found


def control(arm: Arm, baseline: Arm, spent: float, normal: float) -> Arm | None:
    """`baseline` given the FLOPs that `arm` has `spent`, if these are enough more than its `normal` ones to matter."""
    counted = Budget.parse(str(arm.budget)).unit in ("steps", "epochs", "samples")
    if not counted or not normal > 0 or not normal * EQUAL < spent:
        return None
    return replace(baseline, name=f"{baseline.name} at {arm.name}'s FLOPs", budget=str(Budget(spent, "flops")))


def _overlap(task: Task, seed: int) -> float | None:
    """The ratio n_test / n_train of the split that `seed` draws; `None` where splits share no data."""
    if task.drawn_anew:
        return None
    splits = task.splits(seed)
    return None if splits.train is None or splits.test is None else len(splits.test) / len(splits.train)


def _pair(
    arm: str,
    runs: Sequence[Record],
    baseline: str,
    baseline_runs: Sequence[Record],
    metric: Metric,
    *,
    shared: bool,
    overlap: float | None,
) -> Pairs:
    """Differences seed by seed, more being better; of every test example too where all runs share them."""
    sign = 1.0 if metric.goal == "max" else -1.0
    name = f"test/{metric.name}"
    sizes = {len(run.outcomes[name]) for run in (*runs, *baseline_runs) if name in run.outcomes}
    finished = [run for run in (*runs, *baseline_runs) if run.status == "finished"]
    examples = shared and len(sizes) == 1 and all(name in run.outcomes for run in finished)
    differences, outcomes = [], []
    for mine, theirs in zip(runs, baseline_runs, strict=True):
        if mine.status == theirs.status == "diverged":
            differences.append(0.0)
            outcomes.append(np.zeros(max(sizes, default=0)))
            continue
        differences.append(sign * (_figure(mine, metric) - _figure(theirs, metric)))
        if examples:
            outcomes.append(sign * (_outcomes(mine, metric, max(sizes)) - _outcomes(theirs, metric, max(sizes))))
    return Pairs(
        arm=arm,
        baseline=baseline,
        differences=differences,
        outcomes=np.stack(outcomes) if examples else None,
        overlap=overlap,
        diverged=sum(run.status == "diverged" for run in runs),
        baseline_diverged=sum(run.status == "diverged" for run in baseline_runs),
    )


def _figure(run: Record, metric: Metric) -> float:
    return metric.worst if run.status == "diverged" else run.metrics["test"][metric.name]


def _outcomes(run: Record, metric: Metric, size: int) -> np.ndarray:
    """float64 [examples]"""
    if run.status == "diverged":
        return np.full(size, metric.worst)
    return run.outcomes[f"test/{metric.name}"].astype(np.float64)
