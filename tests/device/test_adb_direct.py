"""Saying hello to an adbd without an adb server: authorization, and what answers instead of an adbd.

Debian's adbd, which the boards run, asks for no authorization, so here a few lines stand in for
one: they check signatures with the key's public half, as adbd does. tests/board/test_authorization.py
has an adbd that does it.
"""

from __future__ import annotations

import base64
import socket
import stat
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgekit.device import adb_packets
from edgekit.device.adb_direct import DirectDevice
from edgekit.device.adb_packets import AUTH, AUTH_PUBLIC_KEY, AUTH_SIGNATURE, AUTH_TOKEN, CNXN, STLS
from edgekit.device.discover import resolve
from edgekit.errors import DeviceFailedError, DeviceUnavailableError, InputError, UnauthorizedError

TOKEN = bytes(range(20))
BANNER = b"device::ro.product.name=x;features=shell_v2,stat_v2\0"


def packet(command: int, arg0: int = 0, arg1: int = 0, data: bytes = b"") -> bytes:
    return struct.pack("<6I", command, arg0, arg1, len(data), 0, command ^ 0xFFFFFFFF) + data


def read_packet(file: socket.SocketIO) -> tuple[int, int, bytes]:
    command, arg0, _, length, _, _ = struct.unpack("<6I", file.read(24))
    return command, arg0, file.read(length)


def verifies(signature: bytes, public_key: bytes) -> bool:
    """Whether the signature of TOKEN was made with the private half of ``public_key`` (adb's format)."""
    key = base64.b64decode(public_key.split()[0])
    modulus, exponent = int.from_bytes(key[8:264], "little"), int.from_bytes(key[520:524], "little")
    decrypted = pow(int.from_bytes(signature, "big"), exponent, modulus).to_bytes(256, "big")
    return decrypted.startswith(b"\x00\x01\xff") and decrypted.endswith(TOKEN)


@pytest.fixture
def adbd() -> Iterator[Callable[[Callable[[socket.SocketIO], None]], str]]:
    """Starts a listener that treats each connection with the given function; returns its address."""
    listeners: list[socket.socket] = []

    def start(treat: Callable[[socket.SocketIO], None]) -> str:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection, connection.makefile("rwb", buffering=0) as file:
                    try:
                        treat(file)
                    except (OSError, struct.error):
                        continue

        threading.Thread(target=serve, daemon=True).start()
        return f"127.0.0.1:{listener.getsockname()[1]}"

    yield start
    for listener in listeners:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


@pytest.fixture(autouse=True)
def own_keys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("ANDROID_USER_HOME", str(tmp_path / "android"))
    monkeypatch.delenv("ADB_VENDOR_KEYS", raising=False)
    return tmp_path / "android"


def strict(trusted: list[bytes], allows: bool) -> Callable[[socket.SocketIO], None]:
    """An adbd that trusts the keys in ``trusted``; asked for another, its owner allows it or not."""

    def treat(file: socket.SocketIO) -> None:
        assert read_packet(file)[0] == CNXN
        file.write(packet(AUTH, AUTH_TOKEN, 0, TOKEN))
        while True:
            command, kind, data = read_packet(file)
            assert command == AUTH
            if kind == AUTH_SIGNATURE and any(verifies(data, key) for key in trusted):
                break
            if kind == AUTH_PUBLIC_KEY:
                if not allows:
                    file.read(1)  # the question stays on the screen
                    return
                trusted.append(data.rstrip(b"\0"))
                break
            file.write(packet(AUTH, AUTH_TOKEN, 0, TOKEN))
        file.write(packet(CNXN, 0x01000001, 4096, BANNER))
        file.read(1)

    return treat


def test_a_new_key_is_offered_and_then_trusted(
    adbd: Callable[[Callable[[socket.SocketIO], None]], str], own_keys: Path
) -> None:
    trusted: list[bytes] = []
    address = adbd(strict(trusted, allows=True))
    first = DirectDevice(address)
    assert first.features() == {"shell_v2", "stat_v2"}
    first.close()
    assert len(trusted) == 1
    again = DirectDevice(address)
    assert "shell_v2" in again.features()
    again.close()
    assert len(trusted) == 1, "the second time a signature was enough"
    assert stat.S_IMODE((own_keys / "adbkey").stat().st_mode) == 0o600


def test_who_is_not_allowed_is_told_what_to_do(
    adbd: Callable[[Callable[[socket.SocketIO], None]], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adb_packets, "AUTHORIZATION_TIMEOUT_S", 0.5)
    with pytest.raises(UnauthorizedError, match="does not trust this computer") as caught:
        DirectDevice(adbd(strict([], allows=False))).features()
    assert "allow USB debugging" in str(caught.value)
    assert caught.value.exit_code == 6


def test_a_file_that_is_no_key_is_named(
    adbd: Callable[[Callable[[socket.SocketIO], None]], str], own_keys: Path
) -> None:
    own_keys.mkdir()
    (own_keys / "adbkey").write_text("no key")
    with pytest.raises(InputError, match="adbkey"):
        DirectDevice(adbd(strict([], allows=True))).features()


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"", packet(CNXN)[:-1] + b"x", b"\xff" * 24])
def test_what_is_no_adbd_is_no_device(adbd: Callable[[Callable[[socket.SocketIO], None]], str], answer: bytes) -> None:
    def treat(file: socket.SocketIO) -> None:
        read_packet(file)
        file.write(answer)

    address = adbd(treat)
    with pytest.raises(DeviceFailedError, match="adb-direct:127") as failed:
        DirectDevice(address).run(["true"])
    with pytest.raises(DeviceUnavailableError, match="say hello") as caught:
        resolve(f"adb-direct:{address}")
    for error in (failed.value, caught.value):
        text = str(error)
        assert text.count("adb-direct:") == 1
        assert text.count("Next: ") == 1


def test_wireless_debugging_needs_an_adb_server(adbd: Callable[[Callable[[socket.SocketIO], None]], str]) -> None:
    def treat(file: socket.SocketIO) -> None:
        # One that closes before it has read may be gone while the host still says hello.
        read_packet(file)
        file.write(packet(STLS, 0x01000000))

    with pytest.raises(UnauthorizedError, match="encrypted"):
        DirectDevice(adbd(treat)).run(["true"])


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(DeviceFailedError, match="Connection refused"):
        DirectDevice(f"127.0.0.1:{port}").stat("/")
    with pytest.raises(DeviceUnavailableError, match="Connection refused") as caught:
        resolve(f"adb-direct:127.0.0.1:{port}")
    assert caught.value.exit_code == 6
    assert str(caught.value).count("Next: ") == 1


@pytest.mark.parametrize("spec", ["adb-direct:", "adb-direct:a b", "adb-direct:host:0", "adb-direct:host:99999", "usb"])
def test_addresses_that_are_none(spec: str) -> None:
    with pytest.raises(InputError):
        resolve(spec)


def test_addresses() -> None:
    for address in ("10.0.0.2", "[::1]:5555", "usb", "usb:R5CT1"):
        assert DirectDevice(address).name == f"adb-direct:{address}"
