"""adb's own protocol between a host and an adbd: packets, authorization, and streams over one connection.

adb-shell brings USB and the signatures. Its own shell and file services know no exit codes, wait for small packets
to fill up and compute a checksum of every byte in Python, so packets and the streams over them are kept here.

No thread of its own reads: whoever waits for something reads packets, for all, until what it waits for has come.
So a file copy passes no data from thread to thread.
"""

from __future__ import annotations

import itertools
import struct
import threading
import time
from collections import deque
from collections.abc import Callable

from edgekit.device.adb_keys import Signer
from edgekit.device.adb_transport import Transport
from edgekit.device.adb_wire import ALLOW_THIS_HOST, HEARD_LATELY_S, RefusedError, WireError
from edgekit.device.base import Deadline
from edgekit.errors import UnauthorizedError

#: The version from which neither side checks checksums of the data.
VERSION = 0x01000001
#: Largest payload of a packet that either side may send; adbd's own limit.
MAX_PAYLOAD = 1024 * 1024
#: What we understand; without ``shell_v2`` adbd offers no exit codes.
BANNER = b"host::features=shell_v2,cmd,stat_v2,ls_v2,fixed_push_mkdir"
#: A packet begins with six numbers of 32 bits.
_HEADER = struct.Struct("<6I")
AUTH_TOKEN, AUTH_SIGNATURE, AUTH_PUBLIC_KEY = 1, 2, 3
#: An adbd that lives answers a hello at once; over bad Wi-Fi within this.
HELLO_TIMEOUT_S = 10.0
#: Time for a person to unlock the screen and allow this computer.
AUTHORIZATION_TIMEOUT_S = 30.0
#: A device that takes no byte for so long is gone.
WRITE_TIMEOUT_S = 30.0
#: Who waits looks this often whether the connection was closed.
READ_POLL_S = 1.0
#: Of a stream that nobody reads, so much is taken in before the device has to wait.
WINDOW_BYTES = 4 * MAX_PAYLOAD


def _code(name: bytes) -> int:
    return int.from_bytes(name, "little")


CNXN, AUTH, OPEN, OKAY, WRTE, CLSE, STLS = (
    _code(name) for name in (b"CNXN", b"AUTH", b"OPEN", b"OKAY", b"WRTE", b"CLSE", b"STLS")
)


class Stream:
    """One stream of a :class:`Connection`; its fields are the connection's, guarded by its lock."""

    def __init__(self, connection: Connection, local_id: int) -> None:
        self.local_id = local_id
        self.remote_id = 0
        #: Packets that we may send before adbd must answer.
        self.credit = 0
        self.incoming: deque[memoryview] = deque()
        self.queued = 0
        #: Packets for which adbd still waits to hear that they arrived.
        self.owed = 0
        #: No more comes, or nobody wants more.
        self.ended = False
        self._connection = connection

    def send(self, data: bytes | memoryview, deadline: Deadline) -> None:
        """Send all of it; what a service that has ended does not take is dropped, as its last words are to be read.

        Raises:
            WireError: the connection is lost, or the deadline passes.
        """
        view = memoryview(data)
        while view:
            if not self._connection.wait(self._take_credit, deadline):
                raise WireError(f"not done after {deadline.seconds:g} s")
            if self.ended:
                return
            piece, view = view[: self._connection.max_payload], view[self._connection.max_payload :]
            self._connection.send(WRTE, self.local_id, self.remote_id, piece)

    def receive_into(self, view: memoryview, deadline: Deadline) -> int:
        """Some of what comes next; 0 at the end.

        Raises:
            WireError: the connection is lost, or the deadline passes.
        """
        if not self._connection.wait(lambda: bool(self.incoming) or self.ended, deadline):
            raise WireError(f"not done after {deadline.seconds:g} s")
        if not self.incoming:
            return 0
        piece = self.incoming[0]
        count = min(len(piece), len(view))
        view[:count] = piece[:count]
        self._connection.consumed(self, count)
        return count

    def _take_credit(self) -> bool:
        if self.credit > 0:
            self.credit -= 1
            return True
        return self.ended

    @property
    def pending(self) -> bool:
        """Whether something was received that nobody has read."""
        return bool(self.incoming)

    def close(self) -> None:
        """End it; adbd hangs up on what ran over it."""
        self._connection.forget(self)


class Connection:
    """A connection to one adbd, over which any number of streams run at a time."""

    def __init__(self, transport: Transport, signers: Callable[[], list[Signer]], name: str) -> None:
        """Say hello and be authorized.

        Raises:
            WireError: no adbd answers, or the connection breaks.
            UnauthorizedError: it does not trust this host.
        """
        self._transport = transport
        self._name = name
        self._send_lock = threading.Lock()
        self._changed = threading.Condition()
        self._reading = False
        self._waiting = 0
        #: When the last packet came (``time.monotonic``).
        self._heard = 0.0
        self._streams: dict[int, Stream] = {}
        self._numbers = itertools.count(1)
        self._lost: str | None = None
        #: What adbd is to be told as soon as nobody sends: command and the stream's two numbers.
        self._acknowledgements: deque[tuple[int, int, int]] = deque()
        #: Streams that were given up before adbd had opened them.
        self._given_up: set[int] = set()
        # A packet under way: a reader that gives up in its middle leaves it to the next.
        self._header = bytearray(_HEADER.size)
        self._payload: bytearray | None = None
        self._got = 0
        self.max_payload = MAX_PAYLOAD
        self.features = ""
        try:
            self._hello(signers)
        except BaseException:
            self.close()
            raise

    @property
    def lost(self) -> bool:
        """Whether it is of no more use; looks, since nobody reads where nobody waits."""
        with self._changed:
            if self._reading or self._lost is not None:
                return self._lost is not None
            self._reading = True
        self._lead(0.0)
        return self._lost is not None

    def answers(self) -> bool:
        """Whether the device's adbd still knows this connection; one over which nothing ran lately is tried.

        A device that lost its power says no farewell, and after its start knows nothing of the connection. A command
        sent over it would be lost, and nobody could tell whether it had run.
        """
        # Before looking, which may find what the device said long ago.
        lately = time.monotonic() - self._heard < HEARD_LATELY_S
        if self.lost:
            return False
        if lately or self._streams:
            return True
        try:
            self.open(b"sync:", Deadline(HELLO_TIMEOUT_S)).close()
        except RefusedError:
            return True
        except WireError:
            return False
        return True

    def open(self, service: bytes, deadline: Deadline) -> Stream:
        """A stream to a service of adbd.

        Raises:
            RefusedError: adbd does not offer it.
            WireError: the connection is lost, or there is no answer in time.
        """
        stream = Stream(self, next(self._numbers))
        with self._changed:
            self._streams[stream.local_id] = stream
        try:
            self.send(OPEN, stream.local_id, 0, service + b"\0")
            if not self.wait(lambda: stream.remote_id != 0 or stream.ended, deadline):
                raise WireError(f"not done after {deadline.seconds:g} s")
            if not stream.remote_id:
                raise RefusedError("adbd does not offer this service")
        except BaseException:
            stream.close()
            raise
        return stream

    def send(self, command: int, arg0: int, arg1: int, data: bytes | memoryview = b"") -> None:
        """Send one packet.

        Raises:
            WireError: the connection is lost.
        """
        with self._send_lock:
            self._send(command, arg0, arg1, data)
        self._acknowledge()

    def wait(self, satisfied: Callable[[], bool], deadline: Deadline) -> bool:
        """Read packets, or let another thread do it, until something has come; False when it is too late.

        Raises:
            WireError: the connection is lost.
        """
        while True:
            with self._changed:
                while True:
                    if satisfied():
                        return True
                    if self._lost is not None:
                        raise WireError(self._lost)
                    left = deadline.left()
                    if left <= 0:
                        return False
                    if not self._reading:
                        self._reading = True
                        break
                    self._waiting += 1
                    self._changed.wait(min(left, READ_POLL_S))
                    self._waiting -= 1
            self._lead(min(left, READ_POLL_S))

    def consumed(self, stream: Stream, count: int) -> None:
        """The first ``count`` bytes of what a stream received have been read."""
        with self._changed:
            piece = stream.incoming.popleft()
            if count < len(piece):
                stream.incoming.appendleft(piece[count:])
            stream.queued -= count
            self._owe_no_more(stream)
        self._acknowledge()

    def forget(self, stream: Stream) -> None:
        """A stream is over."""
        with self._changed:
            known = self._streams.pop(stream.local_id, None)
            tell = known is not None and not stream.ended and self._lost is None
            if tell and not stream.remote_id:
                self._given_up.add(stream.local_id)
                tell = False
            stream.ended = True
            self._changed.notify_all()
        if tell:
            try:
                self.send(CLSE, stream.local_id, stream.remote_id)
            except WireError as error:
                self._lose(str(error))

    def close(self) -> None:
        """Close it, and every stream over it."""
        self._lose("connection closed")

    def _lead(self, timeout: float) -> None:
        """Read for all: the next packet, or without a time to wait all that are there."""
        try:
            while self._take_packet(timeout) and not timeout:
                pass
        except WireError as error:
            self._lose(str(error))
        finally:
            with self._changed:
                self._reading = False
                if self._waiting:
                    self._changed.notify_all()

    def _hello(self, signers: Callable[[], list[Signer]]) -> None:
        deadline = Deadline(HELLO_TIMEOUT_S)
        self.send(CNXN, VERSION, MAX_PAYLOAD, BANNER + b"\0")
        untried: list[Signer] | None = None
        offered = False
        while True:
            try:
                command, arg0, arg1, data = self._receive(deadline)
            except WireError as error:
                raise (self._unauthorized() if offered else error) from error
            if command == CNXN:
                self.max_payload = min(MAX_PAYLOAD, arg1) or MAX_PAYLOAD
                banner = bytes(data).decode("utf-8", "replace")
                self.features = next(
                    (part[len("features=") :] for part in banner.split("::", 1)[-1].split(";") if "features=" in part),
                    "",
                ).rstrip("\0")
                return
            if command == STLS:
                raise UnauthorizedError(
                    "connect: it wants an encrypted connection (wireless debugging)",
                    device=self._name,
                    hint="pair it with an adb server: `adb pair HOST:PORT`, then name it as adb:SERIAL",
                )
            if command != AUTH or arg0 != AUTH_TOKEN:
                continue  # what is left of a connection before
            if untried is None:
                keys = signers()
                untried = list(keys)
            if untried:
                self.send(AUTH, AUTH_SIGNATURE, 0, untried.pop(0).sign(bytes(data)))
            elif keys and not offered:
                # Now the device shows a question on its screen.
                offered = True
                deadline = Deadline(AUTHORIZATION_TIMEOUT_S)
                self.send(AUTH, AUTH_PUBLIC_KEY, 0, keys[0].public_key + b"\0")
            else:
                raise self._unauthorized()

    def _unauthorized(self) -> UnauthorizedError:
        return UnauthorizedError(
            "connect: it does not trust this computer's key",
            device=self._name,
            hint=ALLOW_THIS_HOST,
        )

    def _send(self, command: int, arg0: int, arg1: int, data: bytes | memoryview = b"") -> None:
        """Send one packet; the caller holds the lock of sending."""
        begun = False
        try:
            for part in (_HEADER.pack(command, arg0, arg1, len(data), 0, command ^ 0xFFFFFFFF), data):
                view = memoryview(part)
                while view:
                    if self._lost is not None:
                        raise WireError(self._lost)
                    begun = True
                    view = view[self._transport.write(view, WRITE_TIMEOUT_S) :]
        except BaseException as error:
            # Also when it was interrupted: adbd would take the next packet for the rest of this one.
            if begun:
                self._lose(str(error) if isinstance(error, WireError) else "a packet was cut short")
            raise

    def _acknowledge(self) -> None:
        """Tell adbd what arrived, unless somebody is sending, who does it then.

        A reader must never wait for a sender: adbd may have to be read from before it takes more.
        """
        while self._acknowledgements and self._send_lock.acquire(blocking=False):
            try:
                while self._acknowledgements:
                    self._send(*self._acknowledgements.popleft())
            finally:
                self._send_lock.release()

    def _receive(self, deadline: Deadline) -> tuple[int, int, int, bytearray]:
        while (packet := self._read_packet(max(0.01, min(deadline.left(), READ_POLL_S)))) is None:
            if deadline.passed:
                raise WireError(f"no answer for {deadline.seconds:g} s")
        return packet

    def _read_packet(self, timeout: float) -> tuple[int, int, int, bytearray] | None:
        """The next packet; None when it was not there in time, or not whole."""
        if self._payload is None:
            if not self._fill(self._header, timeout):
                return None
            command, _, _, length, _, magic = _HEADER.unpack(self._header)
            if magic != command ^ 0xFFFFFFFF or length > MAX_PAYLOAD:
                raise WireError("what answers there does not speak adb's protocol")
            self._payload, self._got = bytearray(length), 0
        if not self._fill(self._payload, timeout):
            return None
        command, arg0, arg1, _, _, _ = _HEADER.unpack(self._header)
        payload, self._payload, self._got = self._payload, None, 0
        self._heard = time.monotonic()
        return command, arg0, arg1, payload

    def _fill(self, buffer: bytearray, timeout: float) -> bool:
        view = memoryview(buffer)
        while self._got < len(view):
            if self._lost is not None:
                raise WireError(self._lost)
            count = self._transport.read_into(view[self._got :], timeout)
            if count is None:
                return False
            self._got += count
        return True

    def _take_packet(self, timeout: float) -> bool:
        """Read a packet and hand it on; whether there was one."""
        packet = self._read_packet(timeout)
        if packet is None:
            return False
        command, arg0, arg1, data = packet
        with self._changed:
            stream = self._streams.get(arg1)
            if stream is None:
                if command == WRTE:
                    # Of a stream that we closed, which adbd may not know yet: it must not wait for us.
                    self._acknowledgements.append((OKAY, arg1, arg0))
                elif command == OKAY and arg1 in self._given_up:
                    # Only now it has a number by which it can be ended, with all that it would do.
                    self._given_up.discard(arg1)
                    self._acknowledgements.append((CLSE, arg1, arg0))
                elif command == CLSE:
                    self._given_up.discard(arg1)
            elif command == OKAY:
                stream.remote_id = stream.remote_id or arg0
                stream.credit += 1
            elif command == WRTE:
                stream.incoming.append(memoryview(data))
                stream.queued += len(data)
                stream.owed += 1
                self._owe_no_more(stream)
            elif command == CLSE:
                stream.ended = True
                self._streams.pop(stream.local_id, None)
        self._acknowledge()
        return True

    def _owe_no_more(self, stream: Stream) -> None:
        if stream.queued <= WINDOW_BYTES:
            self._acknowledgements.extend([(OKAY, stream.local_id, stream.remote_id)] * stream.owed)
            stream.owed = 0

    def _lose(self, reason: str) -> None:
        with self._changed:
            if self._lost is not None:
                return
            self._lost = reason
            self._streams.clear()
            self._changed.notify_all()
        self._transport.close()
