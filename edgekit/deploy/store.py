"""The content-addressed store on a device.

``ROOT/objects/SHA256`` holds each content once. ``ROOT/bundles/ID`` and
``ROOT/runtimes/ID`` are directories of hard links to objects. They are not symbolic
links: onnxruntime refuses weights that lie, once links are followed, outside of the
model's folder. Where a device refuses hard links, an object moves into the first
directory that needs it, and is copied only for further ones. An object arrives as
``.part``, is proven by its SHA-256 on the device and renamed; a directory appears
whole by one rename, after its files reached the storage. So an interrupted push leaves
nothing but ``.part``, which the next push goes on with when it needs it, and else removes.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgekit.deploy.lease import Lease, writing
from edgekit.deploy.store_script import facts_of
from edgekit.device import parsing
from edgekit.device.base import Device, printable
from edgekit.errors import DeviceFailedError, EdgekitError, InputError
from edgekit.progress import Progress, ProgressEvent, silent
from edgekit.schema.integrity import path_fault

Kind = Literal["bundles", "runtimes"]

#: Left free on the device: runs are written beside the store, and a full /data makes an Android unusable.
RESERVE_BYTES = 16 * 1024 * 1024
#: Of a store in which not even a lease can be left.
UNWRITABLE = "it cannot be written (read-only, full to the last byte, or closed to this user)"
#: The device may well be dead; the next push removes what is left behind.
CLEANUP_TIMEOUT_S = 5.0
#: Read and digested at a time.
_READ_BYTES = 1024 * 1024


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
    #: Bytes that an interrupted push left of a content.
    parts: dict[str, int]


def held_objects(device: Device) -> tuple[frozenset[str], dict[str, int]]:
    """What lies in a device's store: contents that are whole, and bytes of those that have arrived in part.

    Only looks: nothing is proven and nothing changed.

    Raises:
        DeviceFailedError: the device was lost.
    """
    output = device.run(["ls", "-ln", f"{device.root}/objects"])
    whole: set[str] = set()
    parts: dict[str, int] = {}
    if output.exit_code != 0:  # nothing was ever stored there
        return frozenset(), parts
    for line in output.stdout.decode("utf-8", "replace").splitlines():
        words = line.split()
        name, dot, kind = words[-1].partition(".") if words else ("", "", "")
        if len(name) != 64 or not line.startswith("-"):
            continue
        if not dot or kind == "at":
            whole.add(name)
        elif kind == "part" and len(words) > 4 and words[4].isdigit() and len(words[4]) < 16:
            parts[name] = int(words[4])
    return frozenset(whole), parts


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
        with writing(self.device, progress) as lease:
            found = self._survey(lease, directory, files, thorough)
            sizes = {file.sha256: file.bytes for file in files}
            missing = {sha: size for sha, size in sizes.items() if sha not in found.have}
            sent = 0
            if not found.whole:
                self._demand_writable(found)
                output = self._call(lease, ["clear", directory], files, doing="make room")
                self._demand_room(_room_needed(files, missing, found), parsing.free_bytes(output))
                sent = self._upload(lease, files, missing, found.parts, progress)
                self._publish(lease, directory, files)
            return Placed(f"{self.device.root}/{directory}", bytes_sent=sent, bytes_reused=sum(sizes.values()) - sent)

    def _survey(self, lease: Lease, directory: str, files: Sequence[StoreFile], thorough: bool) -> _Survey:
        output = self._call(
            lease,
            ["survey", directory, "yes" if thorough else "no"],
            files,
            doing="look into the store",
            # At worst everything is read, once as an object and once as a copy.
            read_bytes=2 * sum(file.bytes for file in files),
        )
        words = facts_of(output)
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
            writable=told["writable"] == "yes" and lease.writable,
            parts=dict(_part(value) for key, value in words if key == "part"),
        )

    def _demand_writable(self, found: _Survey) -> None:
        if not found.writable:
            raise DeviceFailedError(
                f"store files in {self.device.root}: {UNWRITABLE}",
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

    def _upload(
        self,
        lease: Lease,
        files: Sequence[StoreFile],
        missing: dict[str, int],
        parts: dict[str, int],
        progress: Progress,
    ) -> int:
        """Send what is missing; bytes that were sent."""
        total, done, resumed = sum(missing.values()), 0, 0
        stage = f"push to {self.device.name}"
        for file in files:
            if file.sha256 not in missing:
                continue
            before = done

            def tell(event: ProgressEvent, before: int = before, name: str = file.name) -> None:
                lease.renew()
                progress(ProgressEvent(stage, before + (event.done or 0), total, "bytes", name))

            part = f"{self.device.root}/objects/{file.sha256}.part"
            try:
                begin = self._usable_part(lease, file, parts.get(file.sha256, 0))
                if begin:
                    self.device.append(file.local, part, begin, progress=tell)
                else:
                    self.device.push(file.local, part, progress=tell)
                self._call(
                    lease,
                    ["accept", file.sha256, "0555" if file.executable else "0444"],
                    (),
                    doing=f"verify {file.name} on the device",
                    read_bytes=file.bytes,
                    hint="push again; if it happens again, the link or the device's storage is bad",
                )
            except EdgekitError as error:
                if "No space left" in error.message:
                    # The room that half a file takes may be what others wait for.
                    with contextlib.suppress(EdgekitError):
                        self.device.run(["rm", "-f", part], timeout=CLEANUP_TIMEOUT_S)
                raise
            done += missing.pop(file.sha256)
            resumed += begin
        return total - resumed

    def _usable_part(self, lease: Lease, file: StoreFile, there: int) -> int:
        """How many bytes of a file an interrupted push has brought, and they are right; 0 where it must start anew."""
        if not 0 < there <= file.bytes:
            return 0
        doing = f"look at what arrived of {file.name}"
        found = self._call(lease, ["digest", file.sha256], (), doing=doing, read_bytes=there).strip()
        return there if found == _digest_of_start(file.local, there) else 0

    def _publish(self, lease: Lease, directory: str, files: Sequence[StoreFile]) -> None:
        self._call(
            lease,
            ["publish", directory],
            files,
            doing=f"publish {directory}",
            read_bytes=2 * sum(file.bytes for file in files),
            hint="name another place with EDGEKIT_DEVICE_ROOT, or see whether the storage is full",
        )

    def _call(
        self,
        lease: Lease,
        argv: list[str],
        files: Sequence[StoreFile],
        *,
        doing: str,
        read_bytes: int = 0,
        hint: str | None = None,
    ) -> str:
        lines = [file.line for file in files]
        return lease.script.call(*argv, doing=doing, lines=lines, read_bytes=read_bytes, hint=hint)


def _part(value: str) -> tuple[str, int]:
    sha, _, size = value.partition(" ")
    return sha, int(size) if size.isdigit() and len(size) < 16 else 0


def _digest_of_start(path: Path, count: int) -> str:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as source:
            while count and (piece := source.read(min(count, _READ_BYTES))):
                digest.update(piece)
                count -= len(piece)
    except OSError as error:
        raise InputError(f"read {path}: {error.strerror or error}") from error
    return digest.hexdigest()


def _room_needed(files: Sequence[StoreFile], missing: dict[str, int], found: _Survey) -> int:
    """Bytes that a push will add to the device's storage."""
    needed = sum(size - min(size, found.parts.get(sha, 0)) for sha, size in missing.items())
    if not found.links:
        seen: set[str] = set()
        for file in files:
            if file.sha256 in found.copies or file.sha256 in seen:
                needed += file.bytes
            seen.add(file.sha256)
    return needed


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
