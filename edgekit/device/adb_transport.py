"""The bytes below adb's packets where no adb server stands between: a socket, or a USB device of adb-shell."""

from __future__ import annotations

import contextlib
import socket
from typing import Any, Protocol

from edgekit.device.adb_wire import WireError
from edgekit.device.base import printable

#: ``LIBUSB_ERROR_TIMEOUT``
_LIBUSB_TIMEOUT = -7


class Transport(Protocol):
    """Bytes both ways, in order. One thread reads at a time, and one writes."""

    def read_into(self, view: memoryview, timeout: float) -> int | None:
        """Read what comes next into ``view``; how much, or None when nothing came for ``timeout`` seconds.

        Raises:
            WireError: the other side is gone.
        """
        ...

    def write(self, data: memoryview, timeout: float) -> int:
        """Write some of ``data``; how much.

        Raises:
            WireError: the other side is gone, or took nothing for ``timeout`` seconds.
        """
        ...

    def close(self) -> None:
        """Close it; whoever waits in it comes back."""
        ...


class TcpTransport:
    """A connected socket."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        with contextlib.suppress(OSError):
            # Small packets must not wait for an acknowledgement, some 40 ms each.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        # Reading and writing have limits of their own: each has its own handle on the same connection.
        self._reader = sock.dup()

    def read_into(self, view: memoryview, timeout: float) -> int | None:
        """Read what comes next (see :class:`Transport`)."""
        try:
            self._reader.settimeout(timeout)
            count = self._reader.recv_into(view)
        except (TimeoutError, BlockingIOError):
            return None
        except OSError as error:
            raise WireError(f"connection lost ({error.strerror or error})") from error
        if not count:
            raise WireError("connection closed by the other side")
        return count

    def write(self, data: memoryview, timeout: float) -> int:
        """Write some of it (see :class:`Transport`)."""
        try:
            self._socket.settimeout(timeout)
            return self._socket.send(data)
        except TimeoutError as error:
            raise WireError(f"the device took nothing for {timeout:g} s") from error
        except OSError as error:
            raise WireError(f"connection lost ({error.strerror or error})") from error

    def close(self) -> None:
        """Close it."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._reader.close()


class UsbTransport:
    """A connected device of adb-shell's USB transport; its errors, libusb's, have no common ground."""

    def __init__(self, usb: Any) -> None:
        self._usb = usb

    def read_into(self, view: memoryview, timeout: float) -> int | None:
        """Read what comes next (see :class:`Transport`)."""
        try:
            data = self._usb.bulk_read(len(view), timeout)
        except Exception as error:
            if getattr(getattr(error, "usb_error", None), "value", None) == _LIBUSB_TIMEOUT:
                return None
            raise WireError(f"connection lost ({printable(str(error))})") from error
        view[: len(data)] = data
        return len(data)

    def write(self, data: memoryview, timeout: float) -> int:
        """Write all of it (see :class:`Transport`)."""
        try:
            sent = self._usb.bulk_write(bytes(data), timeout)
        except Exception as error:
            raise WireError(f"connection lost ({printable(str(error))})") from error
        return sent if isinstance(sent, int) and sent > 0 else len(data)

    def close(self) -> None:
        """Close it."""
        with contextlib.suppress(Exception):
            self._usb.close()
