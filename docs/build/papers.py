"""A page a paper, made from its card and evidence, and the catalog beside them.

What a page says of the evidence comes from `assay.web` and `assay.trials`, as in the catalog.
"""

import re
from html import escape
from importlib.resources import files as resources
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml
from markupsafe import Markup
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from assay.claims.card import FAMILIES
from assay.trials.quantities import budget, count, duration
from assay.trials.report import templates
from assay.web.catalog import Entry, entries, write_site

TEMPLATE = Path(__file__).with_name("paper.md")
_folder = TemporaryDirectory(prefix="assay-docs-")  # until the build has copied it


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages, their style and the catalog."""
    icon = (resources("assay.web") / "templates" / "icon.svg").read_text()
    on_dark = icon.replace("#5a6069", "#c3c9d2").replace("#00795a", "#4fd1a5")
    look = {"evidence.css": style(), "icon.svg": icon, "logo.svg": on_dark}
    for place, text in (pages(entries()) | look).items():
        files.append(File.generated(config, place, content=text))
    catalog = Path(_folder.name) / "catalog"
    write_site(catalog)
    for path in catalog.rglob("*.*"):
        place = path.relative_to(_folder.name).as_posix()
        files.append(File.generated(config, place, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put a paper's paired differences where a page says `<!-- intervals: SLUG -->`."""
    if "<!-- intervals: " not in markdown:
        return markdown
    plots = {entry.card.slug: entry.plots for entry in entries()}
    chart = templates("assay.trials").get_template("intervals.html")
    return re.sub(
        "<!-- intervals: (.+) -->",
        lambda found: f'<div class="evidence bare">\n{chart.render(plots[found[1]])}\n</div>',
        markdown,
    )


def pages(shown: list[Entry]) -> dict[str, str]:
    """A page a paper, a list of all, and their order in the navigation: by family."""
    environment = templates("assay.trials")
    environment.globals |= {"budget": budget, "count": count, "duration": duration, "literally": literally}
    page = environment.from_string(TEMPLATE.read_text())
    made = {f"papers/{entry.card.slug}.md": page.render(entry.plots, entry=entry) for entry in shown}
    families = {f[0].upper() + f[1:]: [entry for entry in shown if entry.card.family == f] for f in FAMILIES}
    made["papers/index.md"] = "\n\n".join([_opening(shown), *(_table(*family) for family in families.items())])
    named = [{family: [{e.card.slug: f"{e.card.slug}.md"} for e in found]} for family, found in families.items()]
    made["papers/.nav.yml"] = yaml.safe_dump({"nav": ["index.md", *named]}, sort_keys=False)
    return made


def _opening(shown: list[Entry]) -> str:
    checked, built = (sum(entry.status == status for entry in shown) for status in ("checked", "implemented"))
    return (
        f"# Papers\n\n{len(shown)} papers have a card. The claims of {checked} were run and have a verdict, {built} "
        f"have their objects and no verdict yet, and {len(shown) - checked - built} are planned. The "
        "[catalog](../catalog/index.html) shows the same with search and filters."
    )


def _table(family: str, found: list[Entry]) -> str:
    rows = [
        f"| [{e.card.slug}]({e.card.slug}.md) | {literally(e.card.title)} | {e.verdict or e.status} |" for e in found
    ]
    return "\n".join([f"## {family}", "", "| paper | title | verdict |", "| --- | --- | --- |", *rows])


def literally(text: str) -> Markup:
    """`text` as Markdown that shows it as it is."""
    return Markup(re.sub(r"([\\`*_\[\]|])", r"\\\1", escape(text, quote=False)))


def style() -> str:
    """The report's style sheet, held to the parts of a report that pages show; the theme's rem is a quarter larger."""
    sheet = (resources("assay.trials") / "templates" / "report.css").read_text().replace(":root", "&")
    sheet = re.sub(r"(?<!width: )(?<![\d.])(\d*\.?\d+)rem", lambda size: f"{0.8 * float(size[1]):g}rem", sheet)
    return f".evidence {{\n{sheet}\n}}\n"
