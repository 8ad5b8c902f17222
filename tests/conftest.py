"""What all tests share: one thread, deterministic algorithms, and where data and vectors may lie."""

import os
from pathlib import Path

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
