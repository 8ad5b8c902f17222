"""How a loss gives its values: each, their mean or their sum."""

from typing import Literal, get_args

from torch import Tensor

Reduction = Literal["mean", "sum", "none"]
REDUCTIONS: tuple[Reduction, ...] = get_args(Reduction)


def check_reduction(reduction: str) -> None:
    """Raises: ValueError: there is no such reduction."""
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction must be one of {', '.join(REDUCTIONS)}, got {reduction!r}")


def reduced(each: Tensor, reduction: str) -> Tensor:
    """The `mean` or `sum` of all values, or for `none` themselves.

    Raises:
        ValueError: there is no such reduction.
    """
    check_reduction(reduction)
    return each if reduction == "none" else each.mean() if reduction == "mean" else each.sum()
