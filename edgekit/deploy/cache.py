"""One builder at a time, and nothing half-made in the user's cache."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from edgekit.errors import EdgekitError, HostStorageError

#: Another process may be building or downloading the same thing; a slow link takes this long at most.
LOCK_TIMEOUT_S = 1800


#: Full, read-only, not allowed, or a file where a folder should be. Anything else is a bug and shows itself as one.
_STORAGE_ERRORS = frozenset(
    (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST)
)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a cache folder, made if missing.

    Raises:
        HostStorageError: the cache cannot be written.
        EdgekitError: another process holds the lock for too long.
    """
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
        try:
            lock.acquire(timeout=LOCK_TIMEOUT_S)
        except Timeout as error:
            raise EdgekitError(
                f"wait for another process that fills {folder}: still busy after {LOCK_TIMEOUT_S} s",
                hint=f"if there is none, remove {folder / '.lock'}",
            ) from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def scratch(folder: Path) -> Iterator[Path]:
    """A temporary folder on the same file system as ``folder``, so that results can be renamed into it."""
    with storage_errors(folder):
        made = Path(tempfile.mkdtemp(prefix=".making-", dir=folder))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


@contextmanager
def storage_errors(folder: Path) -> Iterator[None]:
    """Turn the failures of a full or read-only disk into :class:`HostStorageError`."""
    try:
        yield
    except OSError as error:
        if error.errno not in _STORAGE_ERRORS:
            raise
        raise HostStorageError(
            f"write to the cache {folder}: {error.strerror}",
            hint="free space or make it writable, or set EDGEKIT_CACHE to another folder",
        ) from error


def publish(made: Path, target: Path) -> Path:
    """Rename a finished file to its place, at once and durably; returns ``target``."""
    with storage_errors(target.parent):
        with made.open("rb+") as file:
            os.fsync(file.fileno())
        made.replace(target)
    return target
