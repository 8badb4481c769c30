"""A stream of a connection to an adbd as a :class:`~edgekit.device.adb_wire.Wire`."""

from __future__ import annotations

import contextlib
import socket
import threading

from edgekit.device.adb_packets import MAX_PAYLOAD, Connection, Stream
from edgekit.device.adb_wire import Wire, WireError
from edgekit.device.base import Deadline

#: Far beyond any call; a stream's threads end when it is closed.
_NEVER = 10.0 * 365 * 24 * 3600


class StreamWire(Wire):
    """A wire over a stream, which its first request opens.

    Commands need to be read from and written to at the same time, so they get a real socket and threads that move
    bytes; file copies take turns with the device, and use the stream as it is.
    """

    def __init__(self, connection: Connection, deadline: Deadline) -> None:
        self._connection = connection
        self._deadline = deadline
        self._stream: Stream | None = None
        self._pump: _Pump | None = None

    def request(self, service: bytes) -> None:
        """Ask the device's adbd for a service."""
        self._stream = self._connection.open(service, self._deadline)
        if not service.startswith(b"sync:"):
            self._pump = _Pump(self._stream)
            self.socket = self._pump.socket

    def send(self, data: bytes | memoryview) -> None:
        """Send all of it."""
        if self._pump is not None:
            super().send(data)
        else:
            self._open_stream().send(data, self._deadline)

    def receive_into(self, view: memoryview) -> int:
        """Whatever comes next; how much, 0 at the end."""
        if self._pump is not None:
            return super().receive_into(view)
        return self._open_stream().receive_into(view, self._deadline)

    def pending(self) -> bool:
        """Whether something was received that nobody has read."""
        return self._open_stream().pending

    def close(self) -> None:
        """End the stream; the connection stays for others."""
        if self._pump is not None:
            self._pump.close()
        elif self._stream is not None:
            self._stream.close()

    def _open_stream(self) -> Stream:
        if self._stream is None:
            raise WireError("nothing was asked for yet")
        return self._stream


class _Pump:
    """Offers a stream as a socket: two threads move the bytes."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self.socket, self._inner = socket.socketpair()
        for end in (self.socket, self._inner):
            for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
                end.setsockopt(socket.SOL_SOCKET, option, MAX_PAYLOAD)
        self._workers = [threading.Thread(target=work, daemon=True) for work in (self._upwards, self._downwards)]
        for worker in self._workers:
            worker.start()

    def close(self) -> None:
        """End it."""
        # The workers wait on the other end of this pair, or for the stream.
        self.socket.close()
        self._stream.close()
        for worker in self._workers:
            worker.join()
        self._inner.close()

    def _upwards(self) -> None:
        """From the user to adbd."""
        buffer = memoryview(bytearray(MAX_PAYLOAD))
        try:
            while count := self._inner.recv_into(buffer):
                # A command that has ended takes no more input, and what it said last is still to be read.
                self._stream.send(buffer[:count], Deadline(_NEVER))
        except (OSError, WireError):
            pass
        self._stream.close()

    def _downwards(self) -> None:
        """From adbd to the user."""
        buffer = memoryview(bytearray(MAX_PAYLOAD))
        try:
            while count := self._stream.receive_into(buffer, Deadline(_NEVER)):
                self._inner.sendall(buffer[:count])
        except (OSError, WireError):
            pass
        with contextlib.suppress(OSError):
            self._inner.shutdown(socket.SHUT_WR)
