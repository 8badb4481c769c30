"""A phone's USB port before a real adbd: what libusb and Android's adbd make of packets, without a cable.

It stands where adb-shell has libusb's device, so everything above that is the code that talks to phones. What it
enforces is what the two sides of a real cable do: transfers consist of packets and end with one that is not full, or
with a full buffer; a packet that has no room is an error; a time limit of 0 is none; what came of a transfer before
its time was over is told with the error; adbd reads into buffers of 16 KiB, takes heads and payloads only as transfers
of their own, and sends no empty packets.
"""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

#: ``wMaxPacketSize`` of USB 2's bulk endpoints.
PACKET_BYTES = 512
#: ``kUsbReadSize`` and ``kUsbWriteSize`` of Android's adbd.
BUFFER_BYTES = 16384
#: Of what the device sends, as much waits for the host as a controller holds.
WAITING_PACKETS = 4096
_HEAD_BYTES = 24


class Endpoint:
    """One of the two."""

    def __init__(self, address: int) -> None:
        self._address = address

    def getAddress(self) -> int:
        """With the bit 0x80 it leads to the host."""
        return self._address

    def getMaxPacketSize(self) -> int:
        """Bytes of a full packet."""
        return PACKET_BYTES


class Setting:
    """The interface by which adb is recognized."""

    def iterEndpoints(self) -> Iterator[Endpoint]:
        """In and out."""
        yield Endpoint(0x81)
        yield Endpoint(0x01)

    def getNumber(self) -> int:
        """Of the interface."""
        return 0


class Phone:
    """libusb's device, before an adbd that listens on TCP."""

    def __init__(self, host: str, port: int, *, pauses: bool = True) -> None:
        """Describe it.

        Args:
            host: where the adbd is.
            port: where it listens.
            pauses: now and then it takes longer between two packets than a short time limit.
        """
        self._address = host, port
        self._pauses = pauses
        self.handles: list[Handle] = []

    def open(self) -> Handle:
        """Plug it in."""
        self.handles.append(Handle(socket.create_connection(self._address, 10), self._pauses))
        return self.handles[-1]

    def getSerialNumber(self) -> str:
        """As `adb devices` would list it."""
        return "USB0001"


class Handle:
    """libusb's open device."""

    def __init__(self, adbd: socket.socket, pauses: bool) -> None:
        adbd.settimeout(None)
        adbd.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._adbd = adbd
        self._chance = random.Random(5) if pauses else None
        self._packets: deque[bytes] = deque()
        self._changed = threading.Condition()
        self._gone = False
        #: What adbd's current buffer holds, what of the current packet it has, and how long that is.
        self._buffer = bytearray()
        self._taken = bytearray()
        self._expected = _HEAD_BYTES
        #: What adbd did not like.
        self.faults: list[str] = []
        threading.Thread(target=self._send_packets, daemon=True).start()

    def kernelDriverActive(self, interface: int) -> bool:
        """No driver holds it."""
        return False

    def claimInterface(self, interface: int) -> None:
        """It is ours."""

    def releaseInterface(self, interface: int) -> None:
        """It is not any more."""

    def close(self) -> None:
        """Pull it out."""
        with self._changed:
            self._gone = True
            self._changed.notify_all()
        with contextlib.suppress(OSError):
            self._adbd.shutdown(socket.SHUT_RDWR)
        self._adbd.close()

    def bulkRead(self, endpoint: int, length: int, timeout: int = 0) -> bytearray:
        """One transfer to the host of at most ``length`` bytes, within so many milliseconds."""
        import usb1

        if endpoint & 0x80 == 0:
            raise AssertionError("read from the endpoint that leads to the device")
        if not timeout:
            raise AssertionError("a transfer that waits for ever")
        end = time.monotonic() + timeout / 1000
        data = bytearray()
        while len(data) < length:
            with self._changed:
                while not self._packets:
                    if self._gone:
                        raise usb1.USBErrorNoDevice()
                    left = end - time.monotonic()
                    if left <= 0:
                        error = usb1.USBErrorTimeout()
                        error.received, error.transferred = data, len(data)
                        raise error
                    self._changed.wait(left)
                packet = self._packets.popleft()
                self._changed.notify_all()
            if len(data) + len(packet) > length:
                raise usb1.USBErrorOverflow()
            data += packet
            if len(packet) < PACKET_BYTES:
                break
        return data

    def bulkWrite(self, endpoint: int, data: bytes, timeout: int = 0) -> int:
        """One transfer to the device."""
        import usb1

        if endpoint & 0x80:
            raise AssertionError("written to the endpoint that leads to the host")
        view = memoryview(data)
        if not view:
            self._take(b"")
        while view:
            packet, view = view[:PACKET_BYTES], view[PACKET_BYTES:]
            self._take(packet)
        if self._gone:
            raise usb1.USBErrorNoDevice()
        return len(data)

    def _take(self, packet: bytes | memoryview) -> None:
        """Adbd's half of a packet to the device."""
        self._buffer += packet
        if len(packet) == PACKET_BYTES and len(self._buffer) < BUFFER_BYTES:
            return
        transfer, self._buffer = self._buffer, bytearray()
        if not transfer:
            return
        if self._expected == _HEAD_BYTES and not self._taken and len(transfer) != _HEAD_BYTES:
            self._fault(f"received packet of unexpected length while reading header: {len(transfer)}")
        elif len(self._taken) + len(transfer) > self._expected:
            self._fault("received too many bytes while waiting for payload")
        else:
            self._taken += transfer
            if len(self._taken) == _HEAD_BYTES:
                self._expected = _HEAD_BYTES + struct.unpack_from("<I", self._taken, 12)[0]
            if len(self._taken) == self._expected:
                with contextlib.suppress(OSError):
                    self._adbd.sendall(self._taken)
                self._taken, self._expected = bytearray(), _HEAD_BYTES

    def _fault(self, text: str) -> None:
        self.faults.append(text)
        self.close()

    def _send_packets(self) -> None:
        """Adbd's half of transfers to the host: heads and payloads by themselves, these in pieces of its buffers."""
        stream = self._adbd.makefile("rb")
        with contextlib.suppress(OSError, ValueError):
            while len(head := stream.read(_HEAD_BYTES)) == _HEAD_BYTES:
                self._offer(head)
                left = struct.unpack_from("<I", head, 12)[0]
                while left and (piece := stream.read(min(left, BUFFER_BYTES))):
                    self._offer(piece)
                    left -= len(piece)
        with self._changed:
            self._gone = True
            self._changed.notify_all()

    def _offer(self, transfer: bytes) -> None:
        for begin in range(0, len(transfer), PACKET_BYTES):
            if self._chance is not None and self._chance.random() < 0.001:
                time.sleep(0.005)
            with self._changed:
                while len(self._packets) >= WAITING_PACKETS and not self._gone:
                    self._changed.wait(1.0)
                self._packets.append(transfer[begin : begin + PACKET_BYTES])
                self._changed.notify_all()


def plug_in(patch: Any, phone: Phone) -> None:
    """Let adb-shell find the phone; its own transport is used from there on."""
    from adb_shell.transport.usb_transport import UsbTransport

    def find_adb(serial: str | None = None, **options: float) -> UsbTransport:
        return UsbTransport(phone, Setting(), default_transport_timeout_s=options["default_transport_timeout_s"])

    patch.setattr(UsbTransport, "find_adb", find_adb)
