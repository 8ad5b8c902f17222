"""How often does a trial find a difference between an arm and itself?

Real runs of one recipe on the digits, each from a seed of its own, are put at random into pairs and the pairs into
trials, as if they were two arms. A `supported` is false then; with intervals of 95% one in forty is to be expected. The
runs are done once and dealt anew many times, so the trials of different deals are not independent of each other.

    python benchmarks/same_arm.py [--runs 80] [--epochs 2] [--pairs 5] [--deals 50]
"""

import argparse

import numpy as np

from assay.trials.worker import warm_up

if __name__ == "__main__":
    warm_up()

from assay.engine import Record
from assay.tasks import load
from assay.trials import Job, PoolExecutor
from assay.trials.statistics import Pairs, compare_pairs


def trained(runs: int, epochs: int) -> list[Record]:
    """Records of one recipe from seeds 0, 1, ..., all judged on the same test examples."""
    task = load("digits")
    jobs = [Job(task, task.recipe, seed, f"{epochs}epochs", evaluations=0) for seed in range(runs)]
    found: dict[str, Record] = {}
    PoolExecutor().run(
        jobs, on_record=lambda job, record: found.__setitem__(job.key, record), on_progress=lambda event: None
    )
    return [found[job.key] for job in jobs]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=80)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--deals", type=int, default=50)
    options = parser.parse_args()
    correct = np.stack([run.outcomes["test/accuracy"] for run in trained(options.runs, options.epochs)]).astype(float)
    accuracy = correct.mean(axis=1)
    rng = np.random.default_rng(0)
    verdicts: list[str] = []
    for _ in range(options.deals):
        order = rng.permutation(len(correct))
        for start in range(0, len(order) - 2 * options.pairs + 1, 2 * options.pairs):
            arm, baseline = np.split(correct[order[start : start + 2 * options.pairs]], 2)
            outcomes = arm - baseline
            pairs = Pairs("one", "other", outcomes.mean(axis=1), outcomes)
            verdicts += [c.verdict for c in compare_pairs([pairs], smallest_effect=0.0)]
    spread = f"{accuracy.mean():.3f} +- {accuracy.std(ddof=1):.3f}"
    print(f"{options.runs} runs of {options.epochs} epochs, test accuracy {spread}")
    print(f"{len(verdicts)} trials of {options.pairs} pairs:")
    for verdict in ("supported", "refuted", "inconclusive"):
        print(f"  {verdict:12} {verdicts.count(verdict) / len(verdicts):6.1%}")


if __name__ == "__main__":
    main()
