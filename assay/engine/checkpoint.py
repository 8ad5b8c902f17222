"""Checkpoints that are whole or not there: written beside, flushed, renamed; named by their digest; the last two kept."""

import hashlib
import io
import os
import re
from pathlib import Path
from typing import Any

import torch

from assay.errors import BadCheckpoint

_NAME = re.compile(r"step-(\d{12})-([0-9a-f]{16})\.pt")


def save(folder: Path, key: str, step: int, state: dict[str, Any], *, keep: int = 2) -> Path:
    """Write the state of the run `key` after `step` steps, then drop all but the newest `keep`.

    Raises:
        OSError: the folder cannot be written, or the disk is full; what was there before is untouched.
    """
    buffer = io.BytesIO()
    torch.save({"format": "assay-checkpoint-1", "key": key, "step": step, "state": state}, buffer)
    data = buffer.getbuffer()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step-{step:012d}-{hashlib.sha256(data).hexdigest()[:16]}.pt"
    part = path.with_suffix(f".{os.getpid()}.part")
    try:
        with open(part, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    for old in _found(folder)[keep:]:
        old.unlink(missing_ok=True)
    return path


def load(path: Path, key: str) -> tuple[int, dict[str, Any]]:
    """Step and state from one file.

    Raises:
        BadCheckpoint: it is truncated, damaged, or another run's.
    """
    match = _NAME.fullmatch(path.name)
    data = path.read_bytes()
    if match is None or hashlib.sha256(data).hexdigest()[:16] != match[2]:
        raise BadCheckpoint(f"checkpoint {path} is truncated or damaged: its content does not match its name")
    try:
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a file that is not its own
        raise BadCheckpoint(f"checkpoint {path} cannot be read: {error}") from error
    if not isinstance(content, dict) or content.get("format") != "assay-checkpoint-1":
        raise BadCheckpoint(f"checkpoint {path} was not written by this version of assay")
    if content["key"] != key:
        raise BadCheckpoint(f"checkpoint {path} belongs to run {content['key']}, not to {key}")
    return content["step"], content["state"]


def latest(folder: Path, key: str) -> tuple[tuple[int, dict[str, Any]] | None, list[str]]:
    """The newest checkpoint that can be used, and what is wrong with the newer ones that cannot."""
    problems: list[str] = []
    for path in _found(folder):
        try:
            return load(path, key), problems
        except (BadCheckpoint, FileNotFoundError) as error:
            problems.append(str(error))
    return None, problems


def _found(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    named = [path for path in folder.iterdir() if _NAME.fullmatch(path.name)]
    return sorted(named, key=lambda path: (path.name[:17], path.stat().st_mtime_ns), reverse=True)
