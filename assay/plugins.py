"""Methods, tasks and papers that other installed packages bring, found by their entry points.

A package names them in its metadata, in the groups `assay.methods`, `assay.tasks` and `assay.papers`. Listing the names
imports nothing of it; its code runs when one of them is asked for. What assay has itself cannot be replaced.
"""

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Literal
from warnings import warn

from assay.errors import AssayError, PluginWarning

Kind = Literal["method", "task", "paper"]
_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


@dataclass(frozen=True)
class Plugin:
    """Something that a package brings.

    Attributes:
        kind: of thing.
        name: as a person writes it.
        place: `module:attribute`, where it is defined.
        origin: the package and its version.
    """

    kind: Kind
    name: str
    place: str
    origin: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name!r} of plugin {self.origin}"

    def load(self) -> Any:
        """What is defined at `place`.

        Raises:
            AssayError: its package cannot be imported, or has no such attribute.
        """
        from importlib.metadata import EntryPoint

        return self.told(EntryPoint(self.name, self.place, f"assay.{self.kind}s").load)

    def told(self, act: Callable[[], Any]) -> Any:
        """What `act()` gives; whatever goes wrong in the plugin's code becomes one message with its name.

        Raises:
            AssayError: it went wrong.
        """
        try:
            return act()
        except AssayError:
            raise
        except (Exception, SystemExit) as error:
            raise AssayError(f"{self} does not work: {type(error).__name__}: {error}") from error


def plugins(kind: Kind, taken: Collection[str]) -> dict[str, Plugin]:
    """What installed packages bring of one kind, by name.

    Args:
        kind: of things.
        taken: names that are assay's own. A plugin of such a name is left out, with a `PluginWarning`; so are those of
            two packages that have the same name, and names that could not be typed.
    """
    from importlib.metadata import entry_points  # takes a while, and `--help` can do without

    offered: dict[str, list[Plugin]] = {}
    for entry in entry_points(group=f"assay.{kind}s"):
        origin = f"{entry.dist.name} {entry.dist.version}" if entry.dist is not None else "unknown"
        offered.setdefault(entry.name, []).append(Plugin(kind, entry.name, entry.value, origin))
    found = {}
    for name, rivals in sorted(offered.items()):
        if name in taken:
            why = "that name is assay's own"
        elif _NAME.fullmatch(name) is None:
            why = "a name is made of small letters and digits, with hyphens between them"
        elif len(rivals) > 1:
            why = f"{' and '.join(rival.origin for rival in rivals)} both have it; uninstall one of them"
        else:
            found[name] = rivals[0]
            continue
        for rival in rivals:
            warn(f"{rival} is left out: {why}", PluginWarning, stacklevel=2)
    return found
