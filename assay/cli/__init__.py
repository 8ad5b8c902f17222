"""The commands. Torch and all that stands on it are imported inside a command, so that `--help` answers at once."""

from assay.cli.app import main

__all__ = ["main"]
