"""Where data sets are looked for."""

import os
from collections.abc import Sequence
from pathlib import Path

from assay.errors import MissingData


def data_dir(given: str | Path | None = None) -> Path:
    """The folder of data sets: `given`, else `$ASSAY_DATA`, else `~/.cache/assay/data`."""
    return Path(given or os.environ.get("ASSAY_DATA") or "~/.cache/assay/data").expanduser()


def find(name: str, folder: Path, alternatives: Sequence[Sequence[str]]) -> tuple[Path, ...]:
    """The files of the first alternative that is there as a whole.

    Args:
        name: what `assay data fetch` calls the data set.
        folder: where it is looked for.
        alternatives: each a set of files, relative to `folder`, that together hold the data set; the preferred first.

    Raises:
        MissingData: no alternative is complete.
    """
    for files in alternatives:
        paths = tuple(folder / file for file in files)
        if all(path.is_file() for path in paths):
            return paths
    wanted = " or ".join(files[0] for files in alternatives)
    for files in alternatives:
        absent = [file for file in files if not (folder / file).is_file()]
        if len(absent) < len(files):  # it was begun: the file that lacks says more than a list of alternatives
            wanted = absent[0]
            break
    raise MissingData(
        f"{name} is not in {folder} (looked for {wanted}); "
        f"set --data-dir or ASSAY_DATA to its folder, or run `assay data fetch {name}`"
    )
