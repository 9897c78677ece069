"""Atomic replacement of files, and a lock between the processes that replace them.

A reader finds the old content or the new one, never a part, even if the writer is killed.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows, where the service is one process.
    fcntl = None  # type: ignore[assignment]


def replace_file(path: Path, data: bytes) -> None:
    """Write a file, or replace it; the file is durable on return.

    A new file is readable by its owner alone; a file that replaces another has the mode of that.

    Raises:
        OSError: The file cannot be written; the old content remains.
    """
    descriptor, temporary = tempfile.mkstemp(prefix=".", suffix=".tmp", dir=path.parent)
    try:
        with open(descriptor, "wb") as file:
            with contextlib.suppress(FileNotFoundError):
                os.chmod(temporary, stat.S_IMODE(path.stat().st_mode))
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Wait until no other thread or process holds the lock file, and hold it.

    Raises:
        OSError: The lock file cannot be opened.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
