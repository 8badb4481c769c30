"""A host's disk that is full."""

from __future__ import annotations

import errno
import os
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
