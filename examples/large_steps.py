"""How many iterations separate two classes, for every rule and step size, beside what the theory allows.

python examples/large_steps.py [--hard 10 100 1000] [--delta 0.5] [--pairs 1-8 3-8 4-9] [--rates 1 10 100 1e4 1e6]

On the hard family the plain rules take iterations in proportion to the number of points, the normalised ones a fixed
number of them; on digits the difference is small, and a well chosen large step of the plain rule may win. The highest
loss on the way shows that it is no measure of progress.
"""

import argparse

import numpy as np
import torch
from torch import Tensor

from assay.analysis.separability import hard_family, iteration_bound, separable_margin
from assay.data.digits import read_digits
from assay.optim.separation import Rule, separate

MOST = 50_000
LOGISTIC: tuple[Rule, ...] = ("logistic", "normalized-logistic")
PERCEPTRON: tuple[Rule, ...] = ("perceptron", "normalized-perceptron")


def digits(pair: str) -> tuple[Tensor, Tensor]:
    """All images of two digits, pixels in [0, 1] and a constant."""
    first, second = map(int, pair.split("-"))
    images, labels = read_digits()
    rows = np.isin(labels, (first, second))
    x = np.c_[(images[rows].reshape(rows.sum(), -1) + 1) / 2, np.ones(rows.sum())]
    return torch.tensor(x, dtype=torch.float64), torch.tensor(labels[rows] == second).long()


def table(name: str, x: Tensor, y: Tensor, rates: list[float]) -> str:
    samples, radius, margin = len(x), float(x.norm(dim=1).max()), separable_margin(x, y)
    lines = [
        f"{name}: {samples} samples, R^2 / mu^2 = {radius**2 / margin**2:.4g}, n / R^2 = {samples / radius**2:.3g}",
        f"  {'rule':22} {'gamma':>8} {'iterations':>10} {'at most':>10} {'peak loss':>9}",
    ]
    for rule in (*LOGISTIC, *PERCEPTRON):
        of = rates if rule in LOGISTIC else [1.0]
        found = separate(x, y, rule, of, max_iter=MOST)
        for i, rate in enumerate(of):
            took = f"{found.iterations[i]}" if found.separated[i] else f"> {MOST}"
            bound = iteration_bound(rule, samples, radius, margin, rate)
            shown = (f"{rate:g}", f"{found.peak_loss[i]:.3g}") if rule in LOGISTIC else ("any", "")
            lines.append(f"  {rule:22} {shown[0]:>8} {took:>10} {bound:>10.3g} {shown[1]:>9}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hard", type=int, nargs="*", default=[10, 100, 1000], help="points of the hard family")
    parser.add_argument("--delta", type=float, default=0.5)
    parser.add_argument("--pairs", nargs="*", default=["1-8", "3-8", "4-9"], help="of digits")
    parser.add_argument("--rates", type=float, nargs="+", default=[1.0, 10.0, 100.0, 1e4, 1e6])
    options = parser.parse_args()
    torch.set_num_threads(1)
    for samples in options.hard:
        print(table(f"hard family, delta {options.delta:g}", *hard_family(samples, options.delta), options.rates))
    for pair in options.pairs:
        print(table(f"digits {pair}", *digits(pair), options.rates))


if __name__ == "__main__":
    main()
