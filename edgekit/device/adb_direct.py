"""A device reached without an adb server: straight over TCP, or over USB by adb-shell's transport."""

from __future__ import annotations

import re
import socket
import threading
from typing import Literal

from edgekit.device.adb_keys import signers
from edgekit.device.adb_packets import Connection
from edgekit.device.adb_streams import StreamWire
from edgekit.device.adb_transport import TcpTransport, Transport, UsbTransport, usb_packet_bytes
from edgekit.device.adb_wire import Wire, WireError
from edgekit.device.adbd import AdbdDevice
from edgekit.device.base import Deadline, printable
from edgekit.errors import DeviceUnavailableError, InputError

#: adbd's usual port (``adb tcpip 5555``).
DEFAULT_PORT = 5555
#: A device on the network answers a connection within this, or is not there.
CONNECT_TIMEOUT_S = 10.0
_IS_IT_THERE = "is adbd listening there (`adb tcpip 5555` on a phone), and is the address right?"
_ADDRESS = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::(?P<port>[0-9]{1,5}))?\Z")
_USB = re.compile(r"usb(?::(?P<serial>[A-Za-z0-9._:-]{1,256}))?\Z")


class DirectDevice(AdbdDevice):
    """A device whose adbd we talk to ourselves. One connection serves all calls; a lost one is made anew."""

    transport: Literal["adb-direct"] = "adb-direct"
    lost_hint = "see whether it is on and within reach, and start again"

    def __init__(self, address: str, root: str | None = None) -> None:
        """Address a device; nothing is asked of it yet.

        Args:
            address: ``HOST``, ``HOST:PORT``, ``usb`` (the only one plugged in) or ``usb:SERIAL``.
            root: as in :class:`~edgekit.device.adbd.AdbdDevice`.

        Raises:
            InputError: the address has no such form.
        """
        super().__init__(root)
        self.address = address
        self._usb = _USB.match(address)
        self._tcp = None if self._usb else _ADDRESS.match(address)
        if not self._usb and not (self._tcp and 0 < int(self._tcp["port"] or DEFAULT_PORT) < 65536):
            raise InputError(
                f"use device {self.name!r}: {address!r} is no address",
                hint="adb-direct:HOST[:PORT], adb-direct:usb or adb-direct:usb:SERIAL",
            )
        self._connection: Connection | None = None
        self._connecting = threading.Lock()

    @property
    def name(self) -> str:
        """``adb-direct:ADDRESS``."""
        return f"adb-direct:{self.address}"

    def _open(self, deadline: Deadline) -> Wire:
        return StreamWire(self._connected(), deadline)

    def _ask_features(self) -> str:
        return self._connected().features

    def connect(self) -> None:
        """See that it can be used.

        Raises:
            DeviceUnavailableError: nobody answers there, it is no adbd, or it does not trust this host.
        """
        self._connected()

    def close(self) -> None:
        """Close the connection; the next call makes a new one."""
        with self._connecting:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _connected(self) -> Connection:
        with self._connecting:
            if self._connection is not None and not self._connection.answers():
                self._connection.close()
                self._connection = None
            if self._connection is None:
                transport = self._usb_transport() if self._usb else self._tcp_transport()
                try:
                    self._connection = Connection(transport, signers, self.name)
                except WireError as error:
                    raise DeviceUnavailableError(
                        f"say hello to its adbd: {error}", device=self.name, hint=_IS_IT_THERE
                    ) from error
            return self._connection

    def _tcp_transport(self) -> Transport:
        if self._tcp is None:
            raise AssertionError("an address of TCP was checked before")
        address = self._tcp["host"].strip("[]"), int(self._tcp["port"] or DEFAULT_PORT)
        try:
            return TcpTransport(socket.create_connection(address, CONNECT_TIMEOUT_S))
        except OSError as error:
            raise DeviceUnavailableError(
                f"connect: {error.strerror or error}",
                device=self.name,
                hint=_IS_IT_THERE,
            ) from error

    def _usb_transport(self) -> Transport:
        try:
            from adb_shell.exceptions import UsbDeviceNotFoundError
            from adb_shell.transport.usb_transport import UsbTransport as Usb
        except (ImportError, OSError) as error:
            raise DeviceUnavailableError(
                f"connect over USB: {error}",
                device=self.name,
                hint="install edgekit-slm[usb] and libusb-1.0 (Debian and Ubuntu: `apt install libusb-1.0-0`)",
            ) from error
        serial = self._usb["serial"] if self._usb else None
        try:
            usb = Usb.find_adb(serial=serial, default_transport_timeout_s=CONNECT_TIMEOUT_S)
            usb.connect(CONNECT_TIMEOUT_S)
        except UsbDeviceNotFoundError as error:
            raise DeviceUnavailableError(
                "connect over USB: no such device",
                device=self.name,
                hint="plug it in, allow USB debugging, and end an adb server that holds it (`adb kill-server`)",
            ) from error
        except Exception as error:  # libusb's errors have no common ground
            raise DeviceUnavailableError(
                f"connect over USB: {printable(str(error)) or type(error).__name__}",
                device=self.name,
                hint="end an adb server that holds it (`adb kill-server`), and see that this user may use it",
            ) from error
        return UsbTransport(usb, usb_packet_bytes(usb._setting.iterEndpoints()))
