"""Writing files so that a reader never sees half of one."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from edgekit.errors import HostStorageError

#: How ``mkstemp`` names what :func:`write_atomically` has not renamed yet.
_UNFINISHED = re.compile(r"\..+\.[a-z0-9_]{8}")


def write_atomically(path: Path, data: bytes) -> None:
    """Write ``data`` beside ``path``, then rename it into place.

    What is there and no file, such as a pipe or ``/dev/null``, is written to and stays what it is.

    Raises:
        OSError: the file cannot be written; ``path`` is as it was before. The error names it.
    """
    with naming(path):
        _write_atomically(path, data)


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """An error of a write, which knows no name, gets the file's: a full disk must not be taken for the device's."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def _write_atomically(path: Path, data: bytes) -> None:
    if path.exists() and not path.is_file() and not path.is_dir():
        path.write_bytes(data)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files private; ours are as readable as any other result.
        temporary.chmod(0o644)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def remove_unfinished(folder: Path) -> None:
    """Remove what killed processes left of :func:`write_atomically` below ``folder``, where nobody may be writing."""
    for path in folder.rglob(".*"):
        if _UNFINISHED.fullmatch(path.name) and path.is_file():
            path.unlink(missing_ok=True)


def check_writable(folder: Path, *, doing: str | None = None) -> None:
    """See that results can be written to ``folder``, which may not exist yet; nothing is left behind.

    Asked before long work, which would otherwise be lost at its end. ``doing`` is what the message says was attempted.

    Raises:
        HostStorageError: it cannot be made, or not be written.
    """
    made: list[Path] = []
    try:
        for missing in reversed([path for path in (folder, *folder.parents) if not path.exists()]):
            missing.mkdir()
            made.append(missing)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise HostStorageError(
            f"{doing or f'write into {folder}'}: {error.strerror or error}",
            hint="choose another folder, or free space and see to its permissions",
        ) from error
    finally:
        for path in reversed(made):
            with contextlib.suppress(OSError):
                path.rmdir()
