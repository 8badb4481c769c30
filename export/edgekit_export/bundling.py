"""Writing a bundle's folder: beside its final place, complete, then renamed."""

from __future__ import annotations

import errno
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgekit.errors import HostStorageError, InputError
from edgekit.schema import codec
from edgekit.schema.bundle import MANIFEST, Bundle

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


@contextmanager
def new_bundle(target: Path) -> Iterator[Path]:
    """A folder to fill, which becomes ``target`` when the context ends well and vanishes otherwise.

    Raises:
        InputError: ``target`` holds something that is no bundle.
        HostStorageError: the disk is full or cannot be written.
    """
    refuse_to_overwrite(target)
    with storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}.part-", dir=target.parent))
        try:
            # mkdtemp keeps others out; a bundle is as readable as any file its owner makes.
            scratch.chmod(0o755)
            yield scratch
            _publish(scratch, target)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


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
    aside = Path(tempfile.mkdtemp(prefix=f".{target.name}.old-", dir=target.parent))
    try:
        target.rename(aside / "old")
        try:
            scratch.rename(target)
        except OSError:
            (aside / "old").rename(target)
            raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
