"""adb's own protocol between a host and an adbd: packets, authorization, and streams over one connection.

adb-shell brings the transports (TCP, USB) and the signatures. Its own shell and file
services know no exit codes, wait for small packets to fill up and compute a checksum
of every byte in Python, so the streams over them are kept here.
"""

from __future__ import annotations

import contextlib
import itertools
import queue
import socket
import struct
import threading
from collections.abc import Callable
from typing import Any

from edgekit.device.adb_keys import Signer
from edgekit.device.adb_wire import RefusedError, Wire, WireError
from edgekit.device.base import Deadline, printable
from edgekit.errors import DeviceUnavailableError

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
#: ``LIBUSB_ERROR_TIMEOUT``
_LIBUSB_TIMEOUT = -7
#: The reader looks this often whether the connection was closed.
READ_POLL_S = 1.0


def _code(name: bytes) -> int:
    return int.from_bytes(name, "little")


CNXN, AUTH, OPEN, OKAY, WRTE, CLSE, STLS = (
    _code(name) for name in (b"CNXN", b"AUTH", b"OPEN", b"OKAY", b"WRTE", b"CLSE", b"STLS")
)


class Connection:
    """A connection to one adbd, over which any number of streams run at a time.

    ``transport`` is one of adb-shell's, connected. Its errors are of many kinds (sockets,
    libusb), hence the wide nets here: whatever they are, the connection is lost.
    """

    def __init__(self, transport: Any, signers: Callable[[], list[Signer]], name: str) -> None:
        """Say hello and be authorized.

        Raises:
            WireError: no adbd answers, or the connection breaks.
            DeviceUnavailableError: it does not trust this host.
        """
        self._transport = transport
        self._name = name
        self._send_lock = threading.Lock()
        self._lock = threading.Lock()
        self._streams: dict[int, Stream] = {}
        self._numbers = itertools.count(1)
        self._lost: str | None = None
        self._buffer = bytearray()
        self._max_payload = MAX_PAYLOAD
        self.features = ""
        try:
            self._hello(signers)
        except BaseException:
            self.close()
            raise
        threading.Thread(target=self._read_for_ever, name=f"adb {name}", daemon=True).start()

    @property
    def lost(self) -> bool:
        """Whether it is of no more use."""
        return self._lost is not None

    def open(self, service: bytes, deadline: Deadline) -> Stream:
        """A stream to a service of adbd.

        Raises:
            RefusedError: adbd does not offer it.
            WireError: the connection is lost, or there is no answer in time.
        """
        stream = Stream(self, next(self._numbers), self._max_payload)
        with self._lock:
            if self._lost is not None:
                raise WireError(self._lost)
            self._streams[stream.local_id] = stream
        self.send(OPEN, stream.local_id, 0, service + b"\0")
        try:
            stream.wait_until_open(deadline)
        except WireError:
            stream.close()
            raise
        return stream

    def send(self, command: int, arg0: int, arg1: int, data: bytes | memoryview = b"") -> None:
        """Send one packet.

        Raises:
            WireError: the connection is lost.
        """
        header = _HEADER.pack(command, arg0, arg1, len(data), 0, command ^ 0xFFFFFFFF)
        with self._send_lock:
            try:
                self._write(header)
                if data:
                    self._write(data)
            except WireError:
                raise
            except Exception as error:
                self._lose(f"connection lost ({error})")
                raise WireError(f"connection lost ({error})") from error

    def close(self) -> None:
        """Close it, and every stream over it."""
        self._lose("connection closed")
        with contextlib.suppress(Exception):
            self._transport.close()

    def forget(self, stream: Stream) -> None:
        """A stream is over."""
        with self._lock:
            self._streams.pop(stream.local_id, None)

    def _write(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        while view:
            if self._lost is not None:
                raise WireError(self._lost)
            sent = self._transport.bulk_write(view, WRITE_TIMEOUT_S)
            view = view[sent if isinstance(sent, int) else len(view) :]

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
                self._max_payload = min(MAX_PAYLOAD, arg1) or MAX_PAYLOAD
                banner = bytes(data).decode("utf-8", "replace")
                self.features = next(
                    (part[len("features=") :] for part in banner.split("::", 1)[-1].split(";") if "features=" in part),
                    "",
                ).rstrip("\0")
                return
            if command == STLS:
                raise DeviceUnavailableError(
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

    def _unauthorized(self) -> DeviceUnavailableError:
        return DeviceUnavailableError(
            "connect: it does not trust this computer's key",
            device=self._name,
            hint="unlock the screen and allow USB debugging for this computer, then try again",
        )

    def _receive(self, deadline: Deadline | None) -> tuple[int, int, int, bytearray]:
        command, arg0, arg1, length, _, magic = _HEADER.unpack(self._exactly(_HEADER.size, deadline))
        if magic != command ^ 0xFFFFFFFF or length > MAX_PAYLOAD:
            raise WireError("what answers there does not speak adb's protocol")
        return command, arg0, arg1, self._exactly(length, deadline)

    def _exactly(self, count: int, deadline: Deadline | None) -> bytearray:
        buffer = self._buffer
        while len(buffer) < count:
            if self._lost is not None:
                raise WireError(self._lost)
            if deadline is not None and deadline.passed:
                raise WireError(f"no answer for {deadline.seconds:g} s")
            try:
                piece = self._transport.bulk_read(MAX_PAYLOAD, READ_POLL_S)
            except Exception as error:
                if _is_timeout(error):
                    continue  # nothing said for a while, which is no sign of death
                raise WireError(f"connection lost ({printable(str(error))})") from error
            if not piece:
                raise WireError("connection closed by the other side")
            buffer += piece
        taken = buffer[:count]
        del buffer[:count]
        return taken

    def _read_for_ever(self) -> None:
        try:
            while True:
                command, arg0, arg1, data = self._receive(None)
                with self._lock:
                    stream = self._streams.get(arg1)
                if command not in (OKAY, WRTE, CLSE):
                    continue
                if stream is not None:
                    stream.take(command, arg0, data)
                elif command == WRTE:
                    # Of a stream that we closed: adbd must not wait for us.
                    self.send(CLSE, 0, arg0)
        except WireError as error:
            self._lose(str(error))
        with contextlib.suppress(Exception):
            self._transport.close()

    def _lose(self, reason: str) -> None:
        with self._lock:
            if self._lost is None:
                self._lost = reason
            streams = list(self._streams.values())
        for stream in streams:
            stream.take(CLSE, 0, b"")


def _is_timeout(error: Exception) -> bool:
    """Whether an error of adb-shell's transports says no more than that nothing came."""
    if type(error).__name__ == "TcpTimeoutException":
        return True
    return getattr(getattr(error, "usb_error", None), "value", None) == _LIBUSB_TIMEOUT


class Stream:
    """One stream of a :class:`Connection`, offered to its user as a socket.

    Two threads move the bytes: so a slow reader delays neither the other streams nor
    adbd's answers to them, and each side has at most one packet on its way.
    """

    def __init__(self, connection: Connection, local_id: int, max_payload: int) -> None:
        self.local_id = local_id
        self.socket, self._inner = socket.socketpair()
        for end in (self.socket, self._inner):
            for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
                end.setsockopt(socket.SOL_SOCKET, option, MAX_PAYLOAD)
        self._connection = connection
        self._max_payload = max_payload
        self._remote_id = 0
        self._opened = threading.Event()
        self._ready = threading.Semaphore(0)
        self._incoming: queue.SimpleQueue[bytes | bytearray | None] = queue.SimpleQueue()
        self._ended = threading.Event()
        self._workers: list[threading.Thread] = []

    def wait_until_open(self, deadline: Deadline) -> None:
        """Wait for adbd's answer.

        Raises:
            RefusedError: it said no.
            WireError: it said nothing in time, or the connection is lost.
        """
        while not self._opened.wait(min(0.2, max(0.0, deadline.left()))):
            if deadline.passed:
                raise WireError(f"not done after {deadline.seconds:g} s")
        if not self._remote_id:
            lost = self._connection.lost
            raise WireError("connection lost") if lost else RefusedError("adbd does not offer this service")
        self._workers = [threading.Thread(target=work, daemon=True) for work in (self._upwards, self._downwards)]
        for worker in self._workers:
            worker.start()

    def take(self, command: int, remote_id: int, data: bytes | bytearray) -> None:
        """A packet for this stream; called by the connection's reader, never waits."""
        if command == OKAY:
            if not self._opened.is_set():
                self._remote_id = remote_id
                self._opened.set()
            self._ready.release()
        elif command == WRTE:
            self._incoming.put(data)
        else:
            self._ended.set()
            self._opened.set()
            self._ready.release()
            self._incoming.put(None)

    def close(self) -> None:
        """End it; adbd hangs up on what ran over it."""
        # The workers wait on the other end of this pair, so they end now, too.
        self.socket.close()
        self._finish()
        for worker in self._workers:
            worker.join()
        self._inner.close()

    def _finish(self) -> None:
        self._connection.forget(self)
        if not self._ended.is_set():
            self._ended.set()
            with contextlib.suppress(WireError):
                self._connection.send(CLSE, self.local_id, self._remote_id)
        self._ready.release()
        self._incoming.put(None)

    def _upwards(self) -> None:
        """From the user to adbd, a packet at a time."""
        buffer = bytearray(self._max_payload)
        view = memoryview(buffer)
        try:
            while True:
                count = self._inner.recv_into(buffer)
                if not count:
                    break
                # More may be there already, and few large packets are faster than many small ones.
                while count < len(buffer):
                    try:
                        more = self._inner.recv_into(view[count:], 0, socket.MSG_DONTWAIT)
                    except BlockingIOError:
                        break
                    if not more:
                        break
                    count += more
                if not self._ended.is_set():
                    self._ready.acquire()
                # A command that has ended takes no more input, and what it said last is still to be read.
                if not self._ended.is_set():
                    self._connection.send(WRTE, self.local_id, self._remote_id, view[:count])
        except (OSError, WireError):
            pass
        self._finish()

    def _downwards(self) -> None:
        """From adbd to the user."""
        try:
            while (data := self._incoming.get()) is not None:
                self._inner.sendall(data)
                if not self._ended.is_set():
                    self._connection.send(OKAY, self.local_id, self._remote_id)
        except (OSError, WireError):
            pass
        with contextlib.suppress(OSError):
            self._inner.shutdown(socket.SHUT_WR)


class StreamWire(Wire):
    """A :class:`~edgekit.device.adb_wire.Wire` over a stream, which its first request opens."""

    def __init__(self, connection: Connection, deadline: Deadline) -> None:
        self._connection = connection
        self._deadline = deadline
        self._stream: Stream | None = None

    def request(self, service: bytes) -> None:
        """Ask the device's adbd for a service."""
        self._stream = self._connection.open(service, self._deadline)
        self.socket = self._stream.socket

    def close(self) -> None:
        """End the stream; the connection stays for others."""
        if self._stream is not None:
            self._stream.close()
