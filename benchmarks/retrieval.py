"""Mean average precision of n queries in a gallery of n: all at once, against a loop over queries with scikit-learn.

python benchmarks/retrieval.py [--rounds 5] [--sizes 300,2000] [--threads 1]
"""

import argparse
import statistics
import time
from functools import partial

import numpy as np
import torch
from sklearn.metrics import average_precision_score

from assay.metrics.retrieval import retrieval, truncated_distance


def loop(x: torch.Tensor, y: torch.Tensor) -> float:
    distance, labels = truncated_distance(x, x).numpy(), y.numpy()
    found = []
    for i in range(len(y)):
        rest = np.arange(len(y)) != i
        found.append(average_precision_score(labels[rest] == labels[i], -distance[i][rest]))
    return float(np.mean(found))


def ours(x: torch.Tensor, y: torch.Tensor) -> float:
    return retrieval(x, x, y, y, exclude_self=True).mean_average_precision


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sizes", default="300,2000")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for size in map(int, options.sizes.split(",")):
        generator = torch.Generator().manual_seed(0)
        x, y = torch.randn(size, 32, generator=generator), torch.randint(10, (size,), generator=generator)
        ways = {"all at once": partial(ours, x, y), "loop": partial(loop, x, y)}
        taken: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(options.rounds):
            for name, way in ways.items():
                began = time.perf_counter()
                way()
                taken[name].append(time.perf_counter() - began)
        mine, theirs = (statistics.median(times) for times in taken.values())
        print(
            f"{size} x {size}: {1e3 * mine:.1f} ms, the loop {1e3 * theirs:.1f} ms: {theirs / mine:.0f} times as fast"
        )


if __name__ == "__main__":
    main()
