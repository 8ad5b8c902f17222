"""A trial that several processes do at once. Arguments: store, log, seconds a step, executor, seeds."""

import sys

from tiny import Die, Pause, Tiny, Twice

from assay.trials import Arm, TrialResult, compare


def shared_trial(store, log, *, pause: float, executor="serial", seeds: int = 2, on_progress=None) -> TrialResult:
    """Two arms; `log` gets a line for each step that is begun."""
    methods = [Die(str(log), times=0), Pause(pause)]
    recipe = Tiny().recipe
    arms = [Arm("base", recipe.with_methods(methods)), Arm("twice", recipe.with_methods([*methods, Twice()]))]
    return compare(
        Tiny(), arms, seeds=seeds, budget="6steps", equal_flops=False, evaluations=1,
        store=store, executor=executor, workers=2, on_progress=on_progress,
    )  # fmt: skip


if __name__ == "__main__":
    store, log, pause, executor, *seeds = sys.argv[1:]
    shared_trial(store, log, pause=float(pause), executor=executor, seeds=int(seeds[0]) if seeds else 2)
