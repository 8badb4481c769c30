"""The journal of a sweep on the disk, and what follows from it."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from edgekit.errors import HostStorageError, InputError, UnsupportedError
from edgekit.schema.sweep_journal import (
    JOURNAL,
    SCHEMA_VERSION,
    AnyEntry,
    Begun,
    Entry,
    Exported,
    Failed,
    Measured,
    Moved,
    Quarantined,
    Retried,
    Started,
)

#: Some hundred bytes a session; a larger file is no journal.
_MAX_JOURNAL_BYTES = 1024 * 1024 * 1024

_DECODER = msgspec.json.Decoder(AnyEntry)


@dataclass
class Account:
    """What a journal says: the state of the sweep after its last line."""

    begun: list[Begun] = field(default_factory=list)
    done: dict[str, Measured] = field(default_factory=dict)
    failed: dict[str, Failed] = field(default_factory=dict)
    #: The device that took a cell over.
    moved: dict[str, str] = field(default_factory=dict)
    exported: dict[tuple[str, str, str, int | None], Exported] = field(default_factory=dict)
    started: dict[str, Started] = field(default_factory=dict)
    measured: dict[str, Measured] = field(default_factory=dict)
    quarantined: dict[str, Quarantined] = field(default_factory=dict)
    #: Devices that were used before.
    devices: set[str] = field(default_factory=set)

    def take(self, entry: Entry) -> None:
        """Follow one line."""
        match entry:
            case Begun():
                # What a start decided about devices holds until the next one.
                self.begun.append(entry)
                self.quarantined.clear()
                self.moved.clear()
            case Exported():
                self.exported[entry.model, entry.recipe, entry.runtime, entry.context] = entry
            case Started():
                self.started[entry.attempt] = entry
                self.devices.add(entry.device)
            case Measured():
                self.measured[entry.attempt] = entry
                for cell in entry.runs:
                    self.done[cell] = entry
                    self.failed.pop(cell, None)
            case Failed():
                self.failed.update({cell: entry for cell in entry.cells if cell not in self.done})
            case Retried():
                for cell in entry.cells:
                    self.failed.pop(cell, None)
            case Quarantined():
                self.quarantined[entry.device] = entry
                self.devices.add(entry.device)
            case Moved():
                self.moved.update(dict.fromkeys(entry.cells, entry.device))
            case _:
                pass

    @property
    def open_attempts(self) -> list[Started]:
        """Sessions that began and of which no line says that they are done."""
        return [entry for attempt, entry in list(self.started.items()) if attempt not in self.measured]


class Journal:
    """The file, and its account. Several threads may append; one process at a time has it open."""

    def __init__(self, folder: Path) -> None:
        """Read what is there; a last line that a killed host left unfinished is cut off with the next append.

        Raises:
            InputError: the file is no journal, or was edited.
            UnsupportedError: a newer edgekit wrote it.
            HostStorageError: it cannot be read.
        """
        self.path = folder / JOURNAL
        self.account = Account()
        self._lock = threading.Lock()
        self._sound = 0
        try:
            data = self._read()
        except FileNotFoundError:
            return
        except OSError as error:
            raise HostStorageError(f"read {self.path}: {error.strerror or error}") from error
        lines = data.split(b"\n")
        for number, line in enumerate(lines[:-1], start=1):
            try:
                entry = _DECODER.decode(line)
            except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError, RecursionError) as error:
                if number == len(lines) - 1 and line.strip(b"\0") == b"":
                    break  # a power failure: the length reached the disk, the content did not
                self._demand_version(line)
                raise InputError(
                    f"read {self.path}: line {number} is no entry of a sweep's journal ({error})",
                    hint="it was edited or damaged; choose another --out",
                ) from error
            if isinstance(entry, Begun) and entry.schema_version > SCHEMA_VERSION:
                self._demand_version(line)
            self.account.take(entry)
            self._sound += len(line) + 1

    def _read(self) -> bytes:
        if self.path.stat().st_size > _MAX_JOURNAL_BYTES:
            raise InputError(f"read {self.path}: larger than any journal", hint="choose another --out")
        return self.path.read_bytes()

    def _demand_version(self, line: bytes) -> None:
        try:
            version = msgspec.json.decode(line).get("schema_version")
        except (msgspec.DecodeError, AttributeError, UnicodeDecodeError):
            return
        if isinstance(version, int) and version > SCHEMA_VERSION:
            raise UnsupportedError(
                f"read {self.path}: schema version {version} is newer than {SCHEMA_VERSION}, the newest this edgekit "
                "reads",
                hint="upgrade edgekit-slm",
            )

    def append(self, entry: AnyEntry) -> None:
        """Put one line on the disk; when this returns, it stays.

        Raises:
            HostStorageError: it cannot be written.
        """
        line = msgspec.json.encode(entry) + b"\n"
        with self._lock:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                new = not self.path.exists()
                with self.path.open("r+b" if not new else "xb") as file:
                    # What an earlier append did not bring to its end is no line.
                    file.truncate(self._sound)
                    file.seek(self._sound)
                    file.write(line)
                    file.flush()
                    os.fsync(file.fileno())
                if new:
                    sync_folder(self.path.parent)
            except OSError as error:
                raise HostStorageError(
                    f"write {self.path}: {error.strerror or error}",
                    hint="free space and start again: what is done is kept",
                ) from error
            self._sound += len(line)
            self.account.take(entry)


def sync_folder(folder: Path) -> None:
    """Bring names in a folder to the disk, where the system can."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
