"""A device with an adbd, whatever way leads to it: commands and file copies as adbd offers them."""

from __future__ import annotations

import contextlib
import io
import math
import os
import secrets
import struct
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

from edgekit.device import android
from edgekit.device.adb_wire import (
    ALLOW_THIS_HOST,
    EXIT,
    HEARD_LATELY_S,
    MAX_REQUEST_BYTES,
    SYNC_PIECE_BYTES,
    RefusedError,
    ShellDecoder,
    SyncFrames,
    SyncReader,
    Wire,
    WireError,
    sync_header,
    sync_request,
)
from edgekit.device.adbd_shell import ShellSession
from edgekit.device.base import (
    DEFAULT_TIMEOUT_S,
    MAX_STREAM_STDERR_BYTES,
    PROGRESS_STEP_BYTES,
    TERMINATION_GRACE_S,
    Collector,
    Completed,
    Deadline,
    FileStat,
    Tail,
    atomic_target,
    check_remote_path,
    copy_timeout,
    file_kind,
    printable,
    shell_command,
)
from edgekit.errors import (
    DeviceFailedError,
    DeviceUnavailableError,
    EdgekitError,
    InputError,
    UnauthorizedError,
    UnsupportedError,
)
from edgekit.progress import Progress, ProgressEvent, silent

#: Time for a ``kill`` sent over a connection of its own.
KILL_TIMEOUT_S = 10.0
#: How much more than its size says a file may yield.
PULL_GROWTH_BYTES = 64 * 1024 * 1024
#: From this size on, what arrived of a file before the device was lost is kept: sending it again takes seconds.
RESUMABLE_BYTES = 16 * 1024 * 1024
#: A rename takes moments where the device is still there.
RENAME_TIMEOUT_S = 10.0
#: ``ENOENT`` and ``ENOTDIR`` of Linux, whatever the host's numbers are.
_MISSING = (2, 20)

#: Where we keep our things: on Android the one executable place, elsewhere the user's cache.
_FIND_ROOT = (
    f"if [ -d {android.ROOT} ]; then echo {android.ROOT}/edgekit; "
    'else echo "${XDG_CACHE_HOME:-$HOME/.cache}/edgekit"; fi'
)


class AdbdDevice(ABC):
    """A device with an adbd (see :class:`edgekit.device.base.Device`); a subclass knows the way to it.

    Each call has a connection or stream of its own, so calls from several threads do not meet.
    """

    #: What to do when it was lost.
    lost_hint = "see whether `edgekit devices` still lists it, reconnect it and start again"

    def __init__(self, root: str | None) -> None:
        """Nothing is asked of the device yet.

        Args:
            root: where the store lies; by default ``EDGEKIT_DEVICE_ROOT``, else ``/data/local/tmp/edgekit``
                where that directory exists, else the user's cache on the device.
        """
        root = root if root is not None else os.environ.get("EDGEKIT_DEVICE_ROOT") or None
        self._root = None if root is None else check_remote_path(root)
        self._features: frozenset[str] | None = None
        #: Where a copy that this object made was cut (see :meth:`_name_to_send`).
        self._cut: set[str] = set()
        self._lock = threading.Lock()
        #: Calls under way, and when the last one ended well (``time.monotonic``).
        self._talking = 0
        self._heard = -math.inf
        self._counting = threading.Lock()

    @property
    @abstractmethod
    def name(self) -> str:
        """The device's name, as ``--device`` takes it."""

    @abstractmethod
    def _open(self, deadline: Deadline) -> Wire:
        """A connection to the device's adbd that takes one request for a service.

        Raises:
            WireError, DeviceUnavailableError: there is no way to it.
        """

    @abstractmethod
    def _ask_features(self) -> str:
        """The names of what the device's adbd can do, with commas between them.

        Raises:
            WireError, DeviceUnavailableError: there is no way to it.
        """

    @property
    def root(self) -> str:
        """Where the store lies; asked of the device once."""
        with self._lock:
            if self._root is None:
                done = self.run(["sh", "-c", _FIND_ROOT])
                found = done.stdout.decode("utf-8", "replace").strip()
                if done.exit_code != 0 or not found.startswith("/") or "\n" in found:
                    raise DeviceFailedError(
                        f"find a place for our files: the device said {printable(done.stdout)!r}",
                        device=self.name,
                        detail=printable(done.stderr) or None,
                        hint="name one with EDGEKIT_DEVICE_ROOT",
                    )
                self._root = check_remote_path(found)
            return self._root

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout: float = DEFAULT_TIMEOUT_S,
        stdin: bytes | None = None,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Completed:
        """Run a command to its end (see :meth:`edgekit.device.base.Device.run`)."""
        command = shell_command(argv, cwd, env)
        out, err = Collector(self.name, argv[0]), Collector(self.name, argv[0])
        code = self._execute(argv[0], command, out, err, io.BytesIO(stdin or b"").read, timeout, None)
        return Completed(code, out.value(), err.value())

    def stream(
        self,
        argv: Sequence[str],
        *,
        on_stdout: Callable[[bytes], None],
        timeout: float,
        cancel: threading.Event | None = None,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Completed:
        """Run a long command (see :meth:`edgekit.device.base.Device.stream`)."""
        command = shell_command(argv, cwd, env)
        err = Tail(MAX_STREAM_STDERR_BYTES)
        code = self._execute(argv[0], command, on_stdout, err, io.BytesIO().read, timeout, cancel)
        return Completed(code, b"", err.value())

    def push(self, local: Path, remote: str, *, progress: Progress = silent, timeout: float | None = None) -> None:
        """Copy a file to the device (see :meth:`edgekit.device.base.Device.push`)."""
        check_remote_path(remote)
        try:
            source = local.open("rb", buffering=0)
        except OSError as error:
            raise InputError(f"read {local}: {error.strerror or error}") from error
        with source:
            stat = os.fstat(source.fileno())
            deadline = Deadline(copy_timeout(stat.st_size) if timeout is None else timeout)
            sending = self._name_to_send(remote, stat.st_size)
            with self._remembering(remote), self._talk(f"push {local.name} to {remote}", deadline) as wire:
                wire.request(b"sync:")
                # 0o100644: a regular file; what may be executed is marked after it was verified.
                sync_request(wire, b"SEND", f"{sending},{0o100644}".encode("utf-8", "surrogateescape"))
                done = told = 0
                frames = SyncFrames()
                renaming: threading.Thread | None = None
                try:
                    while (piece := _read_frames(frames, source, local))[1]:
                        if wire.pending():
                            # adbd speaks before the end only to refuse (no room, read-only).
                            sync_header(wire)
                        wire.send(piece[0])
                        done += piece[1]
                        if done - told >= PROGRESS_STEP_BYTES:
                            if sending != remote and renaming is None:
                                # Beside the copy, which does not wait for a shell to start.
                                renaming = threading.Thread(
                                    target=self._try_rename, args=(sending, remote), daemon=True
                                )
                                renaming.start()
                            progress(ProgressEvent("push", done, stat.st_size, "bytes", local.name))
                            told = done
                finally:
                    # Before adbd hears of the end: of what it cannot finish, it removes only what has the old name.
                    if renaming is not None:
                        renaming.join(RENAME_TIMEOUT_S)
                wire.send(b"DONE" + struct.pack("<I", int(stat.st_mtime) & 0xFFFFFFFF))
                kind, _ = sync_header(wire)
                if kind != b"OKAY":
                    raise WireError(f"unexpected answer {kind!r} after the file")
            if sending != remote and self.stat(sending) is not None and not self._rename(sending, remote):
                raise DeviceFailedError(f"push {local.name} to {remote}: cannot rename {sending}", device=self.name)
            progress(ProgressEvent("push", done, stat.st_size, "bytes", local.name))

    def _name_to_send(self, remote: str, size: int) -> str:
        """The name under which a file arrives.

        adbd removes a file that it could not finish, by its name, and only when it sees that nobody sends any more.
        Of a large one, what has arrived is worth keeping, so it gets its real name while it is written. And no name
        under which a copy was cut is used again: what is written there may still be removed.
        """
        with self._lock:
            plain = size < RESUMABLE_BYTES and remote not in self._cut
        return remote if plain else f"{remote}.{secrets.token_hex(4)}.part"

    @contextlib.contextmanager
    def _remembering(self, remote: str) -> Iterator[None]:
        """Keep in mind that a copy to ``remote`` was cut, when it is."""
        try:
            yield
        except BaseException:
            with self._lock:
                self._cut.add(remote)
            raise

    def append(
        self, local: Path, remote: str, offset: int, *, progress: Progress = silent, timeout: float | None = None
    ) -> None:
        """Go on with a file (see :meth:`edgekit.device.base.Device.append`)."""
        check_remote_path(remote)
        try:
            source = local.open("rb")
        except OSError as error:
            raise InputError(f"read {local}: {error.strerror or error}") from error
        with source:
            size = os.fstat(source.fileno()).st_size
            source.seek(offset)
            done = told = offset

            def read(count: int) -> bytes:
                nonlocal done, told
                piece = _read(source.read, local, count)
                done += len(piece)
                if done - told >= PROGRESS_STEP_BYTES or not piece:
                    progress(ProgressEvent("push", done, size, "bytes", local.name))
                    told = done
                return piece

            err = Tail(MAX_STREAM_STDERR_BYTES)
            # The sync protocol only writes files anew, so this way is the slower one.
            command = shell_command(["sh", "-c", 'cat >>"$1"', "sh", remote], None, None)
            limit = copy_timeout(size) if timeout is None else timeout
            code = self._execute("cat", command, lambda piece: None, err, read, limit, None)
            if code != 0:
                raise self._failed(f"push {local.name} to {remote}", RefusedError(printable(err.value())))

    def _try_rename(self, path: str, target: str) -> None:
        with contextlib.suppress(DeviceFailedError):  # who waits for the copy hears of it
            self._rename(path, target)

    def _rename(self, path: str, target: str) -> bool:
        return self.run(["mv", "-f", path, target]).exit_code == 0

    def pull(self, remote: str, local: Path, *, progress: Progress = silent, timeout: float | None = None) -> None:
        """Copy a file from the device (see :meth:`edgekit.device.base.Device.pull`)."""
        found = self.stat(remote, timeout=DEFAULT_TIMEOUT_S if timeout is None else timeout)
        if found is None or found.kind != "file":
            raise DeviceFailedError(
                f"pull {remote}: {'no such file' if found is None else 'not a file'}", device=self.name
            )
        deadline = Deadline(copy_timeout(found.size) if timeout is None else timeout)
        # A log may grow while it is read (and /proc tells no sizes), but not fill the host's disk.
        limit = 2 * found.size + PULL_GROWTH_BYTES
        with (
            atomic_target(local) as part,
            part.open("wb", buffering=0) as sink,
            self._talk(f"pull {remote}", deadline) as wire,
        ):
            wire.request(b"sync:")
            sync_request(wire, b"RECV", remote.encode("utf-8", "surrogateescape"))
            reader = SyncReader(wire)
            done = told = 0
            while True:
                kind, length = sync_header(reader)
                if kind == b"DONE":
                    break
                if kind != b"DATA" or length > SYNC_PIECE_BYTES:
                    raise WireError(f"unexpected frame {kind!r} of {length} bytes")
                _write(sink, reader.receive(length))
                done += length
                if done > limit:
                    raise WireError(f"the file grew far beyond the {found.size} bytes it had")
                if done - told >= PROGRESS_STEP_BYTES:
                    progress(ProgressEvent("pull", done, found.size, "bytes", local.name))
                    told = done
            progress(ProgressEvent("pull", done, found.size, "bytes", local.name))

    def stat(self, remote: str, *, timeout: float = DEFAULT_TIMEOUT_S) -> FileStat | None:
        """What lies at a path (see :meth:`edgekit.device.base.Device.stat`)."""
        check_remote_path(remote)
        path = remote.encode("utf-8", "surrogateescape")
        modern = "stat_v2" in self.features()
        with self._talk(f"look at {remote}", Deadline(timeout)) as wire:
            wire.request(b"sync:")
            if not modern:
                sync_request(wire, b"STAT", path)
                kind, mode, size, mtime = struct.unpack("<4sIII", wire.receive(16))
                if kind != b"STAT":
                    raise WireError(f"unexpected answer {kind!r}")
                return FileStat(file_kind(mode), size, mode & 0o7777, mtime) if mode else None
            sync_request(wire, b"STA2", path)
            kind, error, _, _, mode, _, _, _, size, _, mtime, _ = struct.unpack("<4sIQQIIIIQqqq", wire.receive(72))
            if kind != b"STA2":
                raise WireError(f"unexpected answer {kind!r}")
            if error in _MISSING:
                return None
            if error:
                raise RefusedError(_ERRNO.get(error, f"error {error} of the device"))
            return FileStat(file_kind(mode), size, mode & 0o7777, mtime)

    def features(self) -> frozenset[str]:
        """What the device's adbd can do, by adb's names; asked once."""
        if self._features is None:
            try:
                answer = self._ask_features()
            except (WireError, DeviceUnavailableError) as error:
                raise self._failed("ask what adbd can do", error) from error
            self._features = frozenset(answer.split(","))
        return self._features

    @contextlib.contextmanager
    def _talk(self, doing: str, deadline: Deadline) -> Iterator[Wire]:
        """A connection to the device's adbd; whatever goes wrong names ``doing``."""
        try:
            wire = self._open(deadline)
        except (WireError, DeviceUnavailableError) as error:
            raise self._failed(doing, error) from error
        with self._counting:
            self._talking += 1
        try:
            yield wire
            self._heard = time.monotonic()
        except WireError as error:
            if deadline.passed:
                # Slow is not gone: behind what is still on its way, to try the connection would take long.
                self._heard = time.monotonic()
            raise self._failed(doing, error) from error
        finally:
            with self._counting:
                self._talking -= 1
            wire.close()

    def _heard_lately(self) -> bool:
        """Whether a call just ended well or is under way, so that the way to the device need not be tried."""
        return self._talking > 0 or time.monotonic() - self._heard < HEARD_LATELY_S

    def _failed(self, doing: str, error: Exception) -> DeviceFailedError | UnauthorizedError:
        if isinstance(error, UnauthorizedError):
            return error
        # What stood in the way knows more than we do of what to do about it.
        known = error if isinstance(error, EdgekitError) else None
        reason = printable(known.message if known is not None else str(error))
        if isinstance(error, RefusedError) and reason.startswith(("device unauthorized", "device still authorizing")):
            return UnauthorizedError(f"{doing}: {reason}", device=self.name, hint=ALLOW_THIS_HOST)
        hint = None
        if known is not None and known.hint:
            hint = known.hint
        elif "No space left" in reason:
            hint = "make room on the device"
        elif "Read-only" in reason or "Permission denied" in reason:
            hint = "name a writable place with EDGEKIT_DEVICE_ROOT"
        elif not isinstance(error, RefusedError) or "not found" in reason or "offline" in reason:
            hint = self.lost_hint
        return DeviceFailedError(f"{doing}: {reason}", device=self.name, hint=hint)

    def _execute(
        self,
        what: str,
        command: str,
        on_stdout: Callable[[bytes], None],
        on_stderr: Callable[[bytes], None],
        stdin: Callable[[int], bytes],
        timeout: float,
        cancel: threading.Event | None,
    ) -> int:
        if "shell_v2" not in self.features():
            raise UnsupportedError(
                f"run {what}: this device's adbd cannot tell exit codes",
                device=self.name,
                hint="Android 7 or newer is needed",
            )
        # The shell becomes the command, so the process id it tells first is the command's own. adbd makes
        # the shell the leader of a session, so that id is also its process group's.
        request = b"shell,v2,raw:echo $$; " + command.encode("utf-8", "surrogateescape")
        if len(request) > MAX_REQUEST_BYTES:
            raise InputError(f"run {what}: {len(request)} bytes of arguments are more than adb takes", device=self.name)
        deadline = Deadline(timeout)
        with self._talk(f"run {what}", deadline) as wire:
            wire.request(request)
            # Begun: from now on the wire outlives the command's deadline by what it takes to end it in an orderly way.
            wire.extend(Deadline(deadline.left() + 2 * TERMINATION_GRACE_S + KILL_TIMEOUT_S))
            session = ShellSession(self, wire, what, stdin, deadline, cancel)
            return session.pump(on_stdout, on_stderr)

    def signal(self, pid: int, signal: Literal["TERM", "KILL"]) -> None:
        """Send a signal to a process group on the device, or to the process alone when it leads none."""
        script = " || ".join(
            f"kill {form} 2>/dev/null" for form in (f"-s {signal} -- -{pid}", f"-{signal} -{pid}", f"-{signal} {pid}")
        )
        with self._talk(f"stop process {pid}", Deadline(KILL_TIMEOUT_S)) as wire:
            wire.request(f"shell,v2,raw:{script}".encode())
            decoder = ShellDecoder()
            while piece := wire.receive_some(4096):
                if any(kind == EXIT for kind, _ in decoder.feed(piece)):
                    return


def _read_frames(frames: SyncFrames, source: io.FileIO, local: Path) -> tuple[memoryview, int]:
    try:
        return frames.read(source.readinto)
    except OSError as error:
        raise InputError(f"read {local}: {error.strerror or error}") from error


def _write(sink: io.FileIO, data: memoryview) -> None:
    while data:
        data = data[sink.write(data) :]


def _read(read: Callable[[int], bytes], local: Path, count: int) -> bytes:
    try:
        return read(count)
    except OSError as error:
        raise InputError(f"read {local}: {error.strerror or error}") from error


#: Linux's numbers of the errors that a stat can meet, since the host may number them otherwise.
_ERRNO = {1: "Operation not permitted", 5: "Input/output error", 13: "Permission denied", 40: "Too many symbolic links"}
