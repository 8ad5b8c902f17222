"""A folder that is written whole or not at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from assay.errors import AssayError

# Only what we wrote is ever replaced: a folder whose index.html has this mark and that holds nothing else than this.
MARK = '<meta name="generator" content="assay catalog">'
PARTS = {"index.html", "trials.html", "papers", "evidence", "trials", "feed.xml", "style.css", "catalog.js", "icon.svg"}


@contextmanager
def replaced(out: Path) -> Iterator[Path]:
    """A new folder to fill, beside `out`; it takes the place of `out` once it is whole, and `out` stays on any error.

    Raises:
        AssayError: it cannot be written, or `out` holds something that is not a site of ours.
    """
    place = out.resolve()
    part, old = (place.with_name(f".{place.name}.{os.getpid()}.{end}") for end in ("part", "old"))
    try:
        if place.exists():
            _check_ours(place, out)
        part.mkdir(parents=True)
        yield part
        if place.exists():
            place.rename(old)
        try:
            part.rename(place)
        except OSError:
            if old.exists():
                old.rename(place)
            raise
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise AssayError(f"cannot write the catalog to {out}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _check_ours(place: Path, out: Path) -> None:
    if not place.is_dir():
        raise AssayError(f"cannot write the catalog to {out}: it is a file; give a folder")
    index = place / "index.html"
    ours = PARTS if index.is_file() and MARK in index.read_text(encoding="utf-8", errors="replace") else set()
    if others := {path.name for path in place.iterdir()} - ours:
        raise AssayError(
            f"cannot write the catalog to {out}: it holds {min(others)}, no part of a catalog; give an empty one"
        )
