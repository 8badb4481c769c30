"""The parts of adb's protocol that are spoken here: frames of a shell and of file copies.

adbutils finds the server and opens the connection; its own shell and file services
have no deadlines, no streaming and lose the device's reason for a refusal.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import struct
from collections.abc import Callable, Iterator

from edgekit.device.base import Deadline

#: A single read or write that makes no headway for so long means a dead link, however much time is left.
STALL_S = 30.0
#: A device that restarts is away for longer: where something came from it since then, its connection is not tried.
HEARD_LATELY_S = 0.02
#: Largest piece of a file in one sync frame, fixed by the protocol.
SYNC_PIECE_BYTES = 64 * 1024
#: Longest path of the sync protocol.
SYNC_PATH_BYTES = 1024
#: adbd sends shell output in far smaller frames; a larger length means we lost step.
MAX_SHELL_FRAME_BYTES = 16 * 1024 * 1024
#: The server takes a request's length as four hex digits.
MAX_REQUEST_BYTES = 0xFFFF

#: What to do about a device that does not trust this host's key.
ALLOW_THIS_HOST = "unlock the screen and allow USB debugging for this computer, then try again"

STDIN, STDOUT, STDERR, EXIT, CLOSE_STDIN = 0, 1, 2, 3, 4


class WireError(Exception):
    """The other side is gone, too slow, or does not speak the protocol."""


class RefusedError(WireError):
    """The adb server or the device answered with a reason why not."""


class Wire:
    """A connection to the adb server, with a deadline on every byte."""

    def __init__(self, sock: socket.socket, deadline: Deadline) -> None:
        self.socket = sock
        self._deadline = deadline
        self._looker: selectors.BaseSelector | None = None
        with contextlib.suppress(OSError):
            # Small requests and their answers take turns: waiting to fill a segment costs 40 ms each time.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def extend(self, deadline: Deadline) -> None:
        """Set another deadline from here on."""
        self._deadline = deadline

    def close(self) -> None:
        """Close the connection; adbd hangs up on what ran over it."""
        if self._looker is not None:
            self._looker.close()
        with contextlib.suppress(OSError):
            self.socket.close()

    def send(self, data: bytes | memoryview) -> None:
        """Send all of it."""
        self._arm()
        try:
            self.socket.sendall(data)
        except TimeoutError as error:
            raise WireError(self._late()) from error
        except OSError as error:
            raise WireError(f"connection lost ({error.strerror or error})") from error

    def receive_some(self, limit: int) -> bytes:
        """Whatever comes next, at most ``limit`` bytes; empty at the end."""
        self._arm()
        try:
            return self.socket.recv(limit)
        except TimeoutError as error:
            raise WireError(self._late()) from error
        except OSError as error:
            raise WireError(f"connection lost ({error.strerror or error})") from error

    def receive_into(self, view: memoryview) -> int:
        """Whatever comes next, into ``view``; how much, 0 at the end."""
        self._arm()
        try:
            return self.socket.recv_into(view)
        except TimeoutError as error:
            raise WireError(self._late()) from error
        except OSError as error:
            raise WireError(f"connection lost ({error.strerror or error})") from error

    def receive(self, count: int) -> bytes:
        """Exactly ``count`` bytes."""
        data = bytearray(count)
        view = memoryview(data)
        while view:
            got = self.receive_into(view)
            if not got:
                raise WireError("connection closed by the other side")
            view = view[got:]
        return bytes(data)

    def pending(self) -> bool:
        """Whether something has come that nobody has read, or the other side hung up."""
        if self._looker is None:
            self._looker = selectors.DefaultSelector()
            self._looker.register(self.socket, selectors.EVENT_READ)
        return bool(self._looker.select(0))

    def request(self, service: bytes) -> None:
        """Ask the server (or, once switched over, the device) for a service."""
        if len(service) > MAX_REQUEST_BYTES:
            raise WireError(f"a request of {len(service)} bytes is longer than adb allows")
        self.send(b"%04x" % len(service) + service)
        status = self.receive(4)
        if status == b"FAIL":
            raise RefusedError(self.text())
        if status != b"OKAY":
            raise WireError(f"unexpected answer {status!r} from the adb server")

    def text(self) -> str:
        """A text with its length in four hex digits before it."""
        head = self.receive(4)
        try:
            length = int(head, 16)
        except ValueError as error:
            raise WireError(f"unexpected length {head!r} from the adb server") from error
        return self.receive(length).decode("utf-8", "replace")

    def _arm(self) -> None:
        left = self._deadline.left()
        if left <= 0:
            raise WireError(self._late())
        self.socket.settimeout(min(left, STALL_S))

    def _late(self) -> str:
        if self._deadline.passed:
            return f"not done after {self._deadline.seconds:g} s"
        return f"no answer for {STALL_S:g} s"


def shell_frame(kind: int, payload: bytes = b"") -> bytes:
    """One frame of the shell protocol, version 2."""
    return struct.pack("<BI", kind, len(payload)) + payload


class ShellDecoder:
    """Cuts a byte stream of the shell protocol into frames."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, piece: bytes) -> Iterator[tuple[int, bytes]]:
        """Add bytes; yields each frame that is complete, as kind and payload.

        Raises:
            WireError: this is no shell protocol.
        """
        self._data += piece
        while len(self._data) >= 5:
            kind, length = struct.unpack_from("<BI", self._data)
            if kind > 5 or length > MAX_SHELL_FRAME_BYTES:
                raise WireError(f"frame of kind {kind} and {length} bytes is not of the shell protocol")
            if len(self._data) < 5 + length:
                return
            payload = bytes(self._data[5 : 5 + length])
            del self._data[: 5 + length]
            yield kind, payload


class FirstLine:
    """Takes the first line off a stream of bytes, whatever its pieces."""

    #: The line holds a process id; more than this without a line's end is something else.
    LIMIT = 64

    def __init__(self) -> None:
        self._head = bytearray()
        self.value: bytes | None = None

    def feed(self, piece: bytes) -> bytes:
        """Add bytes; what follows the first line comes back.

        Raises:
            WireError: the stream does not begin with a short line.
        """
        if self.value is not None:
            return piece
        self._head += piece
        line, newline, rest = bytes(self._head).partition(b"\n")
        if not newline and len(line) <= self.LIMIT:
            return b""
        if not newline or len(line) > self.LIMIT:
            raise WireError(f"the device's shell began with {line[: self.LIMIT]!r} where its process id was expected")
        self.value = line
        return rest


def sync_request(wire: Wire, command: bytes, path: bytes) -> None:
    """Send one request of the sync protocol."""
    if len(path) > SYNC_PATH_BYTES:
        raise WireError(f"a path of {len(path)} bytes is longer than adb's {SYNC_PATH_BYTES}")
    wire.send(command + struct.pack("<I", len(path)) + path)


class SyncReader:
    """Reads frames of the sync protocol with few calls to the system and no copies: a frame holds 64 KiB at most."""

    #: About what the server has ready at a time on a fast link.
    READ_BYTES = 1024 * 1024

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._view = memoryview(bytearray(self.READ_BYTES))
        self._begin = self._end = 0

    def receive(self, count: int) -> memoryview:
        """Exactly ``count`` bytes, at most ``READ_BYTES``; they are there until the next call."""
        while self._end - self._begin < count:
            if len(self._view) - self._begin < count or self._begin == self._end:
                rest = bytes(self._view[self._begin : self._end])
                self._view[: len(rest)] = rest
                self._begin, self._end = 0, len(rest)
            got = self._wire.receive_into(self._view[self._end :])
            if not got:
                raise WireError("connection closed by the other side")
            self._end += got
        taken = self._view[self._begin : self._begin + count]
        self._begin += count
        return taken


class SyncFrames:
    """Pieces of a file as frames of the sync protocol, made in place: what is read is sent as it lies."""

    _FRAMES = 16
    _HEAD = b"DATA" + struct.pack("<I", SYNC_PIECE_BYTES)

    def __init__(self) -> None:
        self._view = memoryview(bytearray(self._FRAMES * (len(self._HEAD) + SYNC_PIECE_BYTES)))

    def read(self, read_into: Callable[[memoryview], int]) -> tuple[memoryview, int]:
        """The next frames, and how many bytes of the file are in them; nothing at its end."""
        position = total = 0
        for _ in range(self._FRAMES):
            body = self._view[position + len(self._HEAD) : position + len(self._HEAD) + SYNC_PIECE_BYTES]
            count = read_into(body)
            if not count:
                break
            head = self._HEAD if count == SYNC_PIECE_BYTES else b"DATA" + struct.pack("<I", count)
            self._view[position : position + len(head)] = head
            position += len(head) + count
            total += count
            if count < SYNC_PIECE_BYTES:
                break
        return self._view[:position], total


def sync_header(wire: Wire | SyncReader) -> tuple[bytes, int]:
    """The kind of the next sync frame and its length.

    Raises:
        RefusedError: the device refused, with its reason.
    """
    kind, length = struct.unpack("<4sI", wire.receive(8))
    if kind == b"FAIL":
        # A reason is a line of text; a hostile length must not make us wait for gigabytes.
        raise RefusedError(bytes(wire.receive(min(length, 4096))).decode("utf-8", "replace"))
    return kind, length
