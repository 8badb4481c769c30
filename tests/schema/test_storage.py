"""Files that are written whole or not at all, and a host's disk that is full."""

from __future__ import annotations

import errno
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from edgekit.probing.run_writer import EventLog
from edgekit.schema.storage import write_atomically


def test_a_full_disk_is_named_by_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as caught:
        write_atomically(tmp_path / "run.json", b"{}")
    assert caught.value.filename == str(tmp_path / "run.json")
    assert list(tmp_path.iterdir()) == []


def test_events_reach_a_disk_that_takes_a_part_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"

    class Nearly:
        """A file on a disk that is nearly full."""

        def __init__(self) -> None:
            self.room = 10

        def write(self, data: memoryview) -> int:
            taken = data[: min(3, self.room)]
            if not taken:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self.room -= len(taken)
            with path.open("ab") as file:
                return file.write(taken)

        def close(self) -> None:
            pass

    with EventLog(path) as log:
        log._file.close()
        log._file = Nearly()  # type: ignore[assignment]
        log.append(b"12345678")
        assert path.read_bytes() == b"12345678"
        with pytest.raises(OSError, match="No space left") as caught:
            log.append(b"90123")
    assert caught.value.filename == str(path)
    assert path.read_bytes() == b"1234567890"


def test_a_file_is_replaced_and_nothing_stays_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "below" / "file"
    for data in (b"one", b"two"):
        write_atomically(path, data)
        assert path.read_bytes() == data
    assert [entry.name for entry in path.parent.iterdir()] == ["file"]
    with pytest.raises(OSError, match="directory"):
        write_atomically(path.parent, b"three")


def test_what_is_no_file_is_written_to_and_stays(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    # Held open at both ends, so that nobody waits for the other.
    held = os.open(pipe, os.O_RDWR)
    try:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(write_atomically, pipe, b"through").result(timeout=30)
        assert stat.S_ISFIFO(pipe.stat().st_mode)
        assert os.read(held, 100) == b"through"
    finally:
        os.close(held)
    assert [entry.name for entry in tmp_path.iterdir()] == ["pipe"]
