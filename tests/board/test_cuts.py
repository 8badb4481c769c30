"""A connection cut at every kind of byte: nothing is taken for whole that is not, and the next try heals all."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
from board import ADBD_PORT, Board
from cutting import Direction, Way, boundaries, way_to

from edgekit.deploy.store import Store, StoreFile
from edgekit.device.adb import AdbDevice
from edgekit.device.adb_direct import DirectDevice
from edgekit.device.adb_server import AdbServer
from edgekit.device.base import Completed, Device
from edgekit.errors import DeviceFailedError

pytestmark = pytest.mark.board

Result = TypeVar("Result")

#: More than two frames of a file copy.
BIG = 150_000
#: Cuts of each kind in an ordinary run; all of them are made by ``make slow``.
FEW = 6
#: So many bytes at the end may or may not pass before a call is over.
END = 400
#: Bytes of the head of a frame: of a file copy to an adb server, of a packet to an adbd.
HEADS = {"server": 8, "direct": 24}


@pytest.fixture(params=["server", "direct"])
def link(request: pytest.FixtureRequest) -> str:
    made: str = request.param
    return made


@pytest.fixture
def way(link: str, x86_board: Board) -> Iterator[Way]:
    server = AdbServer.from_environment()
    target = (server.host, server.port) if link == "server" else (x86_board.host, ADBD_PORT)
    with way_to(*target) as made:
        yield made


@pytest.fixture
def device(link: str, way: Way, x86_board: Board) -> Iterator[Device]:
    root = f"/data/local/tmp/cuts {os.urandom(4).hex()}"
    x86_board.device()
    if link == "server":
        yield AdbDevice(x86_board.serial, AdbServer("127.0.0.1", way.port), root)
    else:
        direct = DirectDevice(f"127.0.0.1:{way.port}", root)
        yield direct
        direct.close()
    x86_board.device().run(["rm", "-rf", root])


def file(folder: Path, name: str, data: bytes) -> StoreFile:
    (folder / name).write_bytes(data)
    return StoreFile(name, folder / name, len(data), hashlib.sha256(data).hexdigest())


def cuts(way: Way, link: str, direction: Direction, whole: Callable[[], object], every: bool) -> list[tuple[int, bool]]:
    """Where to cut ``whole``, by what passes when nothing is cut, and whether that is sure to be reached.

    What comes last is not always waited for, and frames and numbers are not of the same size each time.
    """
    way.cut_after(None)
    whole()
    record = bytes(way.passed[direction])
    found = boundaries(record, HEADS[link])
    assert len(found) > FEW
    chosen = found if every else sorted(random.Random(len(found)).sample(found, FEW))
    return [(position, position < len(record) - END) for position in chosen]


def attempt(device: Device, call: Callable[[], Result]) -> Result | None:
    """What it gives; None where the device was lost, which the error names."""
    try:
        return call()
    except DeviceFailedError as error:
        if error.device != device.name:
            raise
        return None


EVERY = pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["few", "every"])
DIRECTIONS = pytest.mark.parametrize("direction", ["up", "down"])


@DIRECTIONS
@EVERY
def test_a_push_that_is_cut_anywhere(
    device: Device, way: Way, link: str, direction: Direction, every: bool, x86_board: Board, tmp_path: Path
) -> None:
    files = [file(tmp_path, "big", os.urandom(BIG)), file(tmp_path, "small", b"small")]
    plain = x86_board.device(device.root)

    def again() -> int:
        plain.run(["rm", "-rf", device.root])
        return Store(device).place("bundles", files).bytes_sent

    for position, sure in cuts(way, link, direction, again, every):
        plain.run(["rm", "-rf", device.root])
        way.cut_after(direction, position)
        placed = attempt(device, lambda: Store(device).place("bundles", files))
        if placed is None:
            # Nothing is there that looks whole and is not.
            check = (
                'for at in "$1"/bundles/*; do case $at in *.part | *"*") ;; *) cat "$at/big" "$at/small";; esac; done'
            )
            seen = plain.run(["sh", "-c", check, "sh", device.root]).stdout
            assert seen in (b"", files[0].local.read_bytes() + b"small"), position
            placed = Store(device).place("bundles", files)
        assert way.was_cut or not sure, position
        way.cut_after(None)
        assert placed.bytes_sent <= BIG + 5
        for one in files:
            assert plain.run(["cat", f"{placed.directory}/{one.name}"]).stdout == one.local.read_bytes()
        left = plain.run(["find", ".", "-type", "f"], cwd=device.root).stdout.decode().split("\n")
        kinds = sorted(name.split("/")[1] for name in left if name and not name.startswith("./stamps"))
        assert kinds == ["bundles", "bundles", "objects", "objects"], (position, left)


@DIRECTIONS
@EVERY
def test_a_pull_that_is_cut_anywhere(
    device: Device, way: Way, link: str, direction: Direction, every: bool, x86_board: Board, tmp_path: Path
) -> None:
    there, back = file(tmp_path, "there", os.urandom(BIG)), tmp_path / "to" / "back"
    remote = f"{device.root}/there"
    device.push(there.local, remote)
    for position, sure in cuts(way, link, direction, lambda: device.pull(remote, back), every):
        back.unlink(missing_ok=True)
        way.cut_after(direction, position)
        if attempt(device, lambda: device.pull(remote, back) or True) is None:
            assert list(back.parent.iterdir()) == [], position
            device.pull(remote, back)
        assert way.was_cut or not sure, position
        way.cut_after(None)
        assert back.read_bytes() == there.local.read_bytes()
        assert list(back.parent.iterdir()) == [back]


@DIRECTIONS
@EVERY
def test_a_command_that_is_cut_anywhere(
    device: Device, way: Way, link: str, direction: Direction, every: bool, x86_board: Board
) -> None:
    data = os.urandom(40_000)
    mark = str(2_000_000 + os.getpid())

    def command() -> Completed:
        return device.run(["sh", "-c", f": {mark}; cat; echo done >&2; exit 3"], stdin=data)

    whole = Completed(3, data, b"done\n")
    for position, sure in cuts(way, link, direction, command, every):
        way.cut_after(direction, position)
        # Cut, it fails: never is a part of its output taken for all.
        assert attempt(device, command) in (None, whole), position
        assert way.was_cut or not sure, position
        way.cut_after(None)
        assert command() == whole
    script = 'grep -l -a -e "$1" /proc/[0-9]*/cmdline 2>/dev/null | wc -l'
    plain = x86_board.device()
    for _ in range(50):
        if plain.run(["sh", "-c", script, "sh", f"[{mark[0]}]{mark[1:]}"]).stdout.strip() == b"0":
            break
    else:
        pytest.fail("a command went on without anybody to hear it")
