"""The bytes below adb's packets where no adb server stands between: a socket, or a USB device of adb-shell."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterable
from typing import Any, Protocol

from edgekit.device.adb_wire import WireError
from edgekit.device.base import printable

#: ``LIBUSB_ERROR_TIMEOUT``
_LIBUSB_TIMEOUT = -7
#: libusb counts milliseconds, and 0 of them are none at all.
_LEAST_TIMEOUT_S = 0.001
#: The bit of an endpoint's address that says it leads to the host.
_ENDPOINT_IN = 0x80
#: Of an endpoint of USB 2.
_HIGH_SPEED_PACKET = 512


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
    """A connected device of adb-shell's USB transport; its errors, libusb's, have no common ground.

    An adbd reads a packet's head and its payload as transfers of their own. It sees where one ends by a packet of USB
    that is not full; where all are, an empty one must follow (docs/dev/zero_length_packet.md of Android's adb).
    """

    def __init__(self, usb: Any, packet_bytes: int) -> None:
        """Use a connected device.

        Args:
            usb: adb-shell's transport.
            packet_bytes: ``wMaxPacketSize`` of its outgoing endpoint (see :func:`usb_packet_bytes`).
        """
        self._usb = usb
        self._packet_bytes = packet_bytes

    def read_into(self, view: memoryview, timeout: float) -> int | None:
        """Read what comes next (see :class:`Transport`)."""
        try:
            # libusb takes no time at all for all the time there is.
            data = self._usb.bulk_read(len(view), max(timeout, _LEAST_TIMEOUT_S))
        except Exception as error:
            usb_error = getattr(error, "usb_error", None)
            if getattr(usb_error, "value", None) != _LIBUSB_TIMEOUT:
                raise WireError(f"connection lost ({printable(str(error))})") from error
            # Of a transfer that took longer, what has come until then is not sent again.
            data = getattr(usb_error, "received", b"")
        view[: len(data)] = data
        return len(data) or None

    def write(self, data: memoryview, timeout: float) -> int:
        """Write all of it (see :class:`Transport`)."""
        try:
            sent = self._usb.bulk_write(bytes(data), timeout)
            if sent != len(data):
                raise WireError(f"connection lost ({sent} of {len(data)} bytes were taken)")
            if len(data) and len(data) % self._packet_bytes == 0:
                self._usb.bulk_write(b"", timeout)
        except WireError:
            raise
        except Exception as error:
            raise WireError(f"connection lost ({printable(str(error))})") from error
        return len(data)

    def close(self) -> None:
        """Close it."""
        with contextlib.suppress(Exception):
            self._usb.close()


def usb_packet_bytes(endpoints: Iterable[Any]) -> int:
    """``wMaxPacketSize`` of the endpoint that leads to the device, from those of libusb's interface setting."""
    return next(
        (one.getMaxPacketSize() & 0x7FF for one in endpoints if not one.getAddress() & _ENDPOINT_IN), _HIGH_SPEED_PACKET
    )
