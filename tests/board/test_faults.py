"""Devices that vanish, servers that are not there, names that mean nothing: each ends soon, with one clear message."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import board as boards
import pytest
from board import Board

from edgekit.deploy.store import Store, StoreFile
from edgekit.device import adb_wire, adbd_shell, conditions, facts
from edgekit.device.base import Device
from edgekit.device.discover import list_devices, resolve
from edgekit.errors import DeviceFailedError, DeviceUnavailableError, InputError, UnsupportedError
from edgekit.progress import ProgressEvent
from edgekit.schema.integrity import sha256_file

pytestmark = pytest.mark.board
MIB = 1 << 20
#: Far above what is needed on a busy machine, far below the deadlines of the calls themselves.
SOON_S = 60.0


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take silence for death sooner than for real devices, to save the tests' time."""
    monkeypatch.setattr(adbd_shell, "LIVENESS_S", 1.0)
    monkeypatch.setattr(adbd_shell, "LIVENESS_TIMEOUT_S", 2.0)
    monkeypatch.setattr(adb_wire, "STALL_S", 3.0)


@pytest.fixture
def victim(new_board: Callable[..., Board]) -> Board:
    return new_board()


def ends_soon(call: Callable[[], object]) -> DeviceFailedError:
    started = time.monotonic()
    with pytest.raises(DeviceFailedError) as caught:
        call()
    assert time.monotonic() - started < SOON_S
    assert caught.value.device is not None
    assert caught.value.device.startswith("adb:10.77.")
    return caught.value


#: A process that dies closes its connections; a cable that is pulled out closes none.
HOW = ["kill_adbd", "stop"]


@pytest.mark.parametrize("how", HOW)
def test_a_device_that_vanishes_during_a_push(victim: Board, impatient: None, tmp_path: Path, how: str) -> None:
    device = victim.device()
    data = tmp_path / "weights"
    data.write_bytes(os.urandom(48 * MIB))
    file = StoreFile("weights", data, data.stat().st_size, sha256_file(data))
    other = tmp_path / "small"
    other.write_bytes(b"small")
    kept = Store(device).place("bundles", [StoreFile("small", other, 5, sha256_file(other))])
    cut = []

    def vanish(event: ProgressEvent) -> None:
        if (event.done or 0) > 8 * MIB and not cut:
            getattr(victim, how)()
            cut.append(event.done)

    error = ends_soon(lambda: Store(device).place("bundles", [file], progress=vanish))
    assert cut
    assert "push weights" in error.message
    assert error.hint

    # The same call is all it takes once the device is back, although the server may take it for still connected.
    victim.restart()
    again = resolve(f"adb:{victim.serial}")
    # What had arrived is not sent again.
    assert 32 * MIB < Store(again).place("bundles", [file]).bytes_sent < 48 * MIB
    assert again.run(["sha256sum", f"{again.root}/objects/{file.sha256}"]).stdout.decode().split()[0] == file.sha256
    assert again.run(["cat", f"{kept.directory}/small"]).stdout == b"small"
    assert b".part" not in again.run(["find", again.root]).stdout


@pytest.mark.parametrize("how", HOW)
def test_a_device_that_vanishes_during_a_stream(victim: Board, impatient: None, how: str) -> None:
    device = victim.device()
    heard: list[bytes] = []
    timer = threading.Timer(1.0, getattr(victim, how))

    def hear(piece: bytes) -> None:
        if not heard:
            timer.start()
        heard.append(piece)

    error = ends_soon(
        lambda: device.stream(["sh", "-c", "while true; do echo tick; sleep 0.1; done"], on_stdout=hear, timeout=3600)
    )
    assert "run sh" in error.message
    # What arrived before is not lost.
    assert b"".join(heard).startswith(b"tick\ntick\n")


def test_a_silent_command_on_a_dead_device_is_noticed(victim: Board, impatient: None) -> None:
    """A cable pulled out closes no connection: adbd itself must be asked."""
    device = victim.device()
    timer = threading.Timer(1.5, lambda: victim.enter(["ip", "link", "set", "eth0", "down"]))

    def hear(piece: bytes) -> None:
        timer.start()

    ends_soon(lambda: device.stream(["sh", "-c", "echo ready; sleep 3000"], on_stdout=hear, timeout=3600))


def test_a_silent_command_on_a_live_device_is_left_alone(x86_board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adbd_shell, "LIVENESS_S", 0.2)
    done = x86_board.device().stream(["sh", "-c", "sleep 2; echo done"], on_stdout=lambda piece: None, timeout=60)
    assert done.exit_code == 0


def test_calls_to_a_device_that_is_gone(victim: Board, impatient: None, tmp_path: Path) -> None:
    device = victim.device()
    assert device.run(["true"]).exit_code == 0
    victim.stop()
    (tmp_path / "f").touch()
    for call, doing in (
        (lambda: device.run(["true"], timeout=5), "run true"),
        (lambda: device.push(tmp_path / "f", "/data/local/tmp/f", timeout=5), "push f"),
        (lambda: device.pull("/etc/hostname", tmp_path / "g", timeout=5), "/etc/hostname"),
        (lambda: device.stat("/etc/hostname", timeout=5), "look at /etc/hostname"),
    ):
        assert doing in ends_soon(call).message


def test_no_server_can_be_started(adb_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(boards.free_port()))
    monkeypatch.setenv("ADBUTILS_ADB_PATH", "/bin/false")
    with pytest.raises(DeviceUnavailableError, match="start an adb server with /bin/false") as caught:
        resolve("adb")
    assert caught.value.hint
    monkeypatch.setenv("ADBUTILS_ADB_PATH", "/nonexistent/adb")
    with pytest.raises(DeviceUnavailableError, match="start an adb server"):
        resolve("adb")
    # A list shows what there is, and says what is missing.
    local, adb = list_devices()
    assert (local.name, local.state) == ("local", "device")
    assert (adb.name, adb.state) == ("adb", "no server")
    assert "start an adb server" in (adb.advice or "")


@pytest.mark.parametrize("adb", ["on the PATH", "of adbutils"])
def test_a_server_is_started_where_there_is_none(
    x86_board: Board, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, adb: str
) -> None:
    if adb == "of adbutils":
        monkeypatch.setenv("PATH", str(tmp_path))
    port = boards.free_port()
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(port))
    for name in ("HOME", "ANDROID_USER_HOME", "ANDROID_SDK_HOME", "TMPDIR"):
        monkeypatch.setenv(name, str(tmp_path))
    for name in ("ADB_MDNS", "ADB_MDNS_OPENSCREEN"):
        monkeypatch.setenv(name, "0")
    try:
        assert resolve(f"adb:{x86_board.serial}").run(["echo", "hello"]).stdout == b"hello\n"
    finally:
        with socket.create_connection(("127.0.0.1", port)) as server:
            server.sendall(b"0009host:kill")
            server.recv(4)


def test_servers_elsewhere_are_not_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADB_SERVER_SOCKET", "tcp:127.0.0.2:1")
    with pytest.raises(DeviceUnavailableError, match=r"127\.0\.0\.2:1: nobody answers"):
        resolve("adb")


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("ADB_SERVER_SOCKET", "localfilesystem:/tmp/adb", UnsupportedError),
        ("ADB_SERVER_SOCKET", "tcp:127.0.0.1:", InputError),
        ("ANDROID_ADB_SERVER_PORT", "seventy", InputError),
        ("ANDROID_ADB_SERVER_PORT", "70000", InputError),
    ],
)
def test_variables_that_cannot_be_understood(
    name: str, value: str, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(error, match=name):
        resolve("adb")


def test_older_devices_are_asked_in_the_older_way(x86_board: Board) -> None:
    device = x86_board.device()
    modern = [device.stat(path) for path in ("/etc/hostname", "/etc", "/missing")]
    device._features = frozenset({"shell_v2"})
    assert [device.stat(path) for path in ("/etc/hostname", "/etc", "/missing")] == modern
    device._features = frozenset({"cmd"})
    with pytest.raises(UnsupportedError, match="cannot tell exit codes"):
        device.run(["true"])


def test_names_of_devices(new_board: Callable[..., Board], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with boards.adb_server(tmp_path / "adb") as variables:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(DeviceUnavailableError, match="knows none"):
            resolve("adb")
        first = new_board()
        assert resolve(f"adb:{first.serial}").name == f"adb:{first.serial}"
        assert resolve("adb").name == f"adb:{first.serial}"
        with pytest.raises(DeviceUnavailableError) as caught:
            resolve("adb:NOSUCHSERIAL")
        assert caught.value.device == "adb:NOSUCHSERIAL"
        assert f"adb:{first.serial}" in (caught.value.hint or "")
        with pytest.raises(DeviceUnavailableError, match=r"adb connect: .*refused"):
            resolve(f"adb:{first.host}:1")

        second = new_board()
        monkeypatch.setenv("ANDROID_SERIAL", first.serial)
        assert resolve(None).name == f"adb:{first.serial}"
        monkeypatch.delenv("ANDROID_SERIAL")
        assert resolve(None).name == resolve("local").name == "local"
        second.device()
        with pytest.raises(DeviceUnavailableError, match="there are several") as caught:
            resolve("adb")
        assert f"adb:{second.serial}" in (caught.value.hint or "")
        listed = {record.name: record for record in list_devices()}
        assert {f"adb:{first.serial}", f"adb:{second.serial}", "local"} == set(listed)
        assert listed[f"adb:{first.serial}"].abi == "linux-x86_64"
        assert listed[f"adb:{first.serial}"].state == "device"
        assert listed[f"adb:{first.serial}"].serial == first.serial
        assert listed[f"adb:{first.serial}"].free_bytes
    for bad in ("phone", "adb:", "local:1", "", "adb:a b", "adb:x\n", "usb:1"):
        with pytest.raises(InputError):
            resolve(bad)


def test_facts_of_a_native_board(x86_board: Board) -> None:
    found = facts.gather(x86_board.device())
    assert (found.abi, found.transport, found.fidelity) == ("linux-x86_64", "adb", "real")
    assert found.os.startswith("Debian GNU/Linux 13")
    assert found.cpus == os.cpu_count()
    assert sum(len(cluster.cpus) for cluster in found.clusters) == found.cpus
    assert found.memory_bytes == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert found.kernel == os.uname().release


def test_an_emulated_board_is_known_for_one(arm_board: Board) -> None:
    if not boards.emulated("arm64"):
        pytest.skip("this machine is an arm64 itself")
    found = facts.gather(arm_board.device())
    assert (found.abi, found.fidelity) == ("linux-arm64", "emulated")
    assert "qemu" in (found.fidelity_reason or "")
    assert {cluster.name for cluster in found.clusters} == {"Cortex-A55"}


def test_free_space_is_that_of_the_store(new_board: Callable[..., Board]) -> None:
    device = new_board(storage_bytes=32 * MIB).device()
    free = facts.gather(device).free_bytes
    assert free is not None
    assert 30 * MIB < free <= 32 * MIB


def test_the_shell_user_of_a_phone_suffices(new_board: Callable[..., Board], tmp_path: Path) -> None:
    """uid 2000 owns nothing but /data/local/tmp."""
    device = new_board(user=2000).device()
    assert device.run(["id", "-u"]).stdout == b"2000\n"
    assert facts.gather(device).fidelity == "real"
    assert conditions.read(device).load_1m is not None
    (tmp_path / "f").write_bytes(b"content")
    placed = Store(device).place("bundles", [StoreFile("f", tmp_path / "f", 7, sha256_file(tmp_path / "f"))])
    assert device.run(["cat", f"{placed.directory}/f"]).stdout == b"content"
    with pytest.raises(DeviceFailedError, match=r"Permission denied|Read-only"):
        device.push(tmp_path / "f", "/usr/f")
    with pytest.raises(DeviceFailedError, match="not done after"):
        device.run(["sleep", "1234"], timeout=0.5)
    assert b"sleep" not in device.run(["ps", "-e"]).stdout


def test_conditions(arm_board: Board, x86_board: Board) -> None:
    for board in (arm_board, x86_board):
        device: Device = board.device()
        felt = conditions.read(device)
        assert felt.load_1m is not None
        assert felt.memory_available_bytes is not None
        assert felt.memory_available_bytes > 0
        assert felt.battery_percent is None
        assert felt.charging is None
