"""Writing a bundle's folder: beside its final place, complete, then renamed."""

from __future__ import annotations

import errno
import glob
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgekit.errors import HostStorageError, InputError
from edgekit.schema import codec
from edgekit.schema.bundle import MANIFEST, Bundle

if sys.platform != "win32":
    import fcntl

#: A full, read-only or forbidden disk: the user's to solve, unlike other faults.
_STORAGE = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EFBIG,
    errno.EIO,
    errno.ENOENT,
    errno.ENOTDIR,
)

#: Where the bundle that is replaced lies meanwhile.
_OLD = "old"


@contextmanager
def new_bundle(target: Path) -> Iterator[Path]:
    """A folder to fill, which becomes ``target`` when the context ends well and vanishes otherwise.

    What a killed export of the same bundle left beside it is removed first.

    Raises:
        InputError: ``target`` holds something that is no bundle.
        HostStorageError: the disk is full or cannot be written.
    """
    refuse_to_overwrite(target)
    with storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with _beside(target, "part") as scratch:
            # mkdtemp keeps others out; a bundle is as readable as any file its owner makes.
            scratch.chmod(0o755)
            yield scratch
            _publish(scratch, target)


def write_manifest(directory: Path, bundle: Bundle) -> None:
    """Write ``bundle.json``, which makes ``directory`` a bundle."""
    (directory / MANIFEST).write_bytes(codec.encode(bundle))


def refuse_to_overwrite(target: Path) -> None:
    """Raise unless ``target`` is nothing, a bundle or an empty folder: nothing a person would miss.

    Raises:
        InputError: something else is there.
    """
    if target.exists() and not _is_replaceable(target):
        raise InputError(
            f"write the bundle to {target}: something else is there", hint="move it away, or choose another folder"
        )


def _is_replaceable(target: Path) -> bool:
    return target.is_dir() and not target.is_symlink() and ((target / MANIFEST).is_file() or not any(target.iterdir()))


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn a full or unwritable disk into the error that says so."""
    try:
        yield
    except OSError as error:
        if error.errno in _STORAGE:
            raise HostStorageError(
                f"write {path}: {error.strerror}", hint="free some space, or choose another folder with --out"
            ) from error
        raise


def _publish(scratch: Path, target: Path) -> None:
    if not target.exists():
        scratch.rename(target)
        return
    # A folder cannot be renamed onto a full one: the old one steps aside first.
    with _beside(target, "old") as aside:
        target.rename(aside / _OLD)
        try:
            scratch.rename(target)
        except OSError:
            (aside / _OLD).rename(target)
            raise


@contextmanager
def _beside(target: Path, kind: str) -> Iterator[Path]:
    """A hidden folder beside ``target`` that goes when the context ends, or, once this process was killed, later."""
    with _held(target.parent, wait=True):
        _remove_left(target)
        folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.{kind}-", dir=target.parent))
        handle = _hold(folder, wait=False)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if handle is not None:
            os.close(handle)


def _remove_left(target: Path) -> None:
    """Remove such folders whose process is no more; called while nobody else makes one."""
    for kind in ("part", "old"):
        for left in target.parent.glob(f".{glob.escape(target.name)}.{kind}-*"):
            with _held(left, wait=False) as free:
                if not free:
                    continue
                if (left / _OLD).is_dir() and not target.exists():
                    (left / _OLD).rename(target)
                shutil.rmtree(left, ignore_errors=True)


@contextmanager
def _held(folder: Path, *, wait: bool) -> Iterator[bool]:
    handle = _hold(folder, wait=wait)
    try:
        yield handle is not None
    finally:
        if handle is not None:
            os.close(handle)


def _hold(folder: Path, *, wait: bool) -> int | None:
    """A handle that keeps other processes from holding ``folder`` until it is closed, or this process has ended.

    None where another one holds it, and where the system knows no such thing.
    """
    if sys.platform == "win32":
        return None
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        os.close(handle)
        return None
    return handle
