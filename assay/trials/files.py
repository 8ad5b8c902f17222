"""Files for others to read: strict JSON, and text that is written whole or not at all."""

import json
import math
import os
from pathlib import Path
from typing import Any

from assay.errors import AssayError

NON_FINITE = {"Infinity": math.inf, "-Infinity": -math.inf, "NaN": math.nan}


def json_text(value: Any) -> str:
    """Strict JSON: numbers that are not finite are the strings `Infinity`, `-Infinity` and `NaN`."""
    return json.dumps(_words_for_numbers(value), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def write_whole(path: Path, text: str, *, what: str) -> None:
    """Write `text` to `path` in one move; folders on the way are made.

    Raises:
        AssayError: it cannot be written; `what` is how the message calls the file.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(part, "w", encoding="utf-8", newline="") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise AssayError(f"cannot write {what} {path}: {error.strerror or error}") from error


def _words_for_numbers(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return next(word for word, number in NON_FINITE.items() if repr(number) == repr(value))
    if isinstance(value, dict):
        return {key: _words_for_numbers(item) for key, item in value.items()}
    return [_words_for_numbers(item) for item in value] if isinstance(value, list | tuple) else value
