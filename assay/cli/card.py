"""What the terminal shows of a paper's card."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.text import Text

if TYPE_CHECKING:
    from assay.claims.card import Paper


def rendered(card: "Paper", status: str, evidence: Mapping[str, Any] | None) -> RenderableType:
    """The card, one fact a line."""
    lines = [
        Text(card.title, style="bold"),
        Text(f"{', '.join(card.authors)}. {card.venue} {card.year}."),
        Text(" ".join(_places(card))),
        Text(""),
        Text(card.summary),
        Text(""),
        _fact("status", status),
        *(_fact("object", name) for name in card.objects),
    ]
    if card.example:
        lines.append(_fact("try it", f"assay compare {card.example}"))
    for headline in card.headline:
        figures = ", ".join(f"{arm} {figure}" for arm, figure in headline.figures.items())
        lines.append(_fact("the paper", f"{headline.what}: {figures}"))
    if card.paper_scale:
        lines.append(_fact("its scale", card.paper_scale))
    if claim := card.claim:
        lines += [
            Text(""),
            _fact("claim", claim.statement),
            *(_fact("arm", f"{name}: {what}") for name, what in claim.arms.items()),
            _fact("task", f"{claim.task}, {claim.budget}, {claim.seeds} seeds"),
            _fact("tuning", claim.tuning),
            _fact("power", claim.power),
        ]
    if evidence:
        low, high = map(float, evidence["interval"])  # an infinite end is the word for it
        lines += [
            _fact("verdict", evidence["verdict"]),
            _fact("estimate", f"{float(evidence['estimate']):.4g}, interval {low:.4g} to {high:.4g}; more is better"),
            *([_fact("but", card.caveat)] if card.caveat else []),
            _fact("made", f"{evidence['created'][:10]}, commit {evidence['commit']}, `{evidence['command']}`"),
        ]
    return Group(*lines)


def _fact(name: str, value: str) -> Text:
    return Text.assemble((f"{name:>10}  ", "dim"), value)


def _places(card: "Paper") -> list[str]:
    places = [f"https://arxiv.org/abs/{card.arxiv}"] if card.arxiv else []
    return places + ([f"https://github.com/{card.code}"] if card.code else [])
