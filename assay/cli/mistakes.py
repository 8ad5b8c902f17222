"""A user's mistakes as one message on stderr and exit code 2; a stop by Ctrl-C as exit code 130."""

import errno
import shlex
import warnings
from collections.abc import Callable
from contextvars import ContextVar
from functools import partial
from typing import Any

import typer
from typer.core import TyperGroup

from assay.errors import AssayError, Interrupted, PluginWarning
from assay.trials.urls import without_password

MISTAKE, STOPPED = 2, 130
line: ContextVar[str] = ContextVar("line")  # as it was typed, but for passwords
debug: ContextVar[bool] = ContextVar("debug", default=False)  # whether tracebacks are wanted


class Commands(TyperGroup):
    """A group of commands that knows the line it was called by, and that answers mistakes with their message alone."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        line.set(without_password(shlex.join(["assay", *args])))
        debug.set(False)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        try:
            with warnings.catch_warnings():
                warnings.showwarning = partial(_told, warnings.showwarning)
                return super().invoke(ctx)
        except (Interrupted, KeyboardInterrupt) as error:
            message, code = "stopped; the same command goes on where this one was", STOPPED
            cause: BaseException = error
        except (AssayError, OSError) as error:
            message, code, cause = in_words(error), MISTAKE, error
        if debug.get():
            raise cause
        typer.echo(f"assay: {message}", err=True)
        raise typer.Exit(code)


def _told(otherwise: Callable[..., None], message: Any, category: type[Warning], *place: Any, **file: Any) -> None:
    """Show a warning; one of plugins as a person reads it."""
    if issubclass(category, PluginWarning):
        typer.echo(f"assay: {message}", err=True)
    else:
        otherwise(message, category, *place, **file)


def in_words(error: AssayError | OSError) -> str:
    """What a person reads of `error`: one paragraph."""
    if isinstance(error, AssayError):
        return str(error)
    where = f" ({error.filename})" if error.filename else ""
    if error.errno == errno.ENOSPC:
        return f"no space left on the disk{where}; free some, then the same command goes on from here"
    return f"{error.strerror or error}{where}"
