"""Storage that is too small, fills up, is full to the last byte, read-only, or runs nothing."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import board as boards
import pytest
from board import Board
from storage import counted_board
from stored_files import content, file, listing
from userland import Userland

from edgekit.deploy import housekeeping, lease
from edgekit.deploy.push import push_files
from edgekit.deploy.store import RESERVE_BYTES, Store
from edgekit.errors import DeviceFailedError
from edgekit.progress import ProgressEvent

MIB = 1 << 20
pytestmark = pytest.mark.board


def test_no_room_is_said_before_anything_is_sent(new_board: Callable[..., Board], tmp_path: Path) -> None:
    device = Userland(new_board(storage_bytes=RESERVE_BYTES + 8 * MIB).device())
    # A device that never had a store has none afterwards.
    with pytest.raises(DeviceFailedError, match=r"are needed, .* are free"):
        Store(device).place("bundles", [file(tmp_path, "big", os.urandom(9 * MIB))])
    assert device.run(["ls", "-A", "/data/local/tmp"]).stdout == b""
    small = [file(tmp_path, "small", os.urandom(MIB))]
    kept = Store(device).place("bundles", small)
    device.pushed.clear()
    with pytest.raises(DeviceFailedError, match=r"are needed, .* are free") as caught:
        Store(device).place("bundles", [*small, file(tmp_path, "big", os.urandom(9 * MIB))])
    assert caught.value.device == device.name
    assert device.pushed == []
    assert content(device, f"{kept.directory}/small") == small[0].local.read_bytes()
    # What lies there already needs no room: the rest fits.
    assert Store(device).place("bundles", [*small, file(tmp_path, "fits", os.urandom(6 * MIB))]).bytes_reused == MIB


def test_storage_that_fills_up_during_a_push(new_board: Callable[..., Board], tmp_path: Path) -> None:
    board = new_board(storage_bytes=64 * MIB)
    device = Userland(board.device())
    kept = Store(device).place("bundles", [file(tmp_path, "small", b"small")])
    filled = []

    def fill(event: ProgressEvent) -> None:
        if event.done and not filled:
            filled.append(board.execute(["dd", "if=/dev/zero", "of=/data/local/tmp/hog", "bs=1M"], check=False))

    with pytest.raises(DeviceFailedError, match="No space left") as caught:
        Store(device).place("bundles", [file(tmp_path, "big", os.urandom(40 * MIB))], progress=fill)
    assert filled
    assert "make room" in (caught.value.hint or "")
    assert not [name for name in listing(device) if ".part" in name]
    assert content(device, f"{kept.directory}/small") == b"small"
    board.execute(["rm", "/data/local/tmp/hog"])
    assert Store(device).place("bundles", [file(tmp_path, "big", os.urandom(40 * MIB))]).bytes_sent == 40 * MIB


@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
def test_storage_that_is_full_to_the_last_byte_keeps_nobody_waiting(
    adb_environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(lease, "WAIT_TIMEOUT_S", 0.0)
    with contextlib.ExitStack() as stack:
        if kind == "tmpfs":
            board = stack.enter_context(boards.board(tmp_path / "board", storage_bytes=48 * MIB))
        else:
            board = stack.enter_context(counted_board(tmp_path, 48 * MIB)).board
        device, fresh = board.device(), board.device("/data/local/tmp/fresh")
        small = [file(tmp_path, "small", b"small")]
        placed = Store(device).place("bundles", small)
        more = [file(tmp_path, "more", b"more")]
        fill = "cat /dev/zero >/data/local/tmp/hog; until ! echo x >>/data/local/tmp/hog; do :; done"
        board.execute(["/bin/sh", "-c", fill], check=False)
        # Which of the two finds the folder of a lease there and which none differs by file system.
        for one, files in ((device, more), (device, more), (fresh, small)):
            with pytest.raises(DeviceFailedError, match="cannot be written") as caught:
                Store(one).place("bundles", files)
            assert "make room" in (caught.value.hint or "")
        # What lies there needs no room.
        assert Store(device).place("bundles", small) == type(placed)(placed.directory, 0, 5)
        assert board.execute(["ls", "-A", "/data/local/tmp/fresh"], check=False).stdout == b""
        board.execute(["rm", "/data/local/tmp/hog"])
        assert Store(device).place("bundles", more).bytes_sent == 4


def test_read_only_storage(new_board: Callable[..., Board], tmp_path: Path) -> None:
    board = new_board(storage_bytes=64 * MIB)
    device = Userland(board.device())
    files = [file(tmp_path, "small", b"small")]
    placed = Store(device).place("bundles", files)
    board.remount("ro")
    # All there: nothing needs to be written.
    assert Store(device).place("bundles", files) == type(placed)(placed.directory, 0, 5)
    with pytest.raises(DeviceFailedError, match="cannot be written"):
        Store(device).place("bundles", [file(tmp_path, "more", b"more")])
    with pytest.raises(DeviceFailedError, match="cannot be written") as caught:
        Store(Userland(board.device("/data/local/tmp/elsewhere"))).place("bundles", files)
    assert "EDGEKIT_DEVICE_ROOT" in (caught.value.hint or "")
    for change in (
        lambda: housekeeping.prune(device, unused_days=0),
        lambda: housekeeping.pin(device, "x"),
    ):
        with pytest.raises(DeviceFailedError, match="cannot be written") as caught:
            change()
        assert caught.value.hint


def test_storage_from_which_nothing_may_run(new_board: Callable[..., Board], tmp_path: Path) -> None:
    board = new_board(storage_bytes=64 * MIB)
    board.remount("noexec")
    device = board.device()
    (tmp_path / "hello").write_text("#!/bin/sh\necho hello\n")
    with pytest.raises(DeviceFailedError, match="publish") as caught:
        push_files(device, {"hello": tmp_path / "hello"})
    assert "noexec" in str(caught.value)
