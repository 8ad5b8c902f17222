"""What choosing the hardest batches costs: a batch's samples and its loss recorded, against torch's shuffled batches.

Ways are interleaved in one process, the time is per batch, the median over rounds; ranking happens once a pass and is
in it.

python benchmarks/hard_minibatch.py [--rounds 15] [--samples 50000] [--batch-size 64]
"""

import argparse
import statistics
import time

import torch
from torch.utils.data import BatchSampler, RandomSampler

from assay.data.hard_minibatch import HardMiniBatchSampler


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--samples", type=int, default=50_000)
    parser.add_argument("--batch-size", type=int, default=64)
    options = parser.parse_args()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    hard = HardMiniBatchSampler(options.samples, options.batch_size, 0.5, generator=generator)
    losses = torch.rand(hard.steps_per_epoch, generator=generator).unbind()
    for batch, _ in enumerate(hard):  # the first pass visits all and ranks nothing
        hard.record(losses[batch])
    shuffled = BatchSampler(RandomSampler(range(options.samples), generator=generator), options.batch_size, True)
    taken: dict[str, list[float]] = {"torch": [], "hard": []}
    for _ in range(options.rounds):
        began, batches = time.perf_counter(), 0
        for _ in shuffled:
            batches += 1
        taken["torch"].append((time.perf_counter() - began) / batches)
        began, batches = time.perf_counter(), 0
        for _ in hard:
            hard.record(losses[batches])
            batches += 1
        taken["hard"].append((time.perf_counter() - began) / batches)
    ratio = statistics.median(b / a for a, b in zip(taken["torch"], taken["hard"], strict=True))
    told = ", ".join(f"{name} {1e6 * statistics.median(times):.1f} us a batch" for name, times in taken.items())
    print(f"{hard.steps_per_epoch} batches of {options.batch_size}: {told}; ratio {ratio:.2f}")


if __name__ == "__main__":
    main()
