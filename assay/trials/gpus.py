"""Time and money on a GPU that is not at hand.

    seconds = FLOPs / (peak rate * utilisation);   dollars = hours * price

The peak rate is the maker's, the utilisation an assumption with a range; `gpus.toml` has both, with their sources.
"""

import math
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from assay.errors import AssayError, UnknownName

HALF = ("bf16-mixed", "16-mixed")


@dataclass(frozen=True)
class Gpu:
    """A kind of GPU.

    Attributes:
        name: as it is asked for.
        title: as its maker calls it.
        half, tf32, fp32: peak rates in TFLOP/s; `tf32` is that of float32 where it has none.
        memory: bytes.
        price: dollars an hour, an example; `None` where none is known.
        price_source: whose price, and when.
        source: of the rates.
    """

    name: str
    title: str
    half: float
    tf32: float
    fp32: float
    memory: float
    price: float | None
    price_source: str
    source: str

    def seconds_at_peak(self, flops: float, precision: str, convolutions: float) -> float:
        """Time at the peak rate, at which nothing runs.

        At `32-true`, matrix products run in float32 and convolutions in TF32, which is how torch has it unless told
        otherwise.

        Args:
            flops: what is to be done.
            precision: the recipe's.
            convolutions: share of convolutions in it, in [0, 1].

        Raises:
            AssayError: no rate is known for the precision.
        """
        if precision in HALF:
            return flops / (self.half * 1e12)
        if precision != "32-true":
            raise AssayError(f"no GPU's rate at precision {precision} is known; price it at 32-true or bf16-mixed")
        return flops * (convolutions / self.tf32 + (1 - convolutions) / self.fp32) / 1e12


@dataclass(frozen=True)
class Estimate:
    """What work takes on a GPU.

    Attributes:
        gpu: name.
        utilisation: (low, high), of the peak rate.
        seconds: (shortest, longest).
        price: dollars an hour.
        price_source: of it.
        dollars: (least, most); `None` without a price.
        fits: whether the largest step's tensors leave a tenth of the memory free; `None` where their size is unknown.
    """

    gpu: str
    utilisation: tuple[float, float]
    seconds: tuple[float, float]
    price: float | None
    price_source: str
    dollars: tuple[float, float] | None
    fits: bool | None


@cache
def _table() -> dict[str, Any]:
    return tomllib.loads(Path(__file__).with_name("gpus.toml").read_text())


def gpu(name: str) -> Gpu:
    """The GPU called `name`, such as `"h100"`.

    Raises:
        UnknownName: it is not in the table.
    """
    known = _table()["gpus"]
    if name.lower() not in known:
        raise UnknownName("GPU", name, known)
    row = known[name.lower()]
    return Gpu(
        name=name.lower(),
        title=row["title"],
        half=row["half"],
        tf32=row.get("tf32", row["fp32"]),
        fp32=row["fp32"],
        memory=row["memory"] * 1e9,
        price=row.get("price"),
        price_source=_table()["price_source"],
        source=row["source"],
    )


def estimate(
    on: Gpu, at_peak: float, *, memory: int | float | None = None, price: float | None = None,
    utilisation: float | None = None,
) -> Estimate:  # fmt: skip
    """Time and money of work that takes `at_peak` seconds at the peak rate.

    Args:
        on: the GPU.
        at_peak: seconds, see `Gpu.seconds_at_peak`.
        memory: bytes that the largest step holds.
        price: dollars an hour, instead of the table's.
        utilisation: in (0, 1], instead of the table's range.

    Raises:
        AssayError: price or utilisation is out of its range.
    """
    if price is not None and not 0 <= price < math.inf:
        raise AssayError(f"price must be dollars an hour, at least 0 and finite, got {price:g}")
    if utilisation is not None and not 0 < utilisation <= 1:
        raise AssayError(f"utilisation must lie in (0, 1], such as 0.3, got {utilisation:g}")
    range_ = _table()["utilisation"]
    low, high = (utilisation, utilisation) if utilisation is not None else (range_["low"], range_["high"])
    seconds = at_peak / high, at_peak / low
    hourly = on.price if price is None else price
    return Estimate(
        gpu=on.name,
        utilisation=(low, high),
        seconds=seconds,
        price=hourly,
        price_source=on.price_source if price is None and hourly is not None else "",
        dollars=None if hourly is None else (hourly * seconds[0] / 3600, hourly * seconds[1] / 3600),
        fits=None if memory is None else memory <= 0.9 * on.memory,
    )
