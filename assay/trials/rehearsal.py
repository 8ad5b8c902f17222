"""What a run will cost, from a few of its steps.

    FLOPs = setup + steps * step + epochs * epoch + finish

Each part is counted as the engine counts it, so that the sum is what the run's record will say, unless a method changes
its steps along the way. Time is measured on this machine, as it is now.
"""

import math
import statistics
import time
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.utils._pytree import tree_leaves

from assay.engine import Budget, Examples, Method, Run, chance
from assay.engine.flops import flop_counter
from assay.errors import AssayError
from assay.trials.memory import TensorMemory

FEWEST, MOST, ENOUGH = 3, 30, 0.25  # timed steps, and the seconds after which no more than the fewest are done
BRIEF = 1.0  # seconds: an evaluation as short as this is done once more, without the counter that slows it down


@dataclass(frozen=True)
class Cost:
    """FLOPs, and seconds on this machine."""

    flops: float = 0.0
    seconds: float = 0.0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.flops + other.flops, self.seconds + other.seconds)

    def __mul__(self, times: int | float) -> "Cost":
        return Cost(self.flops * times, self.seconds * times)


@dataclass(frozen=True)
class RunCost:
    """What one whole run costs.

    Attributes:
        steps: of training.
        training: what its record will have as `flops` and `seconds`.
        evaluation: points of the learning curve, and the verdict's figures at the end.
    """

    steps: int
    training: Cost
    evaluation: Cost


@dataclass(frozen=True)
class Rehearsal:
    """What the parts of a run cost.

    Attributes:
        setup, step, epoch, finish: one each of what a run is made of.
        point: an evaluation on the validation split during training.
        valid: the same of the finished network.
        test: test samples for each validation sample.
        sizes: samples of each step of an epoch, the last perhaps fewer; of one average step where epochs are long.
        steps_per_epoch: `None` where there are no epochs.
        convolutions: share of the step's FLOPs that are convolutions, in [0, 1].
        memory: bytes of tensors that a step holds at most, weights and the optimizer's state included.
        parameters: count.
    """

    setup: Cost
    step: Cost
    epoch: Cost
    finish: Cost
    point: Cost
    valid: Cost
    test: float
    sizes: tuple[float, ...]
    steps_per_epoch: int | None
    convolutions: float
    memory: int
    parameters: int

    def whole(self, budget: Budget, *, evaluations: int = 10, test: bool = True) -> RunCost:
        """The cost of a run to the end of `budget`.

        Args:
            budget: in any currency.
            evaluations: points of the learning curve; the last is that at the end, which is there anyway.
            test: the test split is read at the end.

        Raises:
            AssayError: a step spends nothing of the budget's currency.
        """
        steps = self._steps(budget)
        epochs = steps // self.steps_per_epoch if self.steps_per_epoch else 0
        training = self.setup + self.step * self._full(steps) + self.epoch * epochs + self.finish
        points = min(max(evaluations - 1, 0), steps - 1)
        return RunCost(steps, training, self.point * points + self.valid * (1 + (self.test if test else 0.0)))

    def _steps(self, budget: Budget) -> int:
        amount, unit, per_epoch = budget.amount, budget.unit, self.steps_per_epoch
        if unit == "steps":
            return int(amount)
        if unit == "epochs":
            if per_epoch is None:
                raise AssayError("the task has no epochs; give its budget in steps, samples, seconds or flops")
            return max(math.ceil(round(amount * per_epoch, 6)), 1)
        if unit == "samples":
            setup, step, epoch = 0.0, statistics.fmean(self.sizes), 0.0
        else:
            setup, step, epoch = (float(getattr(part, unit)) for part in (self.setup, self.step, self.epoch))
        whole = step * (per_epoch or 1) + epoch
        if whole <= 0:
            raise AssayError(f"a step spends no {unit}: give another budget")
        wanted = amount * (1 - 1e-12) - setup
        epochs = max(math.floor(wanted / whole), 0)
        left = wanted - epochs * whole  # within the last epoch, whose end comes with its last step
        steps = 0
        if left > 0:
            ends = range(1, (per_epoch or 1) + 1)
            steps = bisect_left(ends, left, key=lambda end: step * self._full(end)) + 1
        return max(epochs * (per_epoch or 1) + min(steps, per_epoch or 1), 1)

    def _full(self, steps: int) -> float:
        """`steps` in steps of average size."""
        passes, rest = divmod(steps, len(self.sizes))
        return len(self.sizes) * (passes + sum(self.sizes[:rest]) / sum(self.sizes))


def rehearse(run: Run) -> Rehearsal:
    """Build `run`, do its first few steps, finish and evaluate on the validation split. The test split is not read.

    Raises:
        AssayError: a method refuses the task, or data are missing.
    """
    with chance.kept():
        run.build()
        setup, per_epoch = Cost(run.flops, run.seconds), run.stream.steps_per_epoch
        memory = TensorMemory()
        memory.hold([*run.model.parameters(), *run.model.buffers()])
        memory.hold(tree_leaves([method.state_dict() for method in run.methods]))
        with memory, flop_counter() as counter:
            took = [_seconds(run, run.take_step)]
        kinds = counter.get_flop_counts().get("Global", {})
        convolved = sum(n for kind, n in kinds.items() if "convolution" in str(kind))
        if run.progress < 1:
            with memory:  # by now the optimizer's state is there
                took.append(_seconds(run, run.take_step))
        epoch = _charged(run, run.end_epoch)
        timed: list[float] = []
        while run.progress < 1 and (len(timed) < FEWEST or (sum(timed) < ENOUGH and len(timed) < MOST)):
            before = int(run.epochs)
            seconds = _seconds(run, run.take_step)
            timed.append(max(seconds - epoch.seconds * (int(run.epochs) - before), 0.0))
        ended = 1 + (int(run.epochs) if per_epoch is not None else 0)
        flops, samples = run.flops - setup.flops - ended * epoch.flops, run.samples
        sizes = _sizes(run)
        step = Cost(flops / samples * statistics.fmean(sizes), statistics.median(timed or took))
        finishes = any(type(method).finish is not Method.finish for method in run.methods)
        point = _evaluation(run) if finishes and run.evaluations > 1 else None
        finish = _charged(run, run.finish)
        valid = _evaluation(run)
        return Rehearsal(
            setup=setup,
            step=step,
            epoch=epoch,
            finish=finish,
            point=point or valid,
            valid=valid,
            test=_samples(run.splits.test) / max(_samples(run.splits.valid), 1),
            sizes=sizes,
            steps_per_epoch=per_epoch,
            convolutions=convolved / counter.get_total_flops() if convolved else 0.0,
            memory=memory.peak,
            parameters=sum(p.numel() for p in run.model.parameters()),
        )


def _sizes(run: Run) -> tuple[float, ...]:
    per_epoch = run.stream.steps_per_epoch
    if per_epoch is None or per_epoch > MOST:  # the last of so many hardly counts
        return (run.samples / run.steps,)
    for _ in range(-run.steps % per_epoch):
        run.stream.next()
    return tuple(float(len(run.stream.next().ids)) for _ in range(per_epoch))


def _seconds(run: Run, act: Callable[[], object]) -> float:
    began = time.perf_counter()
    act()
    if run.device.type == "cuda":
        torch.cuda.synchronize(run.device)
    return time.perf_counter() - began


def _charged(run: Run, act: Callable[[], object]) -> Cost:
    before = run.flops
    seconds = _seconds(run, act)
    return Cost(run.flops - before, seconds)


def _evaluation(run: Run) -> Cost:
    def judge() -> None:
        run.evaluate(run.splits.valid)

    with flop_counter() as counter:
        seconds = _seconds(run, judge)
    if seconds < BRIEF:
        seconds = _seconds(run, judge)
    return Cost(float(counter.get_total_flops()), seconds)


def _samples(examples: Examples | None) -> int:
    """As many as there are, or what they say themselves: an example may be a bag of several samples."""
    return 1 if examples is None else int(getattr(examples, "samples", len(examples)))
