"""An adbd that lets nobody in without a key it trusts, as a phone's does, through both transports.

It is built once by authorizing_adbd.sh (Debian 12, root): ``make authorization``. Until then these tests are slow ones.
"""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import board as boards
import pytest
from adb_shell.auth.keygen import keygen
from board import Board
from bundle_making import write_bundle
from sweep_making import plan_of

import edgekit
from edgekit.cli.main import _exit_code
from edgekit.device import adb_packets
from edgekit.device.adb_direct import DirectDevice
from edgekit.device.adb_server import AdbServer
from edgekit.device.discover import list_devices, resolve
from edgekit.errors import DeviceUnavailableError, EdgekitError, InputError, UnauthorizedError

pytestmark = [pytest.mark.board, *([] if boards.authorizing_adbd_made() else [pytest.mark.slow])]

KINDS = ["adb", "adb-direct"]
DEBIAN_12 = "VERSION_CODENAME=bookworm" in Path("/etc/os-release").read_text()


@pytest.fixture
def board(adb_environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Board]:
    """A board that trusts nobody yet; the adb server and this process have keys of their own."""
    if not boards.authorizing_adbd_made():
        if not DEBIAN_12:
            pytest.skip("NOT TESTED: the adbd that authorizes is built on Debian 12 only")
        subprocess.run([boards.HERE / "authorizing_adbd.sh"], check=True, stdout=subprocess.DEVNULL)
    monkeypatch.setenv("ANDROID_USER_HOME", str(tmp_path / "direct"))
    monkeypatch.delenv("ADB_VENDOR_KEYS", raising=False)
    monkeypatch.setattr(adb_packets, "AUTHORIZATION_TIMEOUT_S", 1.0)
    with boards.adb_server(tmp_path / "server") as variables:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        with boards.board(tmp_path / "board", authorizing=True) as made:
            yield made


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    write_bundle(tmp_path / "bundle")
    return tmp_path / "bundle"


def key(kind: str, tmp_path: Path) -> Path:
    """The private key by which a transport shows itself."""
    return tmp_path / ("server/.android/adbkey" if kind == "adb" else "direct/adbkey")


def contents(board: Board) -> list[Path]:
    assert board.storage is not None
    return sorted(board.storage.rglob("*"))


def owner_answers(board: Board, word: bytes) -> Callable[[], list[bytes]]:
    """Whoever looks at the board's screen gives this answer, or none, to every question; returns what was asked."""
    asked: list[bytes] = []
    screen = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    folder = os.open(board.owner.parent, os.O_PATH)
    screen.connect(f"/proc/self/fd/{folder}/{board.owner.name}")
    os.close(folder)

    def look() -> None:
        with screen, suppress(OSError):
            while question := screen.recv(4096):
                if question.startswith(b"PK"):
                    asked.append(question[2:])
                    if word:
                        screen.send(word)

    threading.Thread(target=look, daemon=True).start()
    return lambda: asked


def wait_until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.02)


@pytest.mark.parametrize("kind", KINDS)
def test_a_device_that_does_not_know_this_host(
    board: Board, kind: str, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    device = f"{kind}:{board.serial}"
    for command in (
        ["push", str(bundle)],
        ["probe", str(bundle), "-p", "8", "-n", "4", "-r", "1", "--out", str(tmp_path / "runs")],
        ["pull"],
        ["prune", "--unused-days", "0"],
    ):
        assert _exit_code([*command, "--device", device]) == 6
        message = capsys.readouterr().err
        assert device in message
        assert "trust this computer's key" in message or "unauthorized" in message
        assert "Next: unlock the screen and allow USB debugging for this computer" in message
    assert contents(board) == []
    assert not (tmp_path / "runs").exists()
    assert board.keys.read_bytes() == b""


@pytest.mark.parametrize("kind", KINDS)
def test_a_key_that_was_added_is_trusted(board: Board, kind: str, bundle: Path, tmp_path: Path) -> None:
    device = f"{kind}:{board.serial}"
    assert _exit_code(["push", str(bundle), "--device", device]) == 6
    private = key(kind, tmp_path)
    board.trust(private.with_name("adbkey.pub").read_bytes())
    assert _exit_code(["push", str(bundle), "--device", device]) == 0
    assert contents(board) != []
    assert stat.S_IMODE(private.stat().st_mode) == 0o600


@pytest.mark.parametrize("kind", KINDS)
def test_a_key_of_another_host_is_not_enough(board: Board, kind: str, tmp_path: Path) -> None:
    keygen(str(tmp_path / "other"))
    board.trust((tmp_path / "other.pub").read_bytes())
    board.trust(b"no key at all")
    with pytest.raises(DeviceUnavailableError, match="allow USB debugging"):
        resolve(f"{kind}:{board.serial}").run(["true"])


def test_one_of_several_keys_is_enough(board: Board, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "direct").mkdir()
    (tmp_path / "vendor").mkdir()
    keygen(str(tmp_path / "direct/adbkey"))
    keygen(str(tmp_path / "vendor/lab.adb_key"))
    monkeypatch.setenv("ADB_VENDOR_KEYS", str(tmp_path / "vendor"))
    board.trust((tmp_path / "vendor/lab.adb_key.pub").read_bytes())
    assert resolve(f"adb-direct:{board.serial}").run(["echo", "in"]).stdout == b"in\n"


@pytest.mark.parametrize("kind", KINDS)
def test_its_owner_allows_this_host(board: Board, kind: str) -> None:
    asked = owner_answers(board, b"OK")
    spec = f"{kind}:{board.serial}"
    if kind == "adb":
        # The server hears of the answer later; until then the device is unauthorized.
        AdbServer.from_environment().connect(board.serial)
        wait_until(lambda: AdbServer.from_environment().state(board.serial) == "device")
    assert resolve(spec).run(["echo", "in"]).stdout == b"in\n"
    # What it asks with is a string that this adbd has freed before: only that it asked, once, can be told.
    assert len(asked()) == 1


def test_its_owner_refuses_this_host(board: Board) -> None:
    asked = owner_answers(board, b"NO")
    for kind in KINDS:
        with pytest.raises(DeviceUnavailableError, match="allow USB debugging"):
            resolve(f"{kind}:{board.serial}").run(["true"])
    wait_until(lambda: len(asked()) == 2)


def test_waiting_for_the_owner_can_be_interrupted(board: Board) -> None:
    asked = owner_answers(board, b"")
    process = subprocess.Popen(
        [sys.executable, "-m", "edgekit.cli", "pull", "--device", f"adb-direct:{board.serial}"], stderr=subprocess.PIPE
    )
    try:
        wait_until(lambda: len(asked()) == 1)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=20)  # the owner would have had 30 s
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130
    assert stderr.strip() == b"edgekit: interrupted"


def test_the_list_of_devices_tells_what_to_do(board: Board, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DeviceUnavailableError):
        resolve(f"adb:{board.serial}")
    found = next(one for one in list_devices() if one.serial == board.serial)
    assert found.state == "unauthorized"
    assert found.advice is not None
    assert "allow USB debugging" in found.advice
    assert _exit_code(["devices"]) == 0
    shown = capsys.readouterr().out
    assert "unauthorized" in shown
    assert "allow USB debugging" in shown


def test_keys_keep_their_permissions(board: Board, tmp_path: Path) -> None:
    private = tmp_path / "direct/adbkey"
    private.parent.mkdir(mode=0o700)
    keygen(str(private))
    private.chmod(0o400)
    before = private.read_bytes()
    board.trust(private.with_name("adbkey.pub").read_bytes())
    private.with_name("adbkey.pub").unlink()  # not needed
    assert resolve(f"adb-direct:{board.serial}").run(["echo", "in"]).stdout == b"in\n"
    assert stat.S_IMODE(private.stat().st_mode) == 0o400
    assert stat.S_IMODE(private.parent.stat().st_mode) == 0o700
    assert private.read_bytes() == before
    assert list(private.parent.iterdir()) == [private]


@pytest.mark.parametrize("content", [b"", b"no key", b"\xff\xfe\x00", None])
def test_a_key_that_is_none_is_named(
    board: Board, content: bytes | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    private = tmp_path / "direct/adbkey"
    private.parent.mkdir()
    private.mkdir() if content is None else private.write_bytes(content)
    assert _exit_code(["pull", "--device", f"adb-direct:{board.serial}"]) == 3
    message = capsys.readouterr().err
    assert str(private) in message
    assert "Next: " in message


@pytest.mark.parametrize("closed", ["the key", "its folder"])
def test_a_key_of_another_user_is_named(board: Board, closed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    device = DirectDevice(board.serial)
    # Not in pytest's own folder, which is closed to other users as a whole.
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        private = Path(name).resolve() / "android/adbkey"
        private.parent.mkdir()
        keygen(str(private))
        private.chmod(0o600)
        private.parent.chmod(0o700 if closed == "its folder" else 0o755)
        monkeypatch.setenv("ANDROID_USER_HOME", str(private.parent))
        os.seteuid(65534)
        try:
            with pytest.raises(InputError, match=f"{private}: Permission denied") as caught:
                device.run(["true"])
        finally:
            os.seteuid(0)
        assert "ANDROID_USER_HOME" in str(caught.value)
        assert stat.S_IMODE(private.stat().st_mode) == 0o600


@pytest.mark.parametrize("kind", KINDS)
def test_a_device_that_trusts_this_host_no_more(board: Board, kind: str, tmp_path: Path) -> None:
    server = AdbServer.from_environment()
    with suppress(DeviceUnavailableError):
        resolve(f"{kind}:{board.serial}").run(["true"])
    board.trust(key(kind, tmp_path).with_name("adbkey.pub").read_bytes())
    device = resolve(f"{kind}:{board.serial}")
    assert device.run(["echo", "in"]).stdout == b"in\n"
    board.keys.write_bytes(b"")
    board.restart()
    if kind == "adb":

        def noticed() -> bool:
            # The board went without a word: the server learns of it when it sends something.
            with suppress(EdgekitError):
                device.run(["true"], timeout=5)
            return server.state(board.serial) != "device"

        wait_until(noticed)
        server.disconnect(board.serial)
        server.connect(board.serial)
    for attempt in (
        lambda: device.run(["true"]),
        lambda: device.stat("/"),
        lambda: device.pull("/etc/passwd", tmp_path / "file"),
    ):
        with pytest.raises(UnauthorizedError, match="allow USB debugging") as caught:
            attempt()
        assert caught.value.exit_code == 6
    assert not (tmp_path / "file").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_a_sweep_names_it_before_anything_starts(board: Board, kind: str, trained: Path, tmp_path: Path) -> None:
    plan = plan_of(trained, ["w8"], devices=[f"{kind}:{board.serial}"])
    with pytest.raises(DeviceUnavailableError, match="allow USB debugging") as caught:
        edgekit.sweep(plan, out=tmp_path / "out")
    assert board.serial in str(caught.value)
    assert caught.value.exit_code == 6
    assert not (tmp_path / "out").exists()
    assert contents(board) == []
