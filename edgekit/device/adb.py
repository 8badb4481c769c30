"""A device behind an adb server: phones and boards over USB, Wi-Fi or the network."""

from __future__ import annotations

import contextlib
import os
import selectors
import struct
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

from edgekit.device.adb_server import SERVER_TIMEOUT_S, AdbServer
from edgekit.device.adb_wire import (
    CLOSE_STDIN,
    EXIT,
    MAX_REQUEST_BYTES,
    STDERR,
    STDIN,
    STDOUT,
    SYNC_PIECE_BYTES,
    FirstLine,
    RefusedError,
    ShellDecoder,
    SyncReader,
    Wire,
    WireError,
    shell_frame,
    sync_header,
    sync_request,
)
from edgekit.device.base import (
    CANCEL_POLL_S,
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
from edgekit.errors import DeviceFailedError, DeviceUnavailableError, InputError, UnsupportedError
from edgekit.progress import Progress, ProgressEvent, silent

#: Android's only directory where the shell user may both write and execute.
ANDROID_ROOT = "/data/local/tmp"
#: A silent command is no sign of death; after this long adbd itself is asked, which starts no process there.
LIVENESS_S = 15.0
#: adbd answers a stat from its own thread; a loaded phone still manages within this.
LIVENESS_TIMEOUT_S = 10.0
#: Time for a ``kill`` sent over a connection of its own.
KILL_TIMEOUT_S = 10.0
#: How much more than its size says a file may yield.
PULL_GROWTH_BYTES = 64 * 1024 * 1024
#: Read from a file and handed to the socket at a time: large enough that Python's share of the time is small.
_READ_BYTES = 8 * SYNC_PIECE_BYTES
#: ``ENOENT`` and ``ENOTDIR`` of Linux, whatever the host's numbers are.
_MISSING = (2, 20)

#: Where we keep our things: on Android the one executable place, elsewhere the user's cache.
_FIND_ROOT = (
    f"if [ -d {ANDROID_ROOT} ]; then echo {ANDROID_ROOT}/edgekit; "
    'else echo "${XDG_CACHE_HOME:-$HOME/.cache}/edgekit"; fi'
)


class AdbDevice:
    """A device behind an adb server (see :class:`edgekit.device.base.Device`).

    Each call has a connection of its own, so calls from several threads do not meet.
    """

    transport: Literal["local", "adb"] = "adb"

    def __init__(self, serial: str, server: AdbServer | None = None, root: str | None = None) -> None:
        """Address a device; nothing is asked of it yet.

        Args:
            serial: as ``adb devices`` lists it.
            server: by default the one of the environment.
            root: where the store lies; by default ``EDGEKIT_DEVICE_ROOT``, else ``/data/local/tmp/edgekit``
                where that directory exists, else the user's cache on the device.
        """
        self.serial = serial
        self.server = server if server is not None else AdbServer.from_environment()
        root = root if root is not None else os.environ.get("EDGEKIT_DEVICE_ROOT") or None
        self._root = None if root is None else check_remote_path(root)
        self._features: frozenset[str] | None = None
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        """``adb:SERIAL``."""
        return f"adb:{self.serial}"

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
        code = self._execute(argv[0], command, out, err, stdin or b"", timeout, None)
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
        code = self._execute(argv[0], command, on_stdout, err, b"", timeout, cancel)
        return Completed(code, b"", err.value())

    def push(self, local: Path, remote: str, *, progress: Progress = silent, timeout: float | None = None) -> None:
        """Copy a file to the device (see :meth:`edgekit.device.base.Device.push`)."""
        check_remote_path(remote)
        try:
            source = local.open("rb")
        except OSError as error:
            raise InputError(f"read {local}: {error.strerror or error}") from error
        with source:
            stat = os.fstat(source.fileno())
            deadline = Deadline(copy_timeout(stat.st_size) if timeout is None else timeout)
            with self._talk(f"push {local.name} to {remote}", deadline) as wire:
                wire.request(b"sync:")
                # 0o100644: a regular file; what may be executed is marked after it was verified.
                sync_request(wire, b"SEND", f"{remote},{0o100644}".encode("utf-8", "surrogateescape"))
                done = told = 0
                with selectors.DefaultSelector() as answer:
                    answer.register(wire.socket, selectors.EVENT_READ)
                    while piece := _read(source.read, local):
                        if answer.select(0):
                            # adbd speaks before the end only to refuse (no room, read-only).
                            sync_header(wire)
                        wire.send(_data_frames(piece))
                        done += len(piece)
                        if done - told >= PROGRESS_STEP_BYTES:
                            progress(ProgressEvent("push", done, stat.st_size, "bytes", local.name))
                            told = done
                wire.send(b"DONE" + struct.pack("<I", int(stat.st_mtime) & 0xFFFFFFFF))
                kind, _ = sync_header(wire)
                if kind != b"OKAY":
                    raise WireError(f"unexpected answer {kind!r} after the file")
                progress(ProgressEvent("push", done, stat.st_size, "bytes", local.name))

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
        with atomic_target(local) as part, part.open("wb") as sink, self._talk(f"pull {remote}", deadline) as wire:
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
                sink.write(reader.receive(length))
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
                answer = self.server.ask(f"host-serial:{self.serial}:features", SERVER_TIMEOUT_S)
            except WireError as error:
                raise self._failed("ask what adbd can do", error) from error
            except DeviceUnavailableError as error:
                raise self._failed("ask what adbd can do", error) from error
            self._features = frozenset(answer.split(","))
        return self._features

    @contextlib.contextmanager
    def _talk(self, doing: str, deadline: Deadline) -> Iterator[Wire]:
        """A connection to the device's adbd; whatever goes wrong names ``doing``."""
        try:
            wire = self.server.open(deadline)
        except DeviceUnavailableError as error:
            raise self._failed(doing, error) from error
        try:
            wire.request(f"host:transport:{self.serial}".encode())
            yield wire
        except WireError as error:
            raise self._failed(doing, error) from error
        finally:
            wire.close()

    def _failed(self, doing: str, error: Exception) -> DeviceFailedError:
        reason = printable(str(error))
        hint = None
        if "No space left" in reason:
            hint = "make room on the device"
        elif "Read-only" in reason or "Permission denied" in reason:
            hint = "name a writable place with EDGEKIT_DEVICE_ROOT"
        elif not isinstance(error, RefusedError) or "not found" in reason or "offline" in reason:
            hint = "see whether `edgekit devices` still lists it, reconnect it and start again"
        return DeviceFailedError(f"{doing}: {reason}", device=self.name, hint=hint)

    def _execute(
        self,
        what: str,
        command: str,
        on_stdout: Callable[[bytes], None],
        on_stderr: Callable[[bytes], None],
        stdin: bytes,
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
            session = _Shell(self, wire, what, stdin, deadline, cancel)
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


class _Shell:
    """One command running on the device."""

    def __init__(
        self,
        device: AdbDevice,
        wire: Wire,
        what: str,
        stdin: bytes,
        deadline: Deadline,
        cancel: threading.Event | None,
    ) -> None:
        self._device = device
        self._wire = wire
        self._what = what
        self._deadline = deadline
        self._cancel = cancel
        self._outgoing = bytearray()
        for start in range(0, len(stdin), SYNC_PIECE_BYTES):
            self._outgoing += shell_frame(STDIN, stdin[start : start + SYNC_PIECE_BYTES])
        self._outgoing += shell_frame(CLOSE_STDIN)
        self._pid = FirstLine()
        self._late = False
        self._kill_at: Deadline | None = None
        self._killed: Deadline | None = None

    def pump(self, on_stdout: Callable[[bytes], None], on_stderr: Callable[[bytes], None]) -> int:
        """Hand over output until the command ends; its exit code."""
        try:
            code = self._pump(on_stdout, on_stderr)
        except WireError:
            # No way to the device, or no sense in what it says: to hang up, which adbd passes on, is all one can do.
            raise
        except BaseException:
            # Also when the caller's callback raised: nothing may go on running there unwatched.
            with contextlib.suppress(DeviceFailedError):
                self._signal("KILL")
            raise
        if self._late:
            raise DeviceFailedError(
                f"run {self._what}: not done after {self._deadline.seconds:g} s, killed",
                device=self._device.name,
                hint="give it more time if it is only slow",
            )
        return code

    def _pump(self, on_stdout: Callable[[bytes], None], on_stderr: Callable[[bytes], None]) -> int:
        decoder = ShellDecoder()
        silence = Deadline(LIVENESS_S)
        sock = self._wire.socket
        with selectors.DefaultSelector() as selector:
            selector.register(sock, selectors.EVENT_READ | selectors.EVENT_WRITE)
            while True:
                self._look()
                ready = selector.select(self._wait_s())
                events = ready[0][1] if ready else 0
                if events & selectors.EVENT_WRITE:
                    self._send_some()
                    if not self._outgoing:
                        selector.modify(sock, selectors.EVENT_READ)
                if events & selectors.EVENT_READ:
                    piece = self._wire.receive_some(256 * 1024)
                    if not piece:
                        raise WireError("the device hung up before the command ended")
                    silence = Deadline(LIVENESS_S)
                    for kind, payload in decoder.feed(piece):
                        if kind == STDOUT:
                            rest = self._pid.feed(payload)
                            if rest:
                                on_stdout(rest)
                        elif kind == STDERR:
                            on_stderr(payload)
                        elif kind == EXIT:
                            return payload[0] if payload else 255
                elif silence.passed:
                    self._demand_life()
                    silence = Deadline(LIVENESS_S)

    def _demand_life(self) -> None:
        try:
            self._device.stat("/", timeout=LIVENESS_TIMEOUT_S)
        except DeviceFailedError as error:
            raise WireError(f"the device is gone ({error.message})") from error

    def _send_some(self) -> None:
        sock = self._wire.socket
        sock.setblocking(False)
        try:
            sent = sock.send(bytes(self._outgoing[: 256 * 1024]))
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            raise WireError(f"connection lost ({error.strerror or error})") from error
        del self._outgoing[:sent]

    def _look(self) -> None:
        """Send the signal that is due."""
        if self._killed is not None:
            if self._killed.passed:
                raise WireError("the command did not end although it was killed")
        elif self._kill_at is not None:
            if self._kill_at.passed:
                self._signal("KILL")
                self._killed = Deadline(TERMINATION_GRACE_S)
        elif self._deadline.passed or (self._cancel is not None and self._cancel.is_set()):
            self._late = self._deadline.passed
            self._signal("TERM")
            self._kill_at = Deadline(TERMINATION_GRACE_S)

    def _wait_s(self) -> float:
        if self._kill_at is not None:
            return CANCEL_POLL_S
        return min(CANCEL_POLL_S, max(0.0, self._deadline.left()))

    def _signal(self, name: Literal["TERM", "KILL"]) -> None:
        pid = self._pid.value
        if pid is None:
            # It has not even begun: hanging up is all one can do, and adbd then ends the shell.
            return
        if not pid.isdigit() or int(pid) < 2:
            raise WireError(f"the device's shell gave {printable(pid)!r} as its process id")
        self._device.signal(int(pid), name)


def _data_frames(piece: bytes) -> bytes:
    """A piece of a file as frames of the size that the protocol allows."""
    view = memoryview(piece)
    parts: list[bytes | memoryview] = []
    for start in range(0, len(piece), SYNC_PIECE_BYTES):
        part = view[start : start + SYNC_PIECE_BYTES]
        parts += [b"DATA" + struct.pack("<I", len(part)), part]
    return b"".join(parts)


def _read(read: Callable[[int], bytes], local: Path) -> bytes:
    try:
        return read(_READ_BYTES)
    except OSError as error:
        raise InputError(f"read {local}: {error.strerror or error}") from error


#: Linux's numbers of the errors that a stat can meet, since the host may number them otherwise.
_ERRNO = {1: "Operation not permitted", 5: "Input/output error", 13: "Permission denied", 40: "Too many symbolic links"}
