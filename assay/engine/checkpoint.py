"""Checkpoints that are whole or not there: written beside, flushed, renamed; named by digest; the last two kept."""

import hashlib
import io
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from assay.errors import AssayError, BadCheckpoint

FORMAT = "assay-checkpoint-1"
_NAME = re.compile(r"([0-9a-f]{12})-(\d{12})-([0-9a-f]{16})\.pt")  # key, step, digest of the content


def save(folder: Path, key: str, step: int, state: dict[str, Any], *, keep: int = 2) -> Path:
    """Write the state of the run `key` after `step` steps, then drop all but its newest `keep`.

    Raises:
        AssayError: the folder cannot be written, or the disk is full; what was there before is untouched.
    """
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, "key": key, "step": step, "state": state}, buffer)
    data = buffer.getbuffer()
    path = folder / f"{key[:12]}-{step:012d}-{hashlib.sha256(data).hexdigest()[:16]}.pt"
    part = folder / f"{key[:12]}.part"  # one name a run, so that what a killed process left is written over
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with open(part, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        reason = error.strerror or str(error)
        raise AssayError(f"cannot write a checkpoint into {folder}: {reason}; earlier ones are untouched") from error
    # a later step than the one just written was refused when the run went on, and would outlive every good one
    older = [other for other in _found(folder, key) if other != path and _step(other) < step]
    for other in _found(folder, key):
        if other not in [path, *older[: keep - 1]]:
            other.unlink(missing_ok=True)
    return path


def load(path: Path, key: str) -> tuple[int, dict[str, Any]]:
    """Step and state from one file.

    Raises:
        BadCheckpoint: it is truncated, damaged, or another run's.
    """
    match = _NAME.fullmatch(path.name)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadCheckpoint(f"checkpoint {path} cannot be read: {error.strerror or error}") from error
    if match is None or hashlib.sha256(data).hexdigest()[:16] != match[3]:
        raise BadCheckpoint(f"checkpoint {path} is truncated or damaged: its content does not match its name")
    try:
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a file that is not its own
        first = str(error).partition("\n")[0]
        raise BadCheckpoint(f"checkpoint {path} cannot be read: {first}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise BadCheckpoint(f"checkpoint {path} was not written by this version of assay")
    if content["key"] != key:
        raise BadCheckpoint(f"checkpoint {path} belongs to run {content['key']}, not to {key}")
    return content["step"], content["state"]


def latest(folder: Path, key: str) -> tuple[dict[str, Any] | None, list[str]]:
    """The newest state that can be used, and what is wrong with the newer files, or with all."""
    problems: list[str] = []
    for path in _found(folder, key):
        try:
            return load(path, key)[1], problems
        except BadCheckpoint as error:
            problems.append(str(error))
    if not problems and folder.is_dir() and any(_NAME.fullmatch(path.name) for path in folder.iterdir()):
        problems.append(f"the checkpoints in {folder} belong to other runs: task, recipe, seed, budget or code differ")
    return None, problems


def _step(path: Path) -> int:
    return int(path.name.split("-")[1])


def _found(folder: Path, key: str) -> list[Path]:
    """The checkpoints of the run `key`, the newest first."""
    if not folder.is_dir():
        return []
    own = [path for path in folder.iterdir() if _NAME.fullmatch(path.name) and path.name.startswith(key[:12])]
    return sorted(own, key=_step, reverse=True)
