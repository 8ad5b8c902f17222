"""The fenced blocks of a page, and the commands in them."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_APART = re.compile(r"<!-- (parsed only|run elsewhere): (.+) -->")


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        language, title: of its info string: ```` ```python title="my_task.py" ````.
        line: of the page, where its text begins.
        apart: why it is not run, where a comment right above it says so.
    """

    language: str
    title: str
    text: str
    line: int
    apart: str

    def commands(self) -> list[list[str]]:
        """Each command as words; in a `console` block those behind a `$`."""
        lines = self.text.replace("\\\n", " ").splitlines()
        if self.language == "console":
            lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
        return [words for line in lines if (words := shlex.split(line, comments=True))]


def blocks(page: str) -> list[Block]:
    """The blocks of a page's text, in order."""
    found, apart = [], ""
    for token in MarkdownIt().parse(page):
        if token.type == "fence" and token.map:
            language, _, rest = token.info.partition(" ")
            title = re.fullmatch(r'title="(.+)"', rest)
            found.append(Block(language, title[1] if title else "", token.content, token.map[0] + 1, apart))
        comment = _APART.fullmatch(token.content.strip()) if token.type == "html_block" else None
        apart = comment[0] if comment else ""
    return found


def spans(page: str) -> Iterator[str]:
    """The texts between single backticks."""
    for token in MarkdownIt().enable("table").parse(page):
        yield from (child.content for child in token.children or [] if child.type == "code_inline")
