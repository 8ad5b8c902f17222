"""What all tests share: one thread, deterministic algorithms, and where data and vectors may lie."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True, scope="session")
def _steady_torch() -> None:
    torch.set_num_threads(1)  # the arrays are small, and several processes may share the machine
    torch.use_deterministic_algorithms(True)


def _folder(variable: str, default: Path) -> Path:
    folder = Path(os.environ.get(variable, default))
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there; set {variable} to where it is")
    return folder


@pytest.fixture(scope="session")
def vectors() -> Path:
    """The folder of the papers' reference vectors, one `<slug>.npz` each."""
    return _folder("ASSAY_VECTORS", ROOT.parent / "shared" / "papers" / "vectors")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of the sample data sets."""
    return _folder("ASSAY_DATA", ROOT.parent / "shared" / "data")


@pytest.fixture(scope="session")
def postgres() -> Iterator[Any]:
    """A PostgreSQL server, as `tests.postgres.Server`."""
    pytest.importorskip("psycopg", reason="the Python package psycopg is not installed")
    from tests.postgres import running

    with running() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A place for a store: an SQLite file, or an empty PostgreSQL schema."""
    return str(tmp_path / "s.sqlite") if request.param == "sqlite" else request.getfixturevalue("postgres").new()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium."""
    playwright = pytest.importorskip("playwright.sync_api", reason="the Python package playwright is not installed")
    chromium = Path("/usr/bin/chromium")
    if not chromium.exists():
        pytest.skip(f"there is no {chromium}")
    with playwright.sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=str(chromium), args=["--no-sandbox"])
        yield browser
        browser.close()
