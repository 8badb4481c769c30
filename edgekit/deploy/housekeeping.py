"""What lies in a device's store, what stays there, and what goes."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, replace

from edgekit.deploy.lease import Lease, writing
from edgekit.deploy.store import UNWRITABLE
from edgekit.deploy.store_script import StoreScript, facts_of
from edgekit.device import parsing
from edgekit.device.base import Device, printable
from edgekit.errors import DeviceFailedError, InputError
from edgekit.progress import Progress, silent

_DIRECTORY = re.compile(r"(bundles|runtimes)/[0-9a-f]{64}\Z")

_NUMBER = re.compile(r"-?[0-9]{1,12}\Z")


@dataclass(frozen=True, slots=True)
class StoredDirectory:
    """One directory of a device's store."""

    #: ``bundles/ID`` or ``runtimes/ID``.
    path: str
    #: Whole days since it was last pushed or used.
    unused_days: int
    #: What it takes by itself; contents that several directories share count in each.
    bytes: int
    pinned: bool


@dataclass(frozen=True, slots=True)
class Pruned:
    """What was removed from a store, or would be."""

    removed: tuple[StoredDirectory, ...]
    kept: tuple[StoredDirectory, ...]
    #: Bytes that became free; None in a dry run, or where the device does not tell.
    freed_bytes: int | None


def stored(device: Device) -> list[StoredDirectory]:
    """Every whole directory of the store, longest unused first.

    Raises:
        DeviceFailedError: the device is lost.
    """
    return _parse(device, StoreScript(device).call("list", doing="list the store"))


def prune(
    device: Device,
    *,
    unused_days: int,
    unpin: Collection[str] = (),
    dry_run: bool = False,
    progress: Progress = silent,
) -> Pruned:
    """Remove what was not used for so many days and is not pinned, and contents that lie in no directory.

    Args:
        device: whose store.
        unused_days: 0 removes everything that is not pinned.
        unpin: directories, as ``bundles/ID``, that are pinned no longer.
        dry_run: only tell.
        progress: told while waiting for another writer.

    Raises:
        InputError: no such directory to unpin; nothing was removed.
        DeviceFailedError: the device is lost, read-only or in use by another writer for too long.
    """
    if dry_run:
        removed, kept = _divide(_unpinned(device, stored(device), unpin), unused_days)
        return Pruned(removed, kept, None)
    with writing(device, progress) as lease:
        _demand_writable(device, lease, f"prune {device.root}")
        before = lease.script.call("list", doing="list the store")
        removed, kept = _divide(_unpinned(device, _parse(device, before), unpin), unused_days)
        for path in unpin:
            lease.script.call("unpin", path, doing=f"unpin {path}")
        after = lease.script.call("collect", *(one.path for one in removed), doing="prune the store")
        free_before, free_after = parsing.free_bytes(before), parsing.free_bytes(after)
        freed = None if free_before is None or free_after is None else max(0, free_after - free_before)
        return Pruned(removed, kept, freed)


def pin(device: Device, path: str, *, progress: Progress = silent) -> None:
    """Keep a directory of the store whatever its age, until it is unpinned (see :func:`prune`).

    Args:
        device: whose store.
        path: ``bundles/ID``.
        progress: told while waiting for another writer.

    Raises:
        DeviceFailedError: no such directory, or the device is lost or read-only.
    """
    with writing(device, progress) as lease:
        _demand_writable(device, lease, f"pin {path}")
        lease.script.call("pin", path, doing=f"pin {path}")


def _unpinned(device: Device, found: list[StoredDirectory], unpin: Collection[str]) -> list[StoredDirectory]:
    if unknown := set(unpin) - {one.path for one in found}:
        raise InputError(
            f"unpin {printable(min(unknown), 100)}: no such directory in {device.root}",
            device=device.name,
            hint="`edgekit prune --dry-run` lists them, as bundles/ID",
        )
    return [replace(one, pinned=one.pinned and one.path not in unpin) for one in found]


def _demand_writable(device: Device, lease: Lease, doing: str) -> None:
    if not lease.writable:
        raise DeviceFailedError(
            f"{doing}: {UNWRITABLE}",
            device=device.name,
            hint=f"remount it, or remove something there by hand; {device.root} itself may go, it is filled again as "
            "needed",
        )


def _divide(
    found: list[StoredDirectory], unused_days: int
) -> tuple[tuple[StoredDirectory, ...], tuple[StoredDirectory, ...]]:
    old = tuple(one for one in found if one.unused_days >= unused_days and not one.pinned)
    return old, tuple(one for one in found if one not in old)


def _parse(device: Device, output: str) -> list[StoredDirectory]:
    found = []
    for key, value in facts_of(output):
        if key != "directory":
            continue
        words = value.split(" ")
        if not _DIRECTORY.match(words[0]):
            continue  # somebody else's: it is not ours to remove
        if len(words) != 4 or not _NUMBER.match(words[1]) or not _NUMBER.match(words[2]):
            raise DeviceFailedError(
                "list the store: the device's answer makes no sense", device=device.name, detail=printable(output)
            )
        found.append(StoredDirectory(words[0], max(0, int(words[1])), int(words[2]) * 1024, words[3] == "yes"))
    return sorted(found, key=lambda one: (-one.unused_days, one.path))
