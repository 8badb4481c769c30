"""Flash wears out by being written to: what reaches a device's disk is counted, and no content reaches it twice."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from storage import Counted, counted_board
from userland import Userland, refusing_links

from edgekit.deploy.store import Store, StoreFile
from edgekit.errors import DeviceFailedError
from edgekit.progress import ProgressEvent

pytestmark = pytest.mark.board

MIB = 1 << 20
#: Directories, inodes, maps and stamps that the file system and the store write beside contents.
BESIDE_BYTES = MIB
WEIGHTS, SMALL = 24 * MIB, 3 * MIB


@pytest.fixture(scope="module")
def disk(adb_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Counted]:
    with counted_board(tmp_path_factory.mktemp("disk"), 400 * MIB) as made:
        yield made


def file(folder: Path, name: str, size: int) -> StoreFile:
    data = os.urandom(size)
    (folder / name).write_bytes(data)
    return StoreFile(name, folder / name, size, hashlib.sha256(data).hexdigest())


@pytest.mark.parametrize("links", ["links", "no links"])
def test_no_content_is_written_twice(disk: Counted, tmp_path: Path, links: str) -> None:
    device = Userland(disk.board.device(f"/data/local/tmp/{tmp_path.name}"))
    store = Store(device if links == "links" else refusing_links(device))
    weights, model, tokenizer, other = (
        file(tmp_path, name, size)
        for name, size in (("weights", WEIGHTS), ("model", SMALL), ("tokenizer", SMALL), ("other", SMALL))
    )

    def place(*files: StoreFile) -> int:
        before = disk.written()
        # Each piece is brought to the disk on its way: what would be written and then written over is counted, too.
        store.place("bundles", files, progress=lambda event: disk.sync())
        return disk.written() - before

    first = place(weights, model, tokenizer)
    assert WEIGHTS + 2 * SMALL <= first < WEIGHTS + 2 * SMALL + BESIDE_BYTES
    assert place(weights, model, tokenizer) < BESIDE_BYTES
    # A second recipe: another model file beside the same tokenizer and weights. Where links are refused, what two
    # folders hold must be there twice.
    shared = 0 if links == "links" else WEIGHTS + SMALL
    assert shared + SMALL <= place(weights, other, tokenizer) < shared + SMALL + BESIDE_BYTES
    device.plain.run(["rm", "-rf", device.root])


def test_what_had_arrived_is_not_written_again(disk: Counted, tmp_path: Path) -> None:
    device = disk.board.device(f"/data/local/tmp/{tmp_path.name}")
    files = [file(tmp_path, "weights", WEIGHTS), file(tmp_path, "model", SMALL)]
    before = disk.written()
    arrived = []

    def cut(event: ProgressEvent) -> None:
        if (event.done or 0) >= WEIGHTS // 2 and not arrived:
            disk.sync()
            arrived.append(event.done)
            disk.board.kill_adbd()

    with pytest.raises(DeviceFailedError):
        Store(device).place("bundles", files, progress=cut)
    # Some of what was sent may not have reached it.
    assert disk.written() - before > WEIGHTS // 4
    disk.board.restart()
    placed = Store(disk.board.device(device.root)).place("bundles", files)
    assert placed.bytes_sent < WEIGHTS * 3 // 4 + SMALL
    assert disk.written() - before < WEIGHTS + SMALL + BESIDE_BYTES
