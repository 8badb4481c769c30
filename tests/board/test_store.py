"""The store on a device: nothing is sent twice, nothing broken is kept, nothing half-made is seen."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shlex
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import board as boards
import pytest
from board import Board
from storage import counted_board
from userland import SYSTEMS, Userland, install, refusing_links

from edgekit.deploy import housekeeping, lease
from edgekit.deploy.push import push_files
from edgekit.deploy.store import RESERVE_BYTES, Store, StoreFile, content_id
from edgekit.deploy.store_script import StoreScript
from edgekit.device import conditions, facts
from edgekit.device.adbd import RESUMABLE_BYTES
from edgekit.device.base import Device, FileStat
from edgekit.device.local import LocalDevice
from edgekit.errors import DeviceFailedError, EdgekitError, InputError
from edgekit.progress import ProgressEvent, silent

MIB = 1 << 20
board_test = pytest.mark.board


@pytest.fixture(params=["local", *(pytest.param(name, marks=board_test) for name in ("debian", *SYSTEMS))])
def device(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Userland:
    """This machine, and boards of each kind of shell and tools; the store is empty."""
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    if request.param == "local":
        return Userland(LocalDevice(tmp_path / "root with spaces"))
    board: Board = request.getfixturevalue("x86_board")
    root = f"/data/local/tmp/{request.param} {os.urandom(4).hex()}"
    path = install(board, request.param) if request.param in SYSTEMS else None
    return Userland(board.device(root), path)


def file(folder: Path, name: str, data: bytes, *, executable: bool = False) -> StoreFile:
    local = folder / hashlib.sha256(name.encode()).hexdigest()[:8]
    local.write_bytes(data)
    return StoreFile(name, local, len(data), hashlib.sha256(data).hexdigest(), executable)


def content(device: Device, path: str) -> bytes:
    done = device.run(["cat", path])
    assert done.exit_code == 0, done.stderr
    return done.stdout


def listing(device: Device, folder: str = "") -> list[str]:
    """Every file of the store, relative to its root."""
    done = device.run(["find", ".", "-type", "f"], cwd=f"{device.root}{folder}")
    return sorted(line[2:] for line in done.stdout.decode().splitlines())


def test_contents_are_sent_once_and_shared(device: Userland, tmp_path: Path) -> None:
    model = file(tmp_path, "model.onnx", b"graph")
    weights = file(tmp_path, "deep/er/weights ü.bin", os.urandom(3 * MIB))
    twin = file(tmp_path, "twin.bin", (tmp_path / weights.local).read_bytes())
    empty = file(tmp_path, "empty", b"")
    store = Store(device)
    told: list[ProgressEvent] = []

    first = store.place("bundles", [model, weights, twin, empty], progress=told.append)
    assert (first.bytes_sent, first.bytes_reused) == (5 + 3 * MIB, 0)
    assert len(device.pushed) == 3
    for one in (model, weights, twin, empty):
        assert content(device, f"{first.directory}/{one.name}") == one.local.read_bytes()
    assert told[-1].done == told[-1].total == first.bytes_sent
    shared = f'[ "$1/objects/{weights.sha256}" -ef "$2/{weights.name}" ] && [ "$2/{weights.name}" -ef "$2/twin.bin" ]'
    assert device.run(["sh", "-c", shared, "sh", device.root, first.directory]).exit_code == 0

    device.pushed.clear()
    assert store.place("bundles", [weights, twin, empty, model]).bytes_sent == 0
    second = store.place("bundles", [file(tmp_path, "model.onnx", b"other"), weights])
    assert (second.bytes_sent, second.bytes_reused) == (5, 3 * MIB)
    assert len(device.pushed) == 1
    assert content(device, f"{first.directory}/model.onnx") == b"graph"
    assert content(device, f"{second.directory}/model.onnx") == b"other"
    assert not [name for name in listing(device) if ".part" in name]


@pytest.mark.parametrize("target", ["objects", "bundles"])
@pytest.mark.parametrize("thorough", [False, True])
def test_what_was_changed_on_the_device_is_found_and_healed(
    device: Userland, tmp_path: Path, target: str, thorough: bool
) -> None:
    weights = file(tmp_path, "weights", bytes(MIB))
    model = file(tmp_path, "model", b"graph")
    placed = Store(device).place("bundles", [weights, model])
    victim = f"{device.root}/objects/{weights.sha256}" if target == "objects" else f"{placed.directory}/weights"
    # One byte, size and modification time as before.
    damage = (
        'cp -p "$1" "$2"; printf X | dd of="$1" bs=1 seek=1000 conv=notrunc 2>/dev/null; touch -r "$2" "$1"; rm "$2"'
    )
    device.run(["chmod", "600", victim])
    assert device.plain.run(["sh", "-c", damage, "sh", victim, f"{device.root}/copy"]).exit_code == 0
    assert content(device, f"{placed.directory}/weights") != weights.local.read_bytes()
    device.pushed.clear()

    healed = Store(device).place("bundles", [weights, model], thorough=thorough)
    assert (healed.bytes_sent, healed.bytes_reused) == (MIB, 5)
    assert content(device, f"{placed.directory}/weights") == weights.local.read_bytes()
    assert Store(device).place("bundles", [weights, model]).bytes_sent == 0


def test_what_was_removed_or_replaced_comes_back(device: Userland, tmp_path: Path) -> None:
    files = [file(tmp_path, "a", b"A" * 1000), file(tmp_path, "b", b"B" * 1000)]
    placed = Store(device).place("bundles", files)
    device.run(["rm", "-f", f"{placed.directory}/a"])
    assert Store(device).place("bundles", files).bytes_sent == 0
    device.run(["sh", "-c", 'rm -f "$1"; ln -s /etc/hostname "$1"', "sh", f"{placed.directory}/b"])
    assert Store(device).place("bundles", files).bytes_sent == 0
    device.run(["rm", "-rf", f"{device.root}/objects"])
    Store(device).place("bundles", files)
    for one in files:
        assert content(device, f"{placed.directory}/{one.name}") == one.local.read_bytes()
    device.run(["rm", "-rf", device.root])
    assert Store(device).place("bundles", files).bytes_sent == 2000


def test_devices_that_refuse_links_hold_contents_once_all_the_same(device: Userland, tmp_path: Path) -> None:
    refusing = refusing_links(device)
    weights = file(tmp_path, "weights", bytes(MIB))
    program = file(tmp_path, "run", b"#!/bin/sh\necho ok\n", executable=True)
    first = Store(refusing).place("bundles", [weights, program])
    assert content(device, f"{first.directory}/weights") == weights.local.read_bytes()
    assert device.run([f"{first.directory}/run"]).stdout == b"ok\n"
    assert refusing.run(["find", device.root, "-type", "f", "-size", "+1000k"]).stdout.count(b"\n") == 1
    assert Store(refusing).place("bundles", [weights, program]) == type(first)(first.directory, 0, MIB + 18)
    assert Store(refusing).place("bundles", [weights, program], thorough=True).bytes_sent == 0

    # A second directory, and a twin in it, need copies, but nothing is sent.
    twin = file(tmp_path, "twin", bytes(MIB))
    second = Store(refusing).place("bundles", [weights, twin])
    assert (second.bytes_sent, second.bytes_reused) == (0, MIB)
    for name in ("weights", "twin"):
        assert content(device, f"{second.directory}/{name}") == weights.local.read_bytes()

    # With one copy damaged, another helps out; with the only one damaged, it is sent again.
    damage = 'chmod 600 "$1"; printf X | dd of="$1" bs=1 seek=1000 conv=notrunc 2>/dev/null'
    for directory in (first.directory, second.directory):
        device.plain.run(["sh", "-c", damage, "sh", f"{directory}/weights"])
    healed = [Store(refusing).place("bundles", files) for files in ([weights, program], [weights, twin])]
    assert sum(placed.bytes_sent for placed in healed) <= MIB
    for directory in (first.directory, second.directory):
        assert content(device, f"{directory}/weights") == weights.local.read_bytes()
    assert device.run([f"{first.directory}/run"]).stdout == b"ok\n"

    # A device that gains links (another file system mounted) goes on from there.
    assert Store(device).place("bundles", [weights, program, twin]).bytes_sent == 0


def test_programs_can_be_run(device: Userland, tmp_path: Path) -> None:
    program = tmp_path / "hello"
    program.write_text('#!/bin/sh\necho hello from $(dirname "$0")\n')
    shutil.copy(program, tmp_path / "data")
    if device.name == "local":
        # Used where it lies: what was built for this machine is executable already.
        program.chmod(0o755)
    placed = push_files(device, {"hello": program, "lib.so": tmp_path / "data"})
    assert device.run([placed["hello"]]).stdout.startswith(b"hello from /")
    assert push_files(device, {"hello": program, "lib.so": tmp_path / "data"}) == placed
    if device.name != "local":
        assert Path(placed["hello"]).parent == Path(placed["lib.so"]).parent
        assert len(device.pushed) == 1


def test_an_interrupted_push_leaves_only_parts_which_the_next_removes(device: Userland, tmp_path: Path) -> None:
    files = [file(tmp_path, "a", os.urandom(2 * MIB)), file(tmp_path, "b", os.urandom(4 * MIB))]

    def interrupt(event: ProgressEvent) -> None:
        if (event.done or 0) > 4 * MIB:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Store(device).place("bundles", files, progress=interrupt)
    assert listing(device, "/bundles") == []
    # adbd itself removes what it could not finish, where it still can.
    left = [name for name in listing(device) if name.startswith("objects/")]
    assert set(left) <= {f"objects/{files[0].sha256}", f"objects/{files[1].sha256}.part"}
    # What it cannot clean, after a power failure say, looks so:
    plant = (
        'cd "$1"; echo half >objects/0.part; mkdir -p bundles/1.part; echo half >bundles/1.part/model; echo >list.part'
    )
    assert device.run(["sh", "-c", plant, "sh", device.root]).exit_code == 0
    device.pushed.clear()
    placed = Store(device).place("bundles", files)
    assert placed.bytes_reused == 2 * MIB
    assert len(device.pushed) == 1
    assert not [name for name in listing(device) if ".part" in name]


def settled(device: Userland, path: str) -> FileStat:
    """A file on the device once what was under way to it when the push was cut has arrived."""
    seen = device.stat(path)
    for _ in range(50):
        time.sleep(0.2)
        before, seen = seen, device.stat(path)
        if seen is not None and before is not None and seen.size == before.size:
            return seen
    raise AssertionError(f"{path} is missing or goes on growing: {seen}")


def test_a_large_file_goes_on_where_it_was_cut(device: Userland, tmp_path: Path) -> None:
    data = os.urandom(RESUMABLE_BYTES + 3 * MIB)
    big = file(tmp_path, "weights", data)
    cut_at = 9 * MIB

    def interrupt(event: ProgressEvent) -> None:
        if (event.done or 0) > cut_at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Store(device).place("bundles", [big], progress=interrupt)
    assert listing(device, "/bundles") == []
    if device.name == "local":
        # A copy on one machine is never cut by a link; this is what a power failure leaves.
        device.run(["mkdir", "-p", f"{device.root}/objects"])
        Path(f"{device.root}/objects/{big.sha256}.part").write_bytes(data[:cut_at])
    there = settled(device, f"{device.root}/objects/{big.sha256}.part")
    assert 0 < there.size < len(data)
    placed = Store(device).place("bundles", [big])
    assert placed.bytes_sent == len(data) - there.size
    assert content(device, f"{placed.directory}/weights") == data
    assert not [name for name in listing(device) if ".part" in name]


def test_what_is_left_of_a_file_is_used_only_when_it_is_right(device: Userland, tmp_path: Path) -> None:
    data = os.urandom(3 * MIB)
    big = file(tmp_path, "weights", data)
    for left in (b"X" * MIB, data + b"more", b""):
        (tmp_path / "left").write_bytes(left)
        device.run(["mkdir", "-p", f"{device.root}/objects"])
        device.plain.push(tmp_path / "left", f"{device.root}/objects/{big.sha256}.part")
        placed = Store(device).place("bundles", [big])
        assert placed.bytes_sent == len(data)
        assert content(device, f"{placed.directory}/weights") == data
        device.run(["rm", "-rf", device.root])


def test_what_arrived_before_it_had_its_name_is_used(device: Userland, tmp_path: Path) -> None:
    """A large file is renamed while it arrives; a device may fail before that."""
    data = os.urandom(3 * MIB)
    big = file(tmp_path, "weights", data)
    (tmp_path / "left").write_bytes(data[:MIB])
    device.run(["mkdir", "-p", f"{device.root}/objects"])
    device.plain.push(tmp_path / "left", f"{device.root}/objects/{big.sha256}.part.0a1b2c3d.part")
    placed = Store(device).place("bundles", [big])
    assert placed.bytes_sent == 2 * MIB
    assert content(device, f"{placed.directory}/weights") == data
    assert not [name for name in listing(device) if ".part" in name]


def test_a_writer_on_another_host_is_waited_for(
    device: Userland, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "POLL_S", 0.05)
    weights = file(tmp_path, "weights", b"weights")
    told: list[str] = []
    with lease.writing(device, silent) as other:
        # Another host has other locks on its own disk.
        monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "other host"))
        monkeypatch.setattr(lease, "WAIT_TIMEOUT_S", 0.2)
        with pytest.raises(DeviceFailedError, match=r"held by .*process"):
            Store(device).place("bundles", [weights], progress=lambda event: told.append(event.detail or ""))
        assert any("held by" in detail for detail in told)
        other.script.call("survey", "bundles/x", "no", doing="go on")
    assert Store(device).place("bundles", [weights]).bytes_sent == 7


def test_the_lease_of_a_host_that_died_expires(device: Userland, tmp_path: Path) -> None:
    weights = file(tmp_path, "weights", b"weights")
    dead = StoreScript(device, "0123456789abcdef")
    assert "granted" in dead.call("lease", "a host that died", "5", doing="ask")
    device.plain.run(["touch", "-d", "2020-01-01 00:00:00", f"{device.root}/lease"])
    assert Store(device).place("bundles", [weights]).bytes_sent == 7
    # Should it come back to life, it may not write any more.
    with pytest.raises(DeviceFailedError, match="lost to another writer"):
        dead.call("clear", "bundles/x", doing="go on")


def test_a_writer_that_was_taken_for_dead_is_told_so_while_it_sends(
    device: Userland, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "RENEWAL_S", 0.0)
    other = StoreScript(device, "0123456789abcdef")
    with lease.writing(device, silent) as slept:
        slept.renew()
        device.plain.run(["touch", "-d", "2020-01-01 00:00:00", f"{device.root}/lease"])
        assert "granted" in other.call("lease", "another host", "5", doing="ask")
        with pytest.raises(DeviceFailedError, match=r"held by another host"):
            slept.renew()
    # Its lease stays the other's.
    other.call("clear", "bundles/x", doing="go on")


def with_tool(device: Userland, name: str, script: str) -> Userland:
    """The same device with a tool of another kind; ``REAL`` in its script is the real one.

    Busybox's shell has its tools within, and finds no other.
    """
    shim, real = f"{device.root}-shim", device.run(["sh", "-c", f"command -v {name}"]).stdout.decode().strip()
    path = device.run(["sh", "-c", 'echo "$PATH"']).stdout.decode().strip()
    make = 'mkdir -p "$1"; cat >"$1/$2"; chmod 755 "$1/$2"'
    text = f"#!/bin/sh\n{script.replace('REAL', real)}\n"
    device.run(["sh", "-c", make, "sh", shim, name], stdin=text.encode())
    return Userland(device.plain, f"{shim}:{path}")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Userland:
    """This machine, the store empty."""
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    return Userland(LocalDevice(tmp_path / "root"))


def test_a_void_lease_that_another_has_taken_over_meanwhile_stays_his(here: Userland) -> None:
    dead, faster = StoreScript(here, "a" * 16), StoreScript(here, "b" * 16)
    assert "granted" in dead.call("lease", "a host that died", "5", doing="ask")
    here.run(["touch", "-d", "2020-01-01 00:00:00", f"{here.root}/lease"])
    # A find that answers late: what it found void is another's by now.
    take_over = (
        '[ -e "$0.done" ] && exec REAL "$@"\n'
        f'REAL "$@"; true >"$0.done"; cd {shlex.quote(here.root)}\n'
        f"rm -rf lease; mkdir lease; echo {faster.lease} >lease/token; echo faster >lease/owner"
    )
    slower = StoreScript(with_tool(here, "find", take_over), "c" * 16)
    assert "held by faster" in slower.call("lease", "slower", "5", doing="ask")
    faster.call("clear", "bundles/x", doing="go on")


def test_a_lease_is_renewed_before_each_file_that_is_read(here: Userland, tmp_path: Path) -> None:
    files = [file(tmp_path, name, name.encode()) for name in ("one", "two")]
    Store(here).place("bundles", files)
    at = f"{shlex.quote(here.root)}/lease"
    # Each file takes longer than a lease holds.
    slow = with_tool(here, "sha256sum", f'stat -c %Y {at} >>"$0.seen"; touch -d @0 {at}; exec REAL')
    with lease.writing(here, silent) as mine:
        lines = [one.line for one in files]
        StoreScript(slow, mine.script.lease).call(
            "survey", f"bundles/{content_id(files)}", "yes", doing="look", lines=lines
        )
    seen = here.run(["cat", f"{here.root}-shim/sha256sum.seen"]).stdout.split()
    assert len(seen) >= 2
    assert b"0" not in seen


def test_what_is_long_unused_goes_and_what_is_shared_or_pinned_stays(device: Userland, tmp_path: Path) -> None:
    shared, own, other = (file(tmp_path, name, os.urandom(MIB)) for name in ("shared", "own", "other"))
    old = Store(device).place("bundles", [shared, own])
    new = Store(device).place("bundles", [shared, other])
    pinned = Store(device).place("bundles", [own])
    name = pinned.directory.removeprefix(f"{device.root}/")
    housekeeping.pin(device, name)
    for placed in (old, pinned):
        device.plain.run(["touch", "-d", "2020-01-01 00:00:00", placed.directory])
    before = listing(device)
    plan = housekeeping.prune(device, unused_days=30, dry_run=True)
    assert [f"{device.root}/{one.path}" for one in plan.removed] == [old.directory]
    assert listing(device) == before
    done = housekeeping.prune(device, unused_days=30)
    assert done.removed == plan.removed
    for placed, one in ((new, shared), (new, other), (pinned, own)):
        assert content(device, f"{placed.directory}/{one.name}") == one.local.read_bytes()
    assert Store(device).place("bundles", [shared, own]).bytes_sent == 0
    with pytest.raises(InputError, match="no such directory"):
        housekeeping.prune(device, unused_days=0, unpin=[name, "bundles/x"])
    assert [one.pinned for one in housekeeping.prune(device, unused_days=9999, dry_run=True).kept].count(True) == 1
    assert len(housekeeping.prune(device, unused_days=0, unpin=[name], dry_run=True).removed) == 3
    assert [one.path for one in housekeeping.prune(device, unused_days=0, dry_run=True).kept] == [name]
    # Whoever unpins does not have to remove.
    housekeeping.prune(device, unused_days=9999, unpin=[name])
    assert len(housekeeping.prune(device, unused_days=0).removed) == 3
    assert [one for one in listing(device) if one.startswith(("objects", "bundles"))] == []
    assert Store(device).place("bundles", [shared]).bytes_sent == MIB


def test_a_file_that_arrives_damaged_is_not_taken_in(device: Userland, tmp_path: Path) -> None:
    honest = file(tmp_path, "weights", b"honest" * 1000)
    honest.local.write_bytes(b"edited" * 1000)  # after its digest was taken
    with pytest.raises(DeviceFailedError, match="verify weights") as caught:
        Store(device).place("bundles", [honest])
    assert honest.sha256 in str(caught.value)
    assert listing(device) == []


def test_pushes_from_several_processes_take_turns(device: Userland, tmp_path: Path) -> None:
    files = [file(tmp_path, "weights", os.urandom(4 * MIB))]
    results, errors = [], []

    def push() -> None:
        try:
            results.append(Store(device).place("bundles", files))
        except EdgekitError as error:
            errors.append(error)

    threads = [threading.Thread(target=push) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert sorted(placed.bytes_sent for placed in results) == [0, 0, 4 * MIB]


@pytest.mark.parametrize("system", [pytest.param(name, marks=board_test) for name in SYSTEMS])
def test_facts_and_conditions_under_other_shells(x86_board: Board, system: str) -> None:
    device = Userland(x86_board.device(), install(x86_board, system))
    theirs, ours = facts.gather(device), facts.gather(x86_board.device())
    assert (theirs.abi, theirs.cpus, theirs.memory_bytes) == (ours.abi, ours.cpus, ours.memory_bytes)
    assert theirs.fidelity == "real"
    assert theirs.free_bytes is not None
    felt = conditions.read(device)
    assert felt.load_1m is not None
    assert felt.memory_available_bytes is not None


@board_test
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


@board_test
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


@board_test
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


@board_test
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


@board_test
def test_storage_from_which_nothing_may_run(new_board: Callable[..., Board], tmp_path: Path) -> None:
    board = new_board(storage_bytes=64 * MIB)
    board.remount("noexec")
    device = board.device()
    (tmp_path / "hello").write_text("#!/bin/sh\necho hello\n")
    with pytest.raises(DeviceFailedError, match="publish") as caught:
        push_files(device, {"hello": tmp_path / "hello"})
    assert "noexec" in str(caught.value)
