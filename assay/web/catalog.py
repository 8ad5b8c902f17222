"""The catalog as a static site: every paper with its facts, objects and claim, and the evidence beside its own figures.

    index.html                    all papers; search, filters and order by a script, readable without it
    papers/<slug>.html            a paper
    evidence/<slug>.html          the report of its claim's trial, with the same as .json and .csv
    trials.html, trials/<n>.html  the trials of a store, where they are given
    feed.xml                      papers that came in, evidence that was made

Pages link to each other relatively: the site works from any folder, from any address and from the disk.
"""

import inspect
import pkgutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assay.claims.card import FAMILIES, Paper, Status
from assay.papers import papers, standing
from assay.trials.charts import interval_chart
from assay.trials.quantities import budget, count, duration
from assay.trials.report import from_strict_json, plots, templates, write_report
from assay.trials.result import TrialResult
from assay.trials.words import Finding, cautions, findings
from assay.web.feed import atom
from assay.web.folder import replaced

if TYPE_CHECKING:
    from jinja2 import Environment

STANDINGS: tuple[Status, ...] = ("checked", "implemented", "planned")
VERDICTS = ("supported", "refuted", "inconclusive")


@dataclass(frozen=True)
class Entry:
    """A paper as the catalog shows it.

    Attributes:
        evidence, result: what its claim's check left, and the trial in it; `None` where there has been none.
    """

    card: Paper
    status: Status
    evidence: dict[str, Any] | None
    result: TrialResult | None

    @property
    def verdict(self) -> str:
        """The verdict of its claim, or nothing."""
        return self.evidence["verdict"] if self.evidence else ""

    @cached_property
    def finding(self) -> Finding | None:
        """The comparison that decides the claim, in words."""
        if self.evidence is None or self.result is None:
            return None
        decides = tuple(self.evidence["claim"]["decides"])
        return next(f for f in findings(self.result) if (f.comparison.arm, f.comparison.baseline) == decides)

    @property
    def others(self) -> list[Finding]:
        """The other comparisons of its trial, such as that with the baseline at equal FLOPs."""
        return [finding for finding in findings(self.result) if finding != self.finding] if self.result else []

    @property
    def cautions(self) -> list[str]:
        """What a reader must know beside all of them."""
        return cautions(self.result) if self.result else []

    @property
    def deciding(self) -> TrialResult | None:
        """Its trial as if that comparison were all, for a plot of it alone."""
        return replace(self.result, comparisons=[self.finding.comparison]) if self.result and self.finding else None

    @cached_property
    def plots(self) -> dict[str, Any]:
        """What the plots of its evidence are rendered with."""
        return plots(self.result) if self.result else {}

    @property
    def objects(self) -> list[tuple[str, str]]:
        """Its objects by their dotted names, each with the first paragraph of what it says of itself."""
        texts = [(name, inspect.getdoc(pkgutil.resolve_name(name)) or "") for name in self.card.objects]
        return [(name, text.partition("\n\n")[0].replace("\n", " ")) for name, text in texts]


def entries() -> list[Entry]:
    """All papers: those with evidence first, then the implemented, then the planned, each by slug.

    Raises:
        AssayError: evidence cannot be read.
    """
    found = []
    for card in papers():
        status, evidence = standing(card)
        result = from_strict_json(evidence["trial"]) if evidence else None
        found.append(Entry(card, status, evidence, result))
    return sorted(found, key=lambda entry: STANDINGS.index(entry.status))


def write_site(out: Path, *, trials: Sequence[tuple[int, TrialResult]] | None = None) -> None:
    """Write the site to the folder `out`, whole or not at all; one that was written there before is replaced.

    Args:
        trials: numbers and results of trials to show beside the papers, oldest first.

    Raises:
        AssayError: `out` cannot be written or holds something else, or evidence cannot be read.
    """
    with replaced(out) as folder:
        shown = entries()
        pages = templates("assay.web", "assay.trials")
        pages.globals |= {
            "trials_shown": trials is not None,
            "budget": budget,
            "count": count,
            "duration": duration,
            "interval_chart": interval_chart,
        }
        (folder / "style.css").write_text(_sheet("assay.trials", "report.css") + _sheet("assay.web", "catalog.css"))
        for name in ("catalog.js", "icon.svg"):
            (folder / name).write_text(_sheet("assay.web", name))
        (folder / "feed.xml").write_text(atom(shown), encoding="utf-8")
        _write(pages, folder / "index.html", "index.html", entries=shown, families=FAMILIES,
               standings=STANDINGS, verdicts=VERDICTS)  # fmt: skip
        for entry in shown:
            _write(pages, folder / "papers" / f"{entry.card.slug}.html", "paper.html", **entry.plots, entry=entry)
            if entry.evidence and entry.result:
                result = replace(entry.result, command=entry.evidence["command"])
                write_report(result, folder / "evidence" / f"{entry.card.slug}.html")
        if trials is not None:
            _write(pages, folder / "trials.html", "trials.html", trials=trials[::-1])
            for number, result in trials:
                write_report(result, folder / "trials" / f"{number}.html")


def _write(pages: "Environment", path: Path, template: str, **shown: Any) -> None:
    root = "" if template == path.name else "../"
    path.parent.mkdir(exist_ok=True)
    path.write_text(pages.get_template(template).render(shown, root=root, page=template), encoding="utf-8")


def _sheet(package: str, name: str) -> str:
    return (files(package) / "templates" / name).read_text()
