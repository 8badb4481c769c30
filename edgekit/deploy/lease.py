"""One writer at a time: between processes of this host by a lock, between hosts by a lease on the device."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import socket
import threading
import time
from collections.abc import Iterator

from edgekit.deploy.store_script import NO_LEASE, StoreScript, facts_of
from edgekit.device.base import Device, printable
from edgekit.errors import DeviceFailedError, EdgekitError, HostStorageError
from edgekit.progress import Progress, ProgressEvent
from edgekit.resources import cache_dir

#: Another process on this host, or another host, may be pushing gigabytes to the same device.
WAIT_TIMEOUT_S = 3600.0
#: A lease that nobody renewed for so long belongs to a host that died. Whole minutes: `find` knows no others.
EXPIRY_MINUTES = 5
#: Well within the expiry, and rare enough to cost nothing.
RENEWAL_S = 60.0
#: A release that failed sooner than this is tried again.
RELEASE_AGAIN_S = 5.0
#: How often a host that waits asks again.
POLL_S = 2.0


class Lease:
    """The right to write to a device's store; whoever works for long renews it in between."""

    def __init__(self, script: StoreScript, writable: bool) -> None:
        self.script = script
        #: Whether anything can be written there at all.
        self.writable = writable
        self._renewed = time.monotonic()

    def renew(self) -> None:
        """Tell the device that we are alive, when that is due.

        Raises:
            DeviceFailedError: the lease went to another host, which took us for dead.
        """
        if self.writable and time.monotonic() - self._renewed > RENEWAL_S:
            answer = _ask(self.script)
            if answer != "granted":
                raise DeviceFailedError(
                    f"go on with a push: the store is {answer}, who found that nothing came from here for "
                    f"{EXPIRY_MINUTES} minutes",
                    device=self.script.device.name,
                    hint="push again when that one has ended; what was sent is kept",
                )
            self._renewed = time.monotonic()


@contextlib.contextmanager
def writing(device: Device, progress: Progress) -> Iterator[Lease]:
    """Be the only one who writes to the device's store.

    Raises:
        DeviceFailedError: another writer does not end, or the device is lost.
        HostStorageError: no lock can be made on this host.
    """
    script = StoreScript(device, _word(device))
    with _alone_on_host(device, progress):
        deadline = time.monotonic() + WAIT_TIMEOUT_S
        while True:
            answer = _ask(script)
            if answer in ("granted", "unwritable"):
                break
            progress(ProgressEvent(f"push to {device.name}", detail=f"waiting: {answer}"))
            if time.monotonic() > deadline:
                raise DeviceFailedError(
                    f"push: {answer} for {WAIT_TIMEOUT_S / 60:g} minutes",
                    device=device.name,
                    hint=f"end that one; its lease is void {EXPIRY_MINUTES} minutes after it",
                )
            time.sleep(POLL_S)
        if answer == "unwritable":
            script.lease = NO_LEASE
        try:
            yield Lease(script, answer == "granted")
        finally:
            if answer == "granted":
                _release(script)


def _ask(script: StoreScript) -> str:
    """``granted``, ``unwritable`` or ``held by SOMEBODY``."""
    owner = f"{socket.gethostname()} (process {os.getpid()})"
    hint = "name another place with EDGEKIT_DEVICE_ROOT"
    output = script.call("lease", owner, str(EXPIRY_MINUTES), doing="ask for the store", hint=hint)
    answer = dict(facts_of(output)).get("lease", "")
    if answer in ("granted", "unwritable") or answer.startswith("held by "):
        return printable(answer, 200)
    raise DeviceFailedError(
        "ask for the store: the device's answer makes no sense", device=script.device.name, detail=printable(output)
    )


def _release(script: StoreScript) -> None:
    """Let others write; a device that is lost lets the lease expire."""
    began = time.monotonic()
    for _ in range(2):
        try:
            script.call("release", doing="release the store")
        except EdgekitError:
            # A connection that broke may be there again at once; one that hangs is not waited for twice.
            if time.monotonic() - began > RELEASE_AGAIN_S:
                return
        else:
            return


def _word(device: Device) -> str:
    """The lease of this host under the device's name: one of its processes writes at a time, so a dead one's is ours.

    The lock of this host is the name's. A device may have several (USB and Wi-Fi, through a server and without): under
    each of them we are another writer, who waits for the first.
    """
    return hashlib.sha256(f"{host_id()} {device.name}".encode()).hexdigest()[:16]


def host_id() -> str:
    """A word by which devices know this host, kept in its cache.

    Raises:
        HostStorageError: it cannot be kept.
    """
    path = cache_dir() / "host-id"
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}.part")
            part.write_text(secrets.token_hex(8), encoding="ascii")
            with contextlib.suppress(FileExistsError):
                # Unlike a rename, a link does not replace what another process made meanwhile.
                os.link(part, path)
            part.unlink()
        found = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeError) as error:
        raise HostStorageError(f"keep this host's name in {path}: {error}") from error
    if not re.fullmatch(r"[0-9a-f]{16}", found):
        raise HostStorageError(f"read this host's name: {path} holds {printable(found, 40)!r}", hint=f"remove {path}")
    return found


@contextlib.contextmanager
def _alone_on_host(device: Device, progress: Progress) -> Iterator[None]:
    from filelock import FileLock, Timeout

    folder = cache_dir() / "locks"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / f"{re.sub(r'[^A-Za-z0-9.-]', '_', device.name)}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            progress(ProgressEvent(f"push to {device.name}", detail="waiting for another push to this device"))
            lock.acquire(timeout=WAIT_TIMEOUT_S)
    except Timeout as error:
        raise DeviceFailedError(
            f"push: another process has been pushing for {WAIT_TIMEOUT_S / 60:g} minutes", device=device.name
        ) from error
    except OSError as error:
        raise HostStorageError(f"make a lock in {folder}: {error.strerror or error}") from error
    try:
        yield
    finally:
        lock.release()
