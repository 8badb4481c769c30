"""Sessions on the disk: measured in a folder of their own, and moved among the runs once they are done.

A killed host leaves a folder in ``attempts/`` of which the journal knows that it began. The line that says that it is
done comes before its runs are moved, so that every start can finish the move, and none can double it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from edgekit.device.base import Device
from edgekit.errors import EdgekitError, HostStorageError
from edgekit.probing import recovery
from edgekit.schema import codec
from edgekit.schema.run import MANIFEST, Run
from edgekit.schema.storage import write_atomically
from edgekit.sweeping.journal import Account, sync_folder

RUNS = "runs"
ATTEMPTS = "attempts"


def publish(root: Path, attempt: str, runs: Iterable[str]) -> None:
    """Move the runs of a session that is done to where results lie; what was moved before stays.

    Raises:
        HostStorageError: they cannot be moved.
    """
    source, target = root / ATTEMPTS / attempt, root / RUNS
    try:
        target.mkdir(parents=True, exist_ok=True)
        for name in sorted(set(runs)):
            if (source / name).is_dir() and not (target / name).exists():
                (source / name).rename(target / name)
        with contextlib.suppress(OSError):  # something else was put there
            source.rmdir()
    except OSError as error:
        raise HostStorageError(f"move {source} to {target}: {error.strerror or error}") from error


def mark(folders: Sequence[Path], beside: list[str]) -> None:
    """Write into runs what shared the machine with them."""
    for folder in folders:
        run = codec.read(folder / MANIFEST, Run)
        if run.beside != beside:
            write_atomically(folder / MANIFEST, codec.encode(msgspec.structs.replace(run, beside=beside)))


def sync(folders: Sequence[Path]) -> None:
    """Bring everything in run folders to the disk, before a journal says that it is there."""
    for folder in folders:
        for path in (*folder.rglob("*"), folder):
            if path.is_dir():
                sync_folder(path)
                continue
            with path.open("rb") as file, contextlib.suppress(OSError):
                os.fsync(file.fileno())


def settle(root: Path, account: Account) -> list[str]:
    """Put the folder in the order that its journal tells, after however the last start ended.

    Returns the cells whose runs somebody has removed: they are to be measured again.
    """
    for attempt, entry in account.measured.items():
        if (root / ATTEMPTS / attempt).is_dir():
            publish(root, attempt, entry.runs.values())
    for started in account.open_attempts:
        _close(root / ATTEMPTS / started.attempt)
    if (root / "bundles").is_dir():
        for leftover in (root / "bundles").glob("*/.*.part-*"):
            shutil.rmtree(leftover, ignore_errors=True)
    return [cell for cell, entry in account.done.items() if not (root / RUNS / entry.runs[cell] / MANIFEST).is_file()]


def _close(folder: Path) -> None:
    """Runs of a killed host say that they are running; they are not."""
    if not folder.is_dir():
        return
    for path in folder.glob(f"*/{MANIFEST}"):
        with contextlib.suppress(EdgekitError, OSError):
            run = codec.read(path, Run)
            if run.status == "running":
                write_atomically(path, codec.encode(msgspec.structs.replace(run, status="interrupted")))


def clean_device(device: Device, account: Account, name: str) -> None:
    """Remove the copies that interrupted sessions left on a device: their cells are measured again.

    Raises:
        DeviceFailedError: the device was lost.
    """
    left = {started.attempt for started in account.open_attempts if started.device == name}
    if not left:
        return
    for run in recovery.list_runs(device):
        if any(run.startswith(f"{attempt}-") for attempt in left):
            recovery.remove(device, run)


def runs_of(root: Path, attempt: str) -> list[Run]:
    """The runs of a session that did not end well, as far as they can be read."""
    found = []
    for path in sorted((root / ATTEMPTS / attempt).glob(f"*/{MANIFEST}")):
        with contextlib.suppress(EdgekitError, OSError):
            found.append(codec.read(path, Run))
    return found
