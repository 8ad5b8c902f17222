"""Docstrings as griffe reads them: fields of one meaning, which share an entry of ours, get one each.

`low, high: its ends.` becomes `low: its ends.` and `high: its ends.`
"""

import inspect
import re
from typing import Any

import griffe

SECTION = re.compile(r"(?:Args|Attributes):\n(?:[ ]+.*\n?|\n)+")
ENTRY = re.compile(r"^    (\w+(?:, \w+)+):((?: .*\n?)(?:[ ]{8}.*\n?)*)", re.MULTILINE)


class OneNameAnEntry(griffe.Extension):
    """Spread the entries of every docstring that is loaded."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = SECTION.sub(
                lambda section: ENTRY.sub(_spread, section[0]), inspect.cleandoc(obj.docstring.value)
            )


def _spread(entry: re.Match[str]) -> str:
    names, text = entry.groups()
    return "".join(f"    {name}:{text.rstrip()}\n" for name in names.split(", "))
