"""The time to separate two digits: several step sizes side by side against one after another, and scikit-learn's online
perceptron, which sees the samples one at a time.

Ways are interleaved in one process; times are medians over rounds, ratios medians of the ratios of a round.

python benchmarks/separation.py [--rounds 7] [--first 1] [--second 8] [--threads 1]
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from sklearn.linear_model import Perceptron

from assay.optim.separation import separate
from assay.tasks.separation import Separation

RATES = [10.0 ** (k / 2) for k in range(13)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("--rounds", 7), ("--first", 1), ("--second", 8), ("--threads", 1)):
        parser.add_argument(name, type=int, default=value)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    examples = Separation(data="digits", first=options.first, second=options.second).splits(0).train
    assert examples is not None
    x, y = examples.batch(torch.arange(len(examples)))
    x = x.double()
    found: dict[str, int] = {}

    def passes() -> None:
        online = Perceptron(fit_intercept=False, tol=None, max_iter=1, shuffle=False, warm_start=True)
        found["passes"] = 0
        while found["passes"] == 0 or online.score(x.numpy(), y.numpy()) < 1:
            online.fit(x.numpy(), y.numpy())
            found["passes"] += 1

    def batch() -> None:
        found["iterations"] = int(separate(x, y, "normalized-perceptron").iterations)

    ways: dict[str, Callable[[], object]] = {
        "side by side": lambda: separate(x, y, "normalized-logistic", RATES),
        "one after another": lambda: [separate(x, y, "normalized-logistic", rate) for rate in RATES],
        "normalised perceptron": batch,
        "scikit-learn": passes,
    }
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.rounds):
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            taken[name].append(time.perf_counter() - began)
    for name, times in taken.items():
        print(f"{name:22} {1e3 * statistics.median(times):8.1f} ms")
    for one, other in (("side by side", "one after another"), ("normalised perceptron", "scikit-learn")):
        ratio = statistics.median(b / a for a, b in zip(taken[one], taken[other], strict=True))
        print(f"{one} is {ratio:.2f} times as fast as {other}")
    print(f"{found['iterations']} iterations of the batch perceptron, {found['passes']} passes of the online one")


if __name__ == "__main__":
    main()
