"""What a run leaves behind."""

import hashlib
import inspect
import json
import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

import assay


@dataclass
class Record:
    """The figures of one run, in all currencies.

    Attributes:
        task: `{"name", "settings"}`.
        recipe: as `Recipe.describe` gives it.
        seed: the run's seed; `vary` names what it redrew.
        budget: as text, such as `"10epochs"`.
        status: `finished` or `diverged`.
        diverged_at: the first step, counted from 1, whose loss was not finite, or after which weights or metrics were
            found not to be.
        steps, epochs, samples, seconds, flops: what training spent, the methods' hooks counted, evaluations and
            checkpoints not.
        wall_seconds: the whole run, evaluations and checkpoints counted.
        metrics: `{"valid": {...}, "test": {...}}` at the end; empty for a diverged run.
        curve: points along the run: the five currencies, `train_loss` since the point before, `valid/<metric>`.
        extras: what methods logged.
        series: the courses of figures that methods traced: [steps done before, value from then on], by name.
        peak_memory: bytes, of the process (CPU) or of the device's allocator.
        parameters, trainable: counts.
        environment: machine and versions.
        code: version of assay's code, and digests of the code of a user's own task and methods.
        outcomes: float32 [examples] by `"valid/<metric>"` or `"test/<metric>"`; not in the JSON form.
    """

    task: dict[str, Any]
    recipe: dict[str, Any]
    seed: int
    vary: list[str]
    budget: str
    status: str = "finished"
    diverged_at: int | None = None
    steps: int = 0
    epochs: float = 0.0
    samples: int = 0
    seconds: float = 0.0
    flops: float = 0.0
    wall_seconds: float = 0.0
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    curve: list[dict[str, float]] = field(default_factory=list)
    extras: dict[str, float] = field(default_factory=dict)
    series: dict[str, list[list[float]]] = field(default_factory=dict)
    peak_memory: int = 0
    parameters: int = 0
    trainable: int = 0
    environment: dict[str, Any] = field(default_factory=dict)
    code: dict[str, str] = field(default_factory=dict)
    outcomes: dict[str, np.ndarray] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """All but the outcomes, as JSON-able values."""
        found = asdict(replace(self, outcomes={}))
        del found["outcomes"]
        return found

    @classmethod
    def from_json(cls, data: Mapping[str, Any], outcomes: Mapping[str, np.ndarray] | None = None) -> "Record":
        return cls(**data, outcomes=dict(outcomes or {}))


def run_key(identity: Mapping[str, Any]) -> str:
    """The content address of a run: sha256 over its canonical JSON, 40 hex digits."""
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:40]


def environment(device: torch.device) -> dict[str, Any]:
    """The machine and the versions that a run's bits and times depend on."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "platform": f"{platform.system()} {platform.machine()}",
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name(),
        "cores": os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
    }


@cache
def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or "cpu"


@cache
def code_version() -> dict[str, str]:
    """Version of assay and a digest of the code that can change a run's figures (trials and command line cannot)."""
    root = Path(assay.__file__).parent
    outside = {"claims", "cli", "integrations", "papers", "trials"}
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).parts
        if parts[0] not in outside:
            digest.update("/".join(parts).encode() + b"\0" + path.read_bytes())
    return {"assay": assay.__version__, "digest": digest.hexdigest()[:16], "torch": torch.__version__}


def own_code(thing: object) -> str:
    """Digest of the code that defines a user's task or method: of the whole package that its file is part of, else of
    the file alone; empty for assay's own and where there is no file."""
    try:
        path = Path(inspect.getfile(type(thing))).resolve()
    except (TypeError, OSError):  # defined in a notebook or at a prompt
        return ""
    inside = path.is_relative_to(Path(assay.__file__).resolve().parent)
    if inside or not path.is_file():
        return ""
    return _package_digest(_signature(path)) if (path.parent / "__init__.py").is_file() else file_digest(path)


def _signature(path: Path) -> tuple[tuple[str, int, int], ...]:
    """Every Python file of the package that `path` is part of, with what tells an edit: its time and its size."""
    root = path.parent
    while (root.parent / "__init__.py").is_file():
        root = root.parent
    files = (file for file in sorted(root.rglob("*.py")) if not _elsewhere(file.relative_to(root).parts))
    return tuple((str(file), (stat := file.stat()).st_mtime_ns, stat.st_size) for file in files)


def _elsewhere(parts: tuple[str, ...]) -> bool:
    """A virtual environment or a tool's folder that lies in a package is no part of it."""
    return any(part.startswith(".") or part == "site-packages" for part in parts)


@lru_cache(maxsize=32)
def _package_digest(signature: tuple[tuple[str, int, int], ...]) -> str:
    root, digest = os.path.commonpath([os.path.dirname(path) for path, _, _ in signature]), hashlib.sha256()
    for path, _, _ in signature:
        digest.update(Path(path).relative_to(root).as_posix().encode() + b"\0" + Path(path).read_bytes())
    return digest.hexdigest()[:16]


def file_digest(path: str | Path) -> str:
    """sha256 of a file, 16 hex digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


class PeakMemory:
    """The largest memory held since it was made: of the device's allocator, or of this process on a CPU."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            return
        try:  # Linux: start the high-water mark anew, so that a warm worker's earlier runs do not count
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            return

    def bytes(self) -> int:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        status = Path("/proc/self/status")
        if status.exists():
            for line in status.read_text().splitlines():
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
