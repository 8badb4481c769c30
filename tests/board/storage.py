"""A board's storage as a file system of its own, whose writes are counted where they reach the disk."""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from board import Board

_SECTOR_BYTES = 512
#: Of ``/sys/block/*/stat``, sectors written (Documentation/block/stat.rst of the kernel).
_SECTORS_WRITTEN = 6


@dataclass
class Counted:
    """A board, and its storage."""

    board: Board
    folder: Path
    block_device: str

    def sync(self) -> None:
        """Bring everything to the disk, so that nothing that was written and removed again goes uncounted."""
        handle = os.open(self.folder, os.O_RDONLY)
        try:
            if ctypes.CDLL(None, use_errno=True).syncfs(handle) != 0:
                raise OSError(ctypes.get_errno(), "syncfs")
        finally:
            os.close(handle)

    def written(self) -> int:
        """Bytes that the disk has taken until now, the file system's own included."""
        self.sync()
        stat = Path(f"/sys/block/{self.block_device}/stat").read_text().split()
        return int(stat[_SECTORS_WRITTEN]) * _SECTOR_BYTES


@contextlib.contextmanager
def counted_board(directory: Path, size: int) -> Iterator[Counted]:
    """A board whose ``/data/local/tmp`` is an ext4 of ``size`` bytes on a loop device, without a journal of its own."""
    image, folder = directory / "image", directory / "board" / "storage"
    folder.mkdir(parents=True)
    with image.open("wb") as file:
        file.truncate(size)
    options = ["-O", "^has_journal", "-E", "lazy_itable_init=0", "-m", "0"]
    _run("mke2fs", "-q", "-t", "ext4", *options, str(image))
    loop = _run("losetup", "--find", "--show", str(image))
    try:
        _run("mount", "-o", "noatime", loop, str(folder))
        try:
            made = Board(directory / "board")
            try:
                made.start()
                yield Counted(made, folder, Path(loop).name)
            finally:
                made.stop()
        finally:
            _run("umount", "--lazy", str(folder))
    finally:
        _run("losetup", "--detach", loop)


def _run(*argv: str) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=60).stdout.strip()
