"""A study of the calibration of many networks: trained here, measured in every way, and ranked.

python examples/calibration_study.py --data digits --networks 50 --out study.csv

Which measures agree on who is better calibrated, before and after temperature scaling, and do they still among the most
accurate? Networks trained elsewhere, NATS-Bench's for instance, come in as .npz files of their logits, one a network:
`--read FOLDER`.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from assay.analysis.calibration_study import Predictions, Study, read_predictions, study
from assay.engine import Examples, Run
from assay.engine.task import batches
from assay.tasks import load

COMPARED = [
    ("ece_15_pre", "ece_25_pre"), ("ece_15_pre", "ece_500_pre"), ("ece_15_post", "ece_500_post"),
    ("mce_15_pre", "mce_500_pre"), ("mce_15_post", "mce_500_post"), ("ece_15_pre", "ece_15_post"),
    ("ece_15_pre", "ece_em_15_pre"), ("ece_15_pre", "cwce_15_pre"), ("ece_15_pre", "ksce_pre"),
    ("ece_15_pre", "kdece_pre"), ("ece_15_pre", "mmce_pre"), ("ece_15_pre", "brier_pre"), ("ece_15_pre", "nll_pre"),
    ("ece_15_pre", "accuracy"), ("ece_15_post", "accuracy"),
]  # fmt: skip


def trained(data: str, networks: int, budget: str | None, seed: int) -> Iterator[Predictions]:
    """Train networks of the space side by side, and let each speak; the foreign data are test pictures under noise."""
    run = Run(load(f"network-space:networks={networks},data={data}"), seed=seed, budget=budget, evaluations=0)
    run.train()
    generator = torch.Generator().manual_seed(seed)
    (valid, y_valid), (test, y_test) = (pictures(part, run) for part in (run.splits.valid, run.splits.test))
    noisy = test + torch.randn(test.shape, generator=generator)
    for name, network in run.model.eval().named_children():
        with torch.no_grad():
            yield Predictions(name, network(valid), y_valid, network(test), y_test, {"noise": network(noisy)})


def pictures(part: Examples | None, run: Run) -> tuple[Tensor, Tensor]:
    assert part is not None
    x, y, _ = zip(*batches(part, 500, run.device), strict=True)
    return torch.cat(x), torch.cat(y)


def table(found: Study) -> str:
    half = max(len(found.names) // 2, 2)
    lines = [f"{len(found.names)} networks", f"{'Kendall tau of':34s}{'all':>8s}{f'best {half}':>10s}"]
    for one, other in COMPARED:
        taus = found.kendall(one, other), found.kendall(one, other, top=half)
        lines.append(f"{one + ', ' + other:34s}{taus[0]:8.2f}{taus[1]:10.2f}")
    means = ("accuracy", "temperature", "ece_15_pre", "ece_15_post", "ece_500_pre", "ece_500_post")
    lines += [f"mean {name:29s}{found.figures[name].mean():8.4f}" for name in means]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits", choices=["digits", "fashion-mnist"])
    parser.add_argument("--networks", type=int, default=50)
    parser.add_argument("--budget", help="of training, such as 20epochs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--read", type=Path, help="a folder of .npz files, instead of training")
    parser.add_argument("--out", type=Path, help="a CSV file of all measures")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.read:
        networks = (read_predictions(path) for path in sorted(options.read.glob("*.npz")))
    else:
        networks = trained(options.data, options.networks, options.budget, options.seed)
    found = study(networks)
    print(table(found))
    if options.out:
        found.to_csv(options.out)


if __name__ == "__main__":
    main()
