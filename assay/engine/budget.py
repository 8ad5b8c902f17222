"""How much a run may spend, in the currency that matters."""

import re
from dataclasses import dataclass

from assay.errors import AssayError

UNITS = ("steps", "epochs", "samples", "seconds", "flops")
_SPELLINGS = {spelling: (unit, 1) for unit in UNITS for spelling in (unit, unit[:-1])}
_SPELLINGS |= {"s": ("seconds", 1)} | dict.fromkeys(("min", "minute", "minutes"), ("seconds", 60))
_PATTERN = re.compile(r"\s*([0-9]*\.?[0-9]+(?:e[+-]?[0-9]+)?)\s*([a-z]+)\s*", re.IGNORECASE)


@dataclass(frozen=True)
class Budget:
    """An amount of one currency: `Budget(10, "epochs")`. Seconds are seconds of training, evaluation not counted.

    Raises:
        AssayError: the unit is unknown, the amount is not positive and finite, or it is a fraction of a step or sample.
    """

    amount: int | float
    unit: str

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise AssayError(f"budget unit must be one of {', '.join(UNITS)}, got {self.unit!r}")
        if not 0 < self.amount < float("inf"):
            raise AssayError(f"budget must be positive and finite, got {self.amount:g} {self.unit}")
        if self.unit in ("steps", "samples") and self.amount != int(self.amount):
            raise AssayError(f"budget must be a whole number of {self.unit}, got {self.amount:g}")

    @classmethod
    def parse(cls, text: "str | Budget") -> "Budget":
        """Read `"10epochs"`, `"500 steps"`, `"20000samples"`, `"60s"`, `"2min"` or `"1e12flops"`."""
        if isinstance(text, Budget):
            return text
        match = _PATTERN.fullmatch(text)
        if match is None or match[2].lower() not in _SPELLINGS:
            wants = "write a number and a unit: 10epochs, 500steps, 20000samples, 60s, 2min, 1e12flops"
            raise AssayError(f"cannot read budget {text!r}; {wants}")
        unit, times = _SPELLINGS[match[2].lower()]
        return cls(float(match[1]) * times, unit)

    def __str__(self) -> str:
        return f"{self.amount:.15g}{self.unit}"
