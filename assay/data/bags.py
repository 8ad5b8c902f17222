"""Bags of samples of which only the mean response is told, and those means made private.

Bags must not depend on the responses: the privacy and the theory below (`assay.analysis.aggregate_risk`) both need it,
and bags of similar samples are another problem.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.utils.data import Sampler

if TYPE_CHECKING:
    Lists = Sampler[list[int]]
else:
    Lists = Sampler


def make_bags(samples: int, bag_size: int, generator: torch.Generator | None = None) -> Int64[Tensor, " samples"]:
    """The bag of each sample: random ones of `bag_size`, the last with what is left over.

    Raises:
        ValueError: there are no samples, or `bag_size` lies outside 1..samples.
    """
    if samples < 1 or not 1 <= bag_size <= samples:
        raise ValueError(f"bag_size must lie in 1..{samples}, the samples, got {bag_size}")
    bags = torch.empty(samples, dtype=torch.int64)
    bags[torch.randperm(samples, generator=generator)] = torch.arange(samples) // bag_size
    return bags


def bag_sizes(bags: Int64[Tensor, " samples"], count: int | None = None) -> Int64[Tensor, " bags"]:
    """How many samples each bag has.

    Args:
        bags: of each sample.
        count: how many bags there are; by default up to the last one named.

    Raises:
        ValueError: a number is negative or too large, or a bag is empty.
    """
    if bags.dtype != torch.int64:
        raise ValueError(f"bags must be int64, got {bags.dtype}")
    if not len(bags) or int(bags.min()) < 0:
        raise ValueError("bags must hold at least one number, from 0 up")
    sizes = torch.bincount(bags, minlength=count or 0)
    if count is not None and len(sizes) > count:
        raise ValueError(f"bags must lie below {count}, got {len(sizes) - 1}")
    if not bool(sizes.all()):
        raise ValueError(f"bag {int((sizes == 0).nonzero()[0])} is empty")
    return sizes


def aggregate(
    responses: Float[Tensor, "samples *outputs"], bags: Int64[Tensor, " samples"]
) -> Float[Tensor, "bags *outputs"]:
    """The mean response of each bag; of one-hot rows, the shares of the classes.

    Raises:
        ValueError: lengths differ, a bag is empty, or a response is not finite.
    """
    if len(responses) != len(bags):
        raise ValueError(f"responses and bags must have equal lengths, got {len(responses)} and {len(bags)}")
    if not torch.isfinite(responses).all():
        raise ValueError("responses must be finite, got NaN or infinity")
    sizes = bag_sizes(bags)
    total = responses.new_zeros(len(sizes), *responses.shape[1:]).index_add(0, bags, responses)
    return total / sizes.view(-1, *[1] * (responses.dim() - 1))


def label_dp_aggregate(
    responses: Float[Tensor, " samples"],
    bags: Int64[Tensor, " samples"],
    *,
    epsilon: int | float,
    clip: int | float,
    generator: torch.Generator,
) -> Float[Tensor, " bags"]:
    """Mean responses under epsilon label differential privacy: each response clipped to [-clip, clip], the mean of bag
    a plus Laplace noise of scale 2 clip / (k_a epsilon), k_a its size.

    Changing one response moves one mean by at most 2 clip / k_a (the sensitivity), and bags do not overlap, so that
    the means and all that is trained on them are epsilon-private for each response. That holds for one release: call it
    once and keep what it gives. Noise in floating point has finer limits (Mironov 2012) which this ignores.

    Args:
        epsilon: privacy budget, positive; small is private.
        clip: bound on a response, positive; a public constant, never read from the responses.
        generator: of the noise.

    Raises:
        ValueError: `epsilon` or `clip` is not positive, or as `aggregate`.

    Source: Javanmard et al. 2024, who clip and add Laplace noise; the constants are worked out here, as theirs were not
    to be had.
    """
    if not (epsilon > 0 and clip > 0):
        raise ValueError(f"epsilon and clip must be positive, got {epsilon} and {clip}")
    means = aggregate(responses.clamp(-clip, clip), bags)
    u = torch.rand(len(means), dtype=torch.float64, generator=generator) - 0.5
    noise = -u.sign() * torch.log1p(-2 * u.abs())
    return means + (2 * clip / (bag_sizes(bags).cpu() * epsilon) * noise).to(means)


class BagBatchSampler(Lists):
    """Batches of whole bags, for a `DataLoader`'s `batch_sampler`: the rows of `bags_per_batch` bags, bag by bag, in a
    new order each pass.

    Args:
        bags: of each sample.
        bags_per_batch: at least 1; the last batch has what is left over.
        generator: of the order; without one, bags come in theirs.

    Raises:
        ValueError: `bags_per_batch` is not positive, or a bag is empty.
    """

    def __init__(
        self, bags: Int64[Tensor, " samples"], bags_per_batch: int, generator: torch.Generator | None = None
    ) -> None:
        if bags_per_batch < 1:
            raise ValueError(f"bags_per_batch must be positive, got {bags_per_batch}")
        rows = bags.argsort(stable=True)
        self.members = [part.tolist() for part in torch.split(rows, bag_sizes(bags).tolist())]
        self.bags_per_batch, self.generator = bags_per_batch, generator

    def __len__(self) -> int:
        return -(-len(self.members) // self.bags_per_batch)

    def __iter__(self) -> Iterator[list[int]]:
        count = len(self.members)
        order = range(count) if self.generator is None else torch.randperm(count, generator=self.generator).tolist()
        for start in range(0, count, self.bags_per_batch):
            yield [row for bag in order[start : start + self.bags_per_batch] for row in self.members[bag]]
