"""How a network's extreme eigenvalues shrink towards those of all data as batches grow: measured, and by formula.

    python examples/batch_spectrum.py density.svg

A small perceptron learns the digits; then the Hessian's spectrum is measured on all of them, which is drawn, and on
random batches. Beside each mean of measured extremes is what isotropic noise would give, and the largest stable
learning rate of SGD.
"""

import argparse
import statistics
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from assay.analysis.batch_spectrum import measure
from assay.analysis.curvature import Curvature
from assay.analysis.spectral_density import spectral_density
from assay.optim.batch_rates import max_learning_rate
from assay.tasks.digits import Digits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=300, help="of training")
    parser.add_argument("--repeats", type=int, default=20, help="batches of each size")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    draw = torch.Generator().manual_seed(options.seed)
    train = Digits().splits(options.seed).train
    x, y = train.batch(torch.randperm(len(train), generator=draw)[:1152])
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 10))
    sgd = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)
    for _ in range(options.steps):
        rows = torch.randint(len(x), (64,), generator=draw)
        sgd.zero_grad()
        F.cross_entropy(model(x[rows]), y[rows]).backward()
        sgd.step()

    full = spectral_density(Curvature(model, F.cross_entropy, [(x, y)]), 100, starts=4, generator=draw)
    options.out.write_text(full.svg(title=f"Perceptron on digits, Hessian after {options.steps} steps"))
    parts = list(zip(x.split(64), y.split(64), strict=True))
    found = measure(model, F.cross_entropy, parts, probes=4, generator=draw)
    print(f"all data: {found.smallest:.3g} to {found.largest:.3g}; P sigma^2 {full.size * found.noise.sigma2:.3g}")
    print("| batch | smallest | formula | largest | formula | largest rate |\n| --- | --- | --- | --- | --- | --- |")
    for size in (4, 16, 64, 256):
        ends = []
        for _ in range(options.repeats):
            rows = torch.randperm(len(x), generator=draw)[:size]
            seen = spectral_density(Curvature(model, F.cross_entropy, [(x[rows], y[rows])]), 20, generator=draw)
            ends.append((seen.smallest, seen.largest))
        smallest, largest = (statistics.fmean(side) for side in zip(*ends, strict=True))
        low, high = found.noise.observed(found.smallest, size), found.largest_at(size)
        rate = max_learning_rate(largest)
        print(f"| {size} | {smallest:.3g} | {low:.3g} | {largest:.3g} | {high:.3g} | {rate:.3g} |")


if __name__ == "__main__":
    main()
