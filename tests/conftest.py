"""What tests of several folders share."""

import os
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)  # the tests' arrays are small, and several processes may share the machine


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real sample data: `$ASSAY_DATA`, or `shared/data` beside the repository."""
    folder = Path(os.environ.get("ASSAY_DATA") or Path(__file__).parents[2] / "shared" / "data")
    if not folder.is_dir():
        pytest.skip("no real sample data: set ASSAY_DATA to its folder")
    return folder
