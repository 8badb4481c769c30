"""A way to a device that can be cut after any byte."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

#: ``up`` is towards the device.
Direction = Literal["up", "down"]


@dataclass
class Way:
    """Relays connections to an address. Cut once, it relays again: a cable that was plugged back in."""

    target: tuple[str, int]
    #: What has passed since :meth:`cut_after`, all connections together, in the order in which it passed.
    passed: dict[Direction, bytearray] = field(default_factory=lambda: {"up": bytearray(), "down": bytearray()})
    was_cut: bool = False
    _budget: tuple[Direction, int] | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _open: set[socket.socket] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut_after(self, direction: Direction | None, count: int = 0) -> None:
        """Cut every connection once ``count`` more bytes went in one direction; None never cuts."""
        with self._lock:
            self.passed = {"up": bytearray(), "down": bytearray()}
            self.was_cut = False
            self._budget = None if direction is None else (direction, count)

    def close(self) -> None:
        """End all."""
        self._listener.close()
        self._hang_up()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(self.target, 10)
                far.settimeout(None)
            except OSError:
                near.close()
                continue
            for sock in (near, far):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._open |= {near, far}
            for source, sink, direction in ((near, far, "up"), (far, near, "down")):
                threading.Thread(target=self._relay, args=(source, sink, direction), daemon=True).start()

    def _relay(self, source: socket.socket, sink: socket.socket, direction: Direction) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(65536):
                with self._lock:
                    cut = False
                    if self._budget is not None and self._budget[0] == direction:
                        left = self._budget[1]
                        cut = len(piece) >= left
                        piece = piece[:left]
                        self._budget = None if cut else (direction, left - len(piece))
                    self.passed[direction] += piece
                    # In the order of the record, whatever connection it belongs to.
                    sink.sendall(piece)
                    if cut:
                        self.was_cut = True
                if cut:
                    self._hang_up()
                    return
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    def _hang_up(self) -> None:
        with self._lock:
            connections, self._open = self._open, set()
        for sock in connections:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()


@contextlib.contextmanager
def way_to(host: str, port: int) -> Iterator[Way]:
    """A way to an address, closed in the end."""
    made = Way((host, port))
    try:
        yield made
    finally:
        made.close()


#: What begins a frame of the protocols between us and an adb server, or an adbd.
TAGS = (
    b"OKAY",
    b"SEND",
    b"DATA",
    b"DONE",
    b"STA2",
    b"RECV",
    b"CNXN",
    b"OPEN",
    b"WRTE",
    b"CLSE",
    b"host",
    b"shell",
    b"sync",
)


def boundaries(record: bytes, longest: int) -> list[int]:
    """Where to cut: around the first and the last of each kind of frame, inside of its head and of what follows.

    Args:
        record: what passed in one direction when nothing was cut.
        longest: bytes of a frame's head.
    """
    found = {1, max(1, len(record) - 1), max(1, len(record))}
    for tag in TAGS:
        first, last = record.find(tag), record.rfind(tag)
        for begin in {first, last} - {-1}:
            found |= {begin, begin + 2, begin + len(tag), begin + longest - 1, begin + longest, begin + longest + 1}
    return sorted(position for position in found if 0 < position <= len(record))
