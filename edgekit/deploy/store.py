"""The content-addressed store on a device.

``ROOT/objects/SHA256`` holds each content once. ``ROOT/bundles/ID`` and
``ROOT/runtimes/ID`` are directories of hard links to objects. They are not symbolic
links: onnxruntime refuses weights that lie, once links are followed, outside of the
model's folder. Where a device refuses hard links, an object moves into the first
directory that needs it, and is copied only for further ones. An object arrives as
``.part``, is proven by its SHA-256 on the device and renamed; a directory appears
whole by one rename. So an interrupted push leaves nothing but ``.part``, which the
next push removes.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgekit.device import parsing
from edgekit.device.base import Device, checked, printable
from edgekit.errors import DeviceFailedError, EdgekitError, HostStorageError, InputError
from edgekit.progress import Progress, ProgressEvent, silent
from edgekit.resources import cache_dir, device_scripts_dir
from edgekit.schema.integrity import path_fault

Kind = Literal["bundles", "runtimes"]

#: A slow device still reads and digests its own storage at this rate (an emulated board: 20 MB/s).
SLOWEST_DIGEST_BYTES_PER_S = 4 * 1024 * 1024
#: A shell, some dozen small files.
OVERHEAD_S = 60.0
#: Left free on the device: runs are written beside the store, and a full /data makes an Android unusable.
RESERVE_BYTES = 16 * 1024 * 1024
#: The device may well be dead; the next push removes what is left behind.
CLEANUP_TIMEOUT_S = 5.0
#: Another process on this host may be pushing gigabytes to the same device.
LOCK_TIMEOUT_S = 3600.0


@dataclass(frozen=True, slots=True)
class StoreFile:
    """One file of a directory in the store; ``name`` is relative, POSIX."""

    name: str
    local: Path
    bytes: int
    sha256: str
    executable: bool = False

    @property
    def line(self) -> str:
        """The file as device_scripts/store.sh reads it; nobody may write to an object by mistake."""
        return f"{self.sha256} {'0555' if self.executable else '0444'} {self.name}"


@dataclass(frozen=True, slots=True)
class Placed:
    """A directory that lies whole on the device."""

    directory: str
    bytes_sent: int
    bytes_reused: int


@dataclass(frozen=True, slots=True)
class _Survey:
    """What a device holds of a set of files."""

    have: frozenset[str]
    #: Contents that lie in another directory, and must be copied where there are no links.
    copies: frozenset[str]
    whole: bool
    links: bool
    writable: bool


def content_id(files: Sequence[StoreFile]) -> str:
    """The name of a directory: SHA-256 over its files' names and contents, hex."""
    digest = hashlib.sha256()
    for file in sorted(files, key=lambda one: one.name):
        digest.update(f"{file.name}\0{file.sha256}\n".encode())
    return digest.hexdigest()


class Store:
    """A device's store."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self._script = (device_scripts_dir() / "store.sh").read_text(encoding="utf-8")

    def place(
        self, kind: Kind, files: Sequence[StoreFile], *, thorough: bool = False, progress: Progress = silent
    ) -> Placed:
        """Make a directory of these files lie on the device, sending only contents that are missing there.

        Args:
            kind: what it is.
            files: at least one; names must differ.
            thorough: read and digest everything that lies there already, also what nobody wrote to since it was
                last proven.
            progress: told of bytes sent.

        Raises:
            InputError: a name that is not portable, or a local file that cannot be read.
            DeviceFailedError: no room, read-only, lost on the way, or a file arrived damaged. What was there
                before is still there.
        """
        _check_names(files)
        directory = f"{kind}/{content_id(files)}"
        with _alone(self.device, progress):
            found = self._survey(directory, files, thorough)
            sizes = {file.sha256: file.bytes for file in files}
            missing = {sha: size for sha, size in sizes.items() if sha not in found.have}
            placed = Placed(
                f"{self.device.root}/{directory}",
                bytes_sent=sum(missing.values()),
                bytes_reused=sum(sizes.values()) - sum(missing.values()),
            )
            if not found.whole:
                self._demand_writable(found)
                free = parsing.free_bytes(self._call(["clear", self.device.root, directory], files, doing="make room"))
                self._demand_room(_room_needed(files, missing, found), free)
                self._upload(files, missing, progress)
                self._publish(directory, files)
            return placed

    def _survey(self, directory: str, files: Sequence[StoreFile], thorough: bool) -> _Survey:
        output = self._call(
            ["survey", self.device.root, directory, "yes" if thorough else "no"],
            files,
            doing="look into the store",
            # At worst everything is read, once as an object and once as a copy.
            read_bytes=2 * sum(file.bytes for file in files),
        )
        words = [line.split(" ", 1) for line in output.splitlines() if " " in line]
        told = {key: value for key, value in words if key in ("whole", "links", "writable")}
        if set(told) != {"whole", "links", "writable"}:
            raise DeviceFailedError(
                "look into the store: the device's answer makes no sense",
                device=self.device.name,
                detail=printable(output),
            )
        return _Survey(
            have=frozenset(value for key, value in words if key == "have"),
            copies=frozenset(value for key, value in words if key == "copy"),
            whole=told["whole"] == "yes",
            links=told["links"] == "yes",
            writable=told["writable"] == "yes",
        )

    def _demand_writable(self, found: _Survey) -> None:
        if not found.writable:
            raise DeviceFailedError(
                f"store files in {self.device.root}: it cannot be written (read-only, or full to the last byte)",
                device=self.device.name,
                hint="remount it, make room, or name another place with EDGEKIT_DEVICE_ROOT",
            )

    def _demand_room(self, needed: int, free: int | None) -> None:
        if free is not None and needed + RESERVE_BYTES > free:
            raise DeviceFailedError(
                f"store files in {self.device.root}: {_mib(needed + RESERVE_BYTES)} are needed, {_mib(free)} are free",
                device=self.device.name,
                hint=f"make room there; {self.device.root} itself may be removed, it is filled again as needed",
            )

    def _upload(self, files: Sequence[StoreFile], missing: dict[str, int], progress: Progress) -> None:
        total, done = sum(missing.values()), 0
        stage = f"push to {self.device.name}"
        for file in files:
            if file.sha256 not in missing:
                continue
            before = done

            def tell(event: ProgressEvent, before: int = before, name: str = file.name) -> None:
                progress(ProgressEvent(stage, before + (event.done or 0), total, "bytes", name))

            part = f"{self.device.root}/objects/{file.sha256}.part"
            try:
                self.device.push(file.local, part, progress=tell)
                self._call(
                    ["accept", self.device.root, file.sha256, "0555" if file.executable else "0444"],
                    (),
                    doing=f"verify {file.name} on the device",
                    read_bytes=file.bytes,
                    hint="push again; if it happens again, the link or the device's storage is bad",
                )
            except EdgekitError:
                # The room that half a file takes may be what others wait for. A dead device keeps it for now.
                with contextlib.suppress(EdgekitError):
                    self.device.run(["rm", "-f", part], timeout=CLEANUP_TIMEOUT_S)
                raise
            done += missing.pop(file.sha256)

    def _publish(self, directory: str, files: Sequence[StoreFile]) -> None:
        self._call(
            ["publish", self.device.root, directory],
            files,
            doing=f"publish {directory}",
            read_bytes=2 * sum(file.bytes for file in files),
            hint="name another place with EDGEKIT_DEVICE_ROOT, or see whether the storage is full",
        )

    def _call(
        self, argv: list[str], files: Sequence[StoreFile], *, doing: str, read_bytes: int = 0, hint: str | None = None
    ) -> str:
        output = checked(
            self.device,
            ["sh", "-c", self._script, "sh", *argv],
            doing=doing,
            hint=hint,
            stdin="".join(f"{file.line}\n" for file in files).encode(),
            timeout=OVERHEAD_S + read_bytes / SLOWEST_DIGEST_BYTES_PER_S,
        )
        return output.decode("utf-8", "replace")


def _room_needed(files: Sequence[StoreFile], missing: dict[str, int], found: _Survey) -> int:
    """Bytes that a push will add to the device's storage."""
    needed = sum(missing.values())
    if not found.links:
        seen: set[str] = set()
        for file in files:
            if file.sha256 in found.copies or file.sha256 in seen:
                needed += file.bytes
            seen.add(file.sha256)
    return needed


@contextlib.contextmanager
def _alone(device: Device, progress: Progress) -> Iterator[None]:
    """Keep other processes of this host from pushing to the same device at the same time."""
    from filelock import FileLock, Timeout

    folder = cache_dir() / "locks"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / f"{re.sub(r'[^A-Za-z0-9.-]', '_', device.name)}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            progress(ProgressEvent(f"push to {device.name}", detail="waiting for another push to this device"))
            lock.acquire(timeout=LOCK_TIMEOUT_S)
    except Timeout as error:
        raise DeviceFailedError(
            f"push: another process has been pushing for {LOCK_TIMEOUT_S / 60:g} minutes", device=device.name
        ) from error
    except OSError as error:
        raise HostStorageError(f"make a lock in {folder}: {error.strerror or error}") from error
    try:
        yield
    finally:
        lock.release()


def _check_names(files: Sequence[StoreFile]) -> None:
    if not files:
        raise InputError("store files on a device: there are none")
    names = [file.name.casefold() for file in files]
    for file in files:
        fault = path_fault(file.name) or ("stands there twice" if names.count(file.name.casefold()) > 1 else None)
        if fault:
            raise InputError(f"store files on a device: the name {file.name!r} {fault}")


def _mib(count: int) -> str:
    return f"{count / (1 << 20):,.1f} MiB"
