"""One command running on a device, over adb's shell protocol: its output, its deadline and how it is ended."""

from __future__ import annotations

import contextlib
import selectors
import threading
from collections.abc import Callable
from typing import Literal, Protocol

from edgekit.device.adb_wire import (
    CLOSE_STDIN,
    EXIT,
    STDERR,
    STDIN,
    STDOUT,
    SYNC_PIECE_BYTES,
    FirstLine,
    ShellDecoder,
    Wire,
    WireError,
    shell_frame,
)
from edgekit.device.base import CANCEL_POLL_S, TERMINATION_GRACE_S, Deadline, FileStat, printable
from edgekit.errors import DeviceFailedError

#: A silent command is no sign of death; after this long adbd itself is asked, which starts no process there.
LIVENESS_S = 15.0
#: adbd answers a stat from its own thread; a loaded phone still manages within this.
LIVENESS_TIMEOUT_S = 10.0
#: What a killed command had written may still be on a slow link, ahead of its exit code. While it arrives it is
#: waited for, but no longer than this: a device could go on for ever.
DRAIN_S = 60.0
#: Frames of input handed to the socket at a time.
_FRAMES_AT_ONCE = 8


class Watched(Protocol):
    """What a session needs of the device beside its own connection."""

    @property
    def name(self) -> str:
        """The device's name."""
        ...

    def stat(self, remote: str, *, timeout: float) -> FileStat | None:
        """What lies at a path."""
        ...

    def signal(self, pid: int, signal: Literal["TERM", "KILL"]) -> None:
        """Send a signal to a process group."""
        ...


class ShellSession:
    """One command running on the device."""

    def __init__(
        self,
        device: Watched,
        wire: Wire,
        what: str,
        stdin: Callable[[int], bytes],
        deadline: Deadline,
        cancel: threading.Event | None,
    ) -> None:
        self._device = device
        self._wire = wire
        self._what = what
        self._deadline = deadline
        self._cancel = cancel
        self._stdin: Callable[[int], bytes] | None = stdin
        self._outgoing = memoryview(b"")
        self._pid = FirstLine()
        self._late = False
        self._kill_at: Deadline | None = None
        self._killed: Deadline | None = None
        self._drained = Deadline(DRAIN_S)

    def pump(self, on_stdout: Callable[[bytes], None], on_stderr: Callable[[bytes], None]) -> int:
        """Hand over output until the command ends; its exit code."""
        try:
            code = self._pump(on_stdout, on_stderr)
        except WireError as error:
            # No way to the device, or no sense in what it says: to hang up, which adbd passes on, is all one can do.
            if self._late:
                raise WireError(f"not done after {self._deadline.seconds:g} s, and {error}") from error
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
                    if self._send_some():
                        # What takes input lives; over a slow link a question would wait behind all that was sent.
                        silence = Deadline(LIVENESS_S)
                    if not self._outgoing and self._stdin is None:
                        selector.modify(sock, selectors.EVENT_READ)
                if events & selectors.EVENT_READ:
                    piece = self._wire.receive_some(256 * 1024)
                    if not piece:
                        raise WireError("the device hung up before the command ended")
                    silence = Deadline(LIVENESS_S)
                    if self._killed is not None and not self._drained.passed:
                        self._killed = Deadline(TERMINATION_GRACE_S)
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

    def _send_some(self) -> bool:
        """Send what the socket takes of the input; whether it took any."""
        if not self._outgoing and self._stdin is not None:
            self._outgoing = memoryview(self._next_frames(self._stdin))
        sock = self._wire.socket
        sock.setblocking(False)
        try:
            sent = sock.send(self._outgoing)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as error:
            raise WireError(f"connection lost ({error.strerror or error})") from error
        self._outgoing = self._outgoing[sent:]
        return sent > 0

    def _next_frames(self, stdin: Callable[[int], bytes]) -> bytes:
        """Some of the input, as frames; the last says that it ends."""
        frames: list[bytes] = []
        for _ in range(_FRAMES_AT_ONCE):
            piece = stdin(SYNC_PIECE_BYTES)
            if not piece:
                self._stdin = None
                return b"".join([*frames, shell_frame(CLOSE_STDIN)])
            frames.append(shell_frame(STDIN, piece))
        return b"".join(frames)

    def _look(self) -> None:
        """Send the signal that is due."""
        if self._killed is not None:
            if self._killed.passed:
                raise WireError("the command did not end although it was killed")
        elif self._kill_at is not None:
            if self._kill_at.passed:
                try:
                    self._signal("KILL")
                except DeviceFailedError as error:
                    raise WireError(f"the command could not be killed ({error.message})") from error
                self._killed = Deadline(TERMINATION_GRACE_S)
                self._drained = Deadline(DRAIN_S)
                self._wire.extend(Deadline(DRAIN_S + 2 * TERMINATION_GRACE_S))
        elif self._deadline.passed or (self._cancel is not None and self._cancel.is_set()):
            self._late = self._deadline.passed
            # A device too slow to confirm it in time may still have heard it; the other signal is sent in any case.
            with contextlib.suppress(DeviceFailedError):
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
