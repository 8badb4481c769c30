"""Many runs at once, read through an index that only saves time.

The index is one SQLite file in the user's cache: for every run directory what
:func:`~edgekit.analysis.load.load_run` made of its files, what
:func:`~edgekit.analysis.facts.known` derived from that, and the stamps of those files. Launches are
decoded only where somebody looks at their events. An entry whose files changed, that another
version of edgekit wrote or whose checksum is wrong is read anew; an index that is damaged,
locked or cannot be written is done without. Runs are never written to.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import os
import sqlite3
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import overload

import msgspec

from edgekit.analysis.facts import KnownRun, RunFacts, known
from edgekit.analysis.load import LaunchData, RunData, load_run
from edgekit.errors import EdgekitError, InputError
from edgekit.progress import Progress, ProgressEvent, silent
from edgekit.resources import cache_dir
from edgekit.schema import run as run_schema
from edgekit.schema.bundle import Bundle
from edgekit.schema.imported import MANIFEST as IMPORTED
from edgekit.schema.run import Run

STAGE = "read runs"
#: Fewer runs are read from their files as fast as through the index.
INDEXED_FROM = 8
#: A file changed this short a time ago may change again without its stamp telling; it is not kept.
SETTLED_NS = 2_000_000_000
#: Another process writes for a fraction of a second.
BUSY_TIMEOUT_S = 20.0
#: Of the index's tables; others are dropped.
FORMAT = 2
#: SQLite's limit on parameters of a statement, in its oldest versions.
_AT_ONCE = 500


class _Stored(msgspec.Struct, frozen=True, array_like=True):
    """A run as the index keeps it: everything but where it lies and its launches, which are apart."""

    run: Run
    bundle: Bundle
    faults: list[str]
    #: None where they cannot be derived: whoever asks for them meets the error.
    facts: RunFacts | None


#: A run and its launches, both encoded.
_Blobs = tuple[bytes, bytes]


class _Launches(Sequence[LaunchData]):
    """Launches that are decoded when somebody looks at them."""

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, blob: bytes) -> None:
        self._blob = blob
        self._decoded: list[LaunchData] | None = None

    def _all(self) -> list[LaunchData]:
        if self._decoded is None:
            self._decoded = _LAUNCHES_DECODER.decode(self._blob)
            self._blob = b""
        return self._decoded

    def __len__(self) -> int:
        return len(self._all())

    @overload
    def __getitem__(self, index: int) -> LaunchData: ...

    @overload
    def __getitem__(self, index: slice) -> list[LaunchData]: ...

    def __getitem__(self, index: int | slice) -> LaunchData | list[LaunchData]:
        return self._all()[index]

    def __iter__(self) -> Iterator[LaunchData]:
        return iter(self._all())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and self._all() == list(other)


def find_runs(paths: Iterable[Path | str]) -> list[Path]:
    """Run directories: a path that is one, or all that lie directly in a folder and were not named before, by name.

    Raises:
        InputError: a path is neither.
    """
    found: list[Path] = []
    known: set[Path] = set()
    for path in map(Path, paths):
        inside = [path]
        if not (path / run_schema.MANIFEST).is_file():
            inside = sorted(entry.parent for entry in path.glob(f"*/{run_schema.MANIFEST}"))
            if not inside and (any(path.glob(f"*/{IMPORTED}")) or (path / IMPORTED).is_file()):
                raise InputError(
                    f"read runs from {path}: it holds only imported results, which have no events",
                    hint="compare and report show imported results; everything else needs runs that edgekit measured",
                )
            if not inside:
                raise InputError(
                    f"read runs from {path}: there is no {run_schema.MANIFEST}, and no run in it",
                    hint="give directories that `edgekit probe` or `edgekit run` wrote, or the folder that holds them",
                )
            inside = [entry for entry in inside if entry.resolve() not in known]
        known |= {entry.resolve() for entry in inside}
        found += inside
    return found


def load_runs(
    paths: Sequence[Path | str],
    *,
    on_broken: Callable[[EdgekitError], None] | None = None,
    index: Path | None = None,
    progress: Progress = silent,
) -> list[RunData]:
    """Read run directories, from the index as far as it is up to date.

    Args:
        paths: run directories.
        on_broken: told of a run that cannot be read, which is left out; None: its error is raised.
        index: the index's file; in the user's cache when None.
        progress: told of runs that are read from their files, where there are many.

    Raises:
        InputError: a run is missing or broken.
        UnsupportedError: a run was written by a newer edgekit.
    """
    places = [Path(path) for path in paths]
    file = None
    if index is not None or len(places) >= INDEXED_FROM:
        file = index or cache_dir() / "runs" / "index.sqlite"
    keys = [str(path.resolve()) for path in places]
    stamps = {key: _stamp(key) for key in keys} if file else {}
    kept = _read(file, stamps) if file else {}
    made: dict[str, RunData] = {}
    found: list[RunData] = []
    with without_collection():
        _fill(found, made, places, keys, kept if file else None, on_broken, progress)
    if file and made:
        _write(file, {key: (stamps[key][0], data) for key, data in made.items() if _settled(stamps[key])})
    return found


@contextlib.contextmanager
def without_collection() -> Iterator[None]:
    """For work on many runs: millions of objects live and none is garbage; looking for it takes half of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            if not gc.get_freeze_count():
                # What lives on is old: else the next allocation would look through all of it.
                gc.freeze()
                gc.unfreeze()
            gc.enable()


def _fill(
    found: list[RunData],
    made: dict[str, RunData],
    places: Sequence[Path],
    keys: Sequence[str],
    kept: dict[str, _Blobs] | None,
    on_broken: Callable[[EdgekitError], None] | None,
    progress: Progress,
) -> None:
    """Fill ``found`` with the runs in order, and ``made`` with those that were not kept; None: there is no index."""
    for number, (path, key) in enumerate(zip(places, keys, strict=True)):
        try:
            data = None if kept is None else _from_index(kept.get(key), path)
            if data is None:
                if len(places) >= INDEXED_FROM:
                    progress(ProgressEvent(STAGE, done=number, total=len(places), unit="runs", detail=path.name))
                data = load_run(path)
                if kept is not None:
                    data = made[key] = _with_facts(data)
        except EdgekitError as error:
            if on_broken is None:
                raise
            on_broken(error)
            continue
        found.append(data)


def _with_facts(data: RunData) -> RunData:
    try:
        return known(data)
    except (ArithmeticError, LookupError, ValueError):
        # Times that make no sense. A query does not need the facts, and a comparison says what is wrong.
        return data


def _from_index(blobs: _Blobs | None, path: Path) -> RunData | None:
    if blobs is None:
        return None
    try:
        stored = _DECODER.decode(blobs[0])
    except msgspec.MsgspecError:
        return None
    read = (path, stored.run, stored.bundle, _Launches(blobs[1]), stored.faults)
    return RunData(*read) if stored.facts is None else KnownRun(*read, stored.facts)


def _stamp(directory: str) -> tuple[bytes, int]:
    """Digest over the stamps of all files of a run, and the latest change in nanoseconds."""
    digest = hashlib.sha256(_code_version())
    latest = 0
    for name, stat in sorted(_files(directory), key=lambda entry: entry[0]):
        digest.update(f"{name}\0{stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns} {stat.st_ino}\n".encode())
        latest = max(latest, stat.st_mtime_ns, stat.st_ctime_ns)
    return digest.digest(), latest


def _files(directory: str, below: str = "") -> Iterator[tuple[str, os.stat_result]]:
    """Every file of a run with its stamp; what cannot be looked at is left to the reading, which says so."""
    with contextlib.suppress(OSError), os.scandir(directory) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                if entry.is_dir(follow_symlinks=False):
                    yield from _files(entry.path, f"{below}{entry.name}/")
                else:
                    yield f"{below}{entry.name}", entry.stat()


def _settled(stamp: tuple[bytes, int]) -> bool:
    return time.time_ns() - stamp[1] > SETTLED_NS


def _code_version() -> bytes:
    """Changes with the code that reads runs and derives facts, so that an entry is never older than the code."""
    global _code
    if not _code:
        packages = Path(run_schema.__file__).parent, Path(__file__).parent
        stats = [(source.name, source.stat()) for package in packages for source in sorted(package.glob("*.py"))]
        _code = repr([(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]).encode()
    return _code


def _read(file: Path, stamps: dict[str, tuple[bytes, int]]) -> dict[str, _Blobs]:
    """Entries that are up to date, by directory; none where the index cannot be read."""
    if not file.exists():
        return {}
    try:
        with contextlib.closing(_connect(file)) as connection:
            found: dict[str, _Blobs] = {}
            keys = list(stamps)
            for start in range(0, len(keys), _AT_ONCE):
                some = keys[start : start + _AT_ONCE]
                marks = ", ".join("?" * len(some))
                rows = connection.execute(
                    f"SELECT path, stamp, data, launches, checksum FROM entry WHERE path IN ({marks})", some
                )
                for path, stamp, data, launches, checksum in rows:
                    if stamp == stamps[path][0] and checksum == _checksum(path, stamp, data, launches):
                        found[path] = data, launches
            return found
    except (sqlite3.Error, TypeError):
        # TypeError: a damaged field is of another type.
        return {}


def _checksum(path: str, stamp: bytes, data: bytes, launches: bytes) -> int:
    """Of an entry: what a disk or a hand changed must not be taken for a result."""
    found = 0
    for part in (path.encode(), stamp, data, launches):
        found = zlib.crc32(part, found)
    return found


def _write(file: Path, entries: dict[str, tuple[bytes, RunData]]) -> None:
    """Keep entries and forget runs that are gone; without effect where the index cannot be written."""
    rows = []
    for key, (stamp, data) in entries.items():
        # A number that no 64 bits hold (a hand wrote it): such a run is read from its files each time.
        with contextlib.suppress(OverflowError):
            rows.append(_row(key, stamp, data))
    for attempt in (1, 2):
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.closing(_connect(file)) as connection, connection:
                if connection.execute("PRAGMA user_version").fetchone() != (FORMAT,):
                    connection.execute("DROP TABLE IF EXISTS entry")
                    connection.execute(f"PRAGMA user_version = {FORMAT}")
                connection.execute(
                    "CREATE TABLE IF NOT EXISTS entry "
                    "(path TEXT PRIMARY KEY, stamp BLOB, data BLOB, launches BLOB, checksum INTEGER) WITHOUT ROWID"
                )
                gone = [
                    (path,)
                    for (path,) in connection.execute("SELECT path FROM entry").fetchall()
                    if not Path(path, run_schema.MANIFEST).exists()
                ]
                connection.executemany("DELETE FROM entry WHERE path = ?", gone)
                connection.executemany("INSERT OR REPLACE INTO entry VALUES (?, ?, ?, ?, ?)", rows)
            return
        except sqlite3.OperationalError:
            return  # locked for too long, read-only, full: the next time will do
        except sqlite3.DatabaseError:
            # Damaged: it holds nothing that cannot be made again.
            with contextlib.suppress(OSError):
                if attempt == 1:
                    file.unlink()
        except OSError:
            return


def _connect(file: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(file, timeout=BUSY_TIMEOUT_S)
    # What a power cut damages is made again.
    connection.execute("PRAGMA synchronous = OFF")
    return connection


def _row(key: str, stamp: bytes, data: RunData) -> tuple[str, bytes, bytes, bytes, int]:
    facts = data.facts if isinstance(data, KnownRun) else None
    stored = _ENCODER.encode(_Stored(data.run, data.bundle, data.faults, facts))
    launches = _ENCODER.encode(data.launches)
    return key, stamp, stored, launches, _checksum(key, stamp, stored, launches)


_code = b""
_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(_Stored)
_LAUNCHES_DECODER = msgspec.msgpack.Decoder(list[LaunchData])
