"""Where a report goes."""

import hashlib
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

from assay.errors import AssayError

REPORTS = Path(".assay/reports")


def default_report(task: str, arms: Sequence[str]) -> Path:
    """`.assay/reports/<task>-<arms>.html`, in letters that every file system takes."""
    name = re.sub(r"[^a-z0-9.]+", "-", "-".join([task, *arms]).lower()).strip("-")
    if len(name) > 100:  # file systems stop at 255 bytes
        name = f"{name[:80]}-{hashlib.sha256(name.encode()).hexdigest()[:12]}"
    return REPORTS / f"{name}.html"


def check_writable(path: Path) -> None:
    """Find out, before hours of work, whether a report can be written to `path`; nothing is left behind.

    Raises:
        AssayError: its name does not end in .html, or no file can be made there.
    """
    if path.suffix != ".html":
        raise AssayError(f"--out must end in .html, got {path}; the same as JSON and CSV is written beside it")
    if path.is_dir():
        raise AssayError(f"--out {path} is a folder; give the file's name")
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    try:
        with tempfile.NamedTemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise AssayError(f"cannot write --out {path}: {error.strerror} ({folder})") from None
