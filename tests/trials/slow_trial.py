"""A trial that takes seconds, as a program: `slow_trial.py STORE LOG`. It says how its runs are getting on."""

import sys

from assay.trials.worker import warm_up

if __name__ == "__main__":
    warm_up()

from tiny import Die, Pause, Tiny, Twice

from assay.errors import Interrupted
from assay.trials import Arm, TrialResult, compare

STEPS = 80


def slow_trial(store, log, on_progress=None) -> TrialResult:
    methods = [Pause(0.02), Die(str(log), times=0)]
    recipe = Tiny().recipe
    arms = [Arm("base", recipe.with_methods(methods)), Arm("twice", recipe.with_methods([*methods, Twice()]))]
    return compare(
        Tiny(), arms, seeds=2, budget=f"{STEPS}steps", store=store, executor="pool", workers=2, on_progress=on_progress
    )


if __name__ == "__main__":
    try:
        slow_trial(*sys.argv[1:], lambda event: print(event.state, event.label, event.fraction, flush=True))
    except Interrupted as stop:
        print(stop, flush=True)
        sys.exit(2)
