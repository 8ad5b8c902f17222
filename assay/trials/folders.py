"""The folder of a run's checkpoints, which one process at a time may use."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from assay.errors import AssayError

_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP)


@contextmanager
def alone_in(folder: Path, *, patience: float) -> Iterator[bool]:
    """Keep other processes that ask likewise out of `folder`, which is made; the kernel lets them in if this one dies.

    Args:
        folder: of one run.
        patience: seconds to wait for another process in it.

    Yields:
        whether this process is alone in it. A file system without locks can keep nobody out, which says yes too: then
        it is for the leases alone that no two processes do one run.

    Raises:
        AssayError: the folder cannot be made or written.
    """
    lock = FileLock(folder / "lock", timeout=patience)
    alone = True
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        alone = False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise AssayError(f"cannot write a checkpoint into {folder}: {error.strerror or error}") from error
    try:
        yield alone
    finally:
        lock.release()
