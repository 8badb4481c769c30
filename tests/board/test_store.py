"""The store on a device: nothing is sent twice, nothing broken is kept, nothing half-made is seen."""

from __future__ import annotations

import os
import shutil
import threading
import time
from pathlib import Path

import pytest
from board import Board
from stored_files import content, file, listing
from userland import SYSTEMS, Userland, install, refusing_links

from edgekit.deploy import housekeeping
from edgekit.deploy.push import push_files
from edgekit.deploy.store import Store
from edgekit.device import conditions, facts
from edgekit.device.adbd import RESUMABLE_BYTES
from edgekit.device.base import FileStat
from edgekit.errors import DeviceFailedError, EdgekitError, InputError
from edgekit.progress import ProgressEvent

MIB = 1 << 20
board_test = pytest.mark.board


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
