"""Time of a norm test beside BackPACK and Opacus: mean and variance of the gradients of a batch's samples.

    python benchmarks/gradient_moments.py --batches 32 256 --threads 1 2 --repeats 11

All take turns in one process, on one network and batch, and are held to the same sum of variances first; printed are
the median and the least wall time, with the ratio of the medians to that of the fastest peer. "Backward" is a plain
backward pass, to which a test comes on top. How to get the peers: `benchmarks/peers.txt`.
"""

import argparse
import copy
import statistics
import time
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from assay.optim import GradientMoments, per_sample_gradients


def mlp() -> tuple[nn.Sequential, tuple[int, ...]]:
    """Of 784, 256, 256 and 10 units."""
    layers = [nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10)]
    return nn.Sequential(*layers), (784,)


def cnn() -> tuple[nn.Sequential, tuple[int, ...]]:
    """Two convolutions of 5x5, each halved by pooling, and a linear layer: the paper's network for MNIST."""
    body = [nn.Conv2d(1, 16, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)]
    body += [nn.Conv2d(16, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*body, nn.Flatten(), nn.Linear(32 * 49, 10)), (1, 28, 28)


NETWORKS = {"mlp": mlp, "cnn": cnn}


def contenders(model: nn.Sequential, x: Tensor, y: Tensor) -> dict[str, Callable[[], float]]:
    """What gives the sum of variances, by name; the plain backward pass gives none."""

    def assay() -> float:
        moments = GradientMoments()
        moments.update(per_sample_gradients(model, cross_entropy, x, y, factored=True).values())
        return moments.variances().sum().item()

    def backward() -> float:
        model.zero_grad()
        cross_entropy(model(x), y).backward()
        return float("nan")

    found = {"backward": backward, "assay": assay}
    try:
        from backpack import backpack, extend
        from backpack.extensions import Variance
    except ImportError:
        print("backpack is not installed (benchmarks/peers.txt tells how): left out")
    else:
        extended, loss = extend(copy.deepcopy(model)), extend(nn.CrossEntropyLoss())

        def by_backpack() -> float:
            extended.zero_grad()
            with backpack(Variance()):
                loss(extended(x), y).backward()
            n = len(x)  # its gradients of samples are those of the mean loss, so 1/n of ours
            return sum(p.variance.sum().item() for p in extended.parameters()) * n * n / (n - 1) * n

        found["BackPACK"] = by_backpack
    try:
        from opacus.grad_sample import GradSampleModule
    except ImportError:
        print("opacus is not installed (benchmarks/peers.txt tells how): left out")
    else:
        wrapped = GradSampleModule(copy.deepcopy(model))

        def by_opacus() -> float:
            wrapped.zero_grad()
            cross_entropy(wrapped(x), y).backward()
            return sum(p.grad_sample.var(0).sum().item() for p in wrapped.parameters())

        found["Opacus"] = by_opacus
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--batches", nargs="+", type=int, default=[32, 256])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--repeats", type=int, default=11)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    for name in options.networks:
        for batch in options.batches:
            torch.manual_seed(0)
            model, shape = NETWORKS[name]()
            acting = contenders(model, torch.randn(batch, *shape), torch.randint(10, (batch,)))
            told = {label: act() for label, act in acting.items()}
            assert all(abs(v / told["assay"] - 1) < 1e-3 for k, v in told.items() if k != "backward"), told
            for threads in options.threads:
                torch.set_num_threads(threads)
                times: dict[str, list[float]] = {label: [] for label in acting}
                for _ in range(options.repeats):
                    for label, act in acting.items():
                        began = time.perf_counter()
                        act()
                        times[label].append(1e3 * (time.perf_counter() - began))
                print(f"\n{name}, batch {batch}, {threads} thread(s); ms")
                medians = {label: statistics.median(values) for label, values in times.items()}
                rivals = [medians[label] for label in ("BackPACK", "Opacus") if label in medians]
                for label, values in times.items():
                    line = f"  {label:10s}{medians[label]:9.1f}{min(values):9.1f}"
                    if label == "assay" and rivals:
                        line += f"   {medians[label] / min(rivals):.2f} of the fastest peer's"
                    print(line)


if __name__ == "__main__":
    main()
