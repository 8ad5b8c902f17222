"""What a user can get wrong, as exceptions whose message is the whole help.

The command line prints the message of an `AssayError` and exits with 2; anything else is a bug and shows itself.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class AssayError(Exception):
    """A mistake in what was asked for; the message says what was got and what to do."""


class UnknownName(AssayError):
    """A name that stands for nothing, with the nearest one that does.

    Args:
        kind: what was looked for, such as `"task"`.
        name: what was given.
        known: every name that would have been right.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        names = sorted(known)
        near = get_close_matches(name, names, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names) or 'none'}"
        super().__init__(f"unknown {kind} {name!r}; {hint}")


class CannotTreat(AssayError):
    """A method was asked to treat a task on which it makes no sense; the message says why."""


class MissingData(AssayError):
    """A data set is not at hand; the message says where it was looked for and how to get it."""


class BadCheckpoint(AssayError):
    """A checkpoint is truncated, damaged or belongs to another run."""


class Interrupted(AssayError):
    """The run was asked to stop and left a checkpoint from which it continues."""
