"""A device over USB, as far as that goes without a cable: adb-shell's transport before a real adbd (usb_pipe.py)."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from board import ADBD_PORT, Board
from usb_pipe import BUFFER_BYTES, PACKET_BYTES, Phone, plug_in

from edgekit.deploy.store import Store, StoreFile
from edgekit.device.adb_direct import DirectDevice
from edgekit.device.adb_transport import UsbTransport
from edgekit.device.adb_wire import WireError
from edgekit.device.base import Device
from edgekit.device.discover import resolve
from edgekit.errors import DeviceFailedError, DeviceUnavailableError
from edgekit.schema.integrity import sha256_file

usb1 = pytest.importorskip("usb1", reason="NO USB, NOT TESTED: the extra `usb` (and libusb-1.0) is not installed")

MIB = 1 << 20


@pytest.fixture
def phone(x86_board: Board) -> Phone:
    return Phone(x86_board.host, ADBD_PORT)


@pytest.fixture
def device(phone: Phone, monkeypatch: pytest.MonkeyPatch) -> Iterator[Device]:
    plug_in(monkeypatch, phone)
    found = resolve("adb-direct:usb")
    assert isinstance(found, DirectDevice)
    yield found
    found.close()
    assert [fault for handle in phone.handles for fault in handle.faults] == []


@pytest.mark.board
def test_one_call_after_another_over_one_connection(device: Device, phone: Phone) -> None:
    for number in range(5):
        done = device.run(["sh", "-c", f"echo {number}; echo error >&2; exit {number}"])
        assert (done.exit_code, done.stdout, done.stderr) == (number, b"%d\n" % number, b"error\n")
    assert len(phone.handles) == 1


@pytest.mark.board
@pytest.mark.parametrize("size", [PACKET_BYTES - 1, PACKET_BYTES, PACKET_BYTES + 1, 2 * PACKET_BYTES])
def test_requests_that_fill_packets_arrive(device: Device, size: int) -> None:
    """A payload of full packets ends only where an empty one follows."""
    # What is asked for begins with a word and a number of 4 bytes each.
    path = "/" + "/".join(["x" * 99] * 11)
    assert device.stat(path[: size - 8].rstrip("/").ljust(size - 8, "y"), timeout=10) is None


@pytest.mark.board
@pytest.mark.parametrize("size", [BUFFER_BYTES - 16, BUFFER_BYTES - 16 + PACKET_BYTES, MIB])
def test_inputs_and_files_that_fill_packets_arrive(device: Device, size: int, tmp_path: Path) -> None:
    data = os.urandom(size)
    assert device.run(["cat"], stdin=data, timeout=10).stdout == data
    (tmp_path / "file").write_bytes(data)
    remote = f"/data/local/tmp/{tmp_path.name}"
    # Frames of 64 KiB have heads of 8 bytes, and one more ends the file.
    device.push(tmp_path / "file", remote, timeout=10)
    assert device.run(["cat", remote]).stdout == data
    device.run(["rm", remote])


@pytest.mark.board
def test_files_and_commands_at_once(device: Device, phone: Phone, tmp_path: Path) -> None:
    """Each look whether the connection lives is a short read, which may end in the middle of a packet."""
    there, back = tmp_path / "there", tmp_path / "back"
    there.write_bytes(os.urandom(6 * MIB))
    remote = f"/data/local/tmp/{tmp_path.name}"
    said: list[bytes] = []
    talk = threading.Thread(target=lambda: said.extend(device.run(["echo", str(n)]).stdout for n in range(20)))
    talk.start()
    device.push(there, remote)
    device.pull(remote, back)
    talk.join()
    assert back.read_bytes() == there.read_bytes()
    assert said == [b"%d\n" % number for number in range(20)]
    assert len(phone.handles) == 1
    device.run(["rm", remote])


@pytest.mark.board
def test_a_cable_that_is_pulled_out_and_put_in_again(device: Device, phone: Phone, tmp_path: Path) -> None:
    assert device.run(["true"]).exit_code == 0
    phone.handles[-1].close()
    (tmp_path / "weights").write_bytes(os.urandom(MIB))
    file = StoreFile("weights", tmp_path / "weights", MIB, sha256_file(tmp_path / "weights"))
    root = f"/data/local/tmp/{tmp_path.name}"
    over_usb = DirectDevice("usb", root)
    timer = threading.Timer(0.2, lambda: phone.handles[-1].close())
    timer.start()
    with pytest.raises((DeviceFailedError, DeviceUnavailableError)):
        over_usb.run(["sleep", "60"])
    timer.join()
    placed = Store(over_usb).place("bundles", [file])
    assert over_usb.run(["cat", f"{placed.directory}/weights"]).stdout == file.local.read_bytes()
    over_usb.run(["rm", "-rf", root])
    over_usb.close()


class Broken:
    """A device that gives these errors."""

    def __init__(self, error: Exception) -> None:
        self.usb_error = error

    def bulk_read(self, count: int, timeout: float) -> bytes:
        from adb_shell.exceptions import UsbReadFailedError

        raise UsbReadFailedError("no", self.usb_error)

    def bulk_write(self, data: bytes, timeout: float) -> int:
        return len(data) // 2


def test_what_came_before_a_time_limit_is_kept() -> None:
    error = usb1.USBErrorTimeout()
    error.received = bytearray(b"begin")
    buffer = memoryview(bytearray(16))
    assert UsbTransport(Broken(error), PACKET_BYTES).read_into(buffer, 0.0) == 5
    assert bytes(buffer[:5]) == b"begin"
    error.received = bytearray()
    assert UsbTransport(Broken(error), PACKET_BYTES).read_into(buffer, 0.0) is None


def test_other_errors_are_the_end() -> None:
    transport = UsbTransport(Broken(usb1.USBErrorNoDevice()), PACKET_BYTES)
    with pytest.raises(WireError, match="connection lost"):
        transport.read_into(memoryview(bytearray(16)), 1.0)
    with pytest.raises(WireError, match="4 of 8 bytes were taken"):
        transport.write(memoryview(bytes(8)), 1.0)
