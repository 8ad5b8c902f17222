"""The card of a paper: its facts, the objects that implement it, and the claim it is held to.

Cards import nothing heavy, so that all of them can be listed at once; what a claim runs is imported when it runs.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from assay.claims.check import Check
    from assay.trials.result import TrialResult

FAMILIES = (
    "optimisers, batch size, memory",
    "normalisation, regularisation, adaptation",
    "objectives and representations",
    "analysis, scaling, theory, data",
    "compression and architecture search",
    "segmentation, localisation, medical",
    "restoration and reconstruction",
    "generation, 3D, codecs",
)

Status = Literal["planned", "implemented", "checked"]


@dataclass(frozen=True)
class Headline:
    """Figures that the paper itself reports, as printed there.

    Attributes:
        what: data, network, measure and unit, such as `"ImageNet, ResNet-50, top-1 error (%)"`.
        figures: one by arm, such as `{"baseline": 23.68, "CutMix": 21.40}`.
    """

    what: str
    figures: Mapping[str, int | float | str]


@dataclass(frozen=True)
class Claim:
    """What the paper says, as a check fixed before it is run.

    Attributes:
        statement: the claim in one sentence, at the scale at which it is checked here.
        task: as the command line names it.
        arms: each arm in words, the baseline first.
        metric: what the verdict is about; `direction` says whether the treatment should raise or lower it.
        smallest_effect: the difference that counts, in the metric's own unit.
        seeds, budget: of every arm.
        decides: the comparison (arm, baseline) that gives the verdict.
        tuning: how the arms were tuned, the baseline as well.
        power: why this many seeds can see such an effect.
        trial: runs it; given a `Check`, which knows whether to be quick, where runs are stored and how to report.
    """

    statement: str
    task: str
    arms: Mapping[str, str]
    metric: str
    direction: Literal["higher", "lower"]
    smallest_effect: float
    seeds: int
    budget: str
    decides: tuple[str, str]
    tuning: str
    power: str
    trial: "Callable[[Check], TrialResult]" = field(compare=False, repr=False)

    def describe(self) -> dict[str, Any]:
        """All that was fixed beforehand, JSON-able."""
        plain = {k: v for k, v in self.__dict__.items() if k != "trial"}
        return plain | {"arms": dict(self.arms), "decides": list(self.decides)}


@dataclass(frozen=True)
class Paper:
    """One paper.

    Attributes:
        slug: its name in commands and file names.
        title, authors, year, venue: as published.
        family: one of `FAMILIES`.
        summary: what it proposes or finds, in a sentence or two of ours.
        arxiv: identifier such as `"1905.04899"`.
        code: the official repository as `owner/name`, or where else the code is; `None` where there is none.
        objects: dotted names of what implements it here; empty while it is planned.
        method: dotted name of the `Method` that treats a run with it; `None` where it cannot treat one.
        example: what to type after `assay compare` to try it.
        headline: the paper's own figures.
        claim: what it is held to here.
        paper_scale: the setting at which the paper itself worked, in a line.
        caveat: what the evidence leaves open and its interval does not show; written after it, so no part of the claim.
    """

    slug: str
    title: str
    authors: tuple[str, ...]
    year: int
    venue: str
    family: str
    summary: str
    arxiv: str | None = None
    code: str | None = None
    objects: tuple[str, ...] = ()
    method: str | None = None
    example: str = ""
    headline: tuple[Headline, ...] = ()
    claim: Claim | None = None
    paper_scale: str = ""
    caveat: str = ""

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise ValueError(f"family must be one of {FAMILIES}, got {self.family!r}")

    def describe(self) -> dict[str, Any]:
        """The card as JSON-able values."""
        plain = dict(self.__dict__)
        return plain | {
            "authors": list(self.authors),
            "objects": list(self.objects),
            "headline": [{"what": h.what, "figures": dict(h.figures)} for h in self.headline],
            "claim": self.claim.describe() if self.claim else None,
        }
