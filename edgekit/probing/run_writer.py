"""Writing a run directory while it is being measured.

``run.json`` is replaced after every launch, and events are appended as they come, so
whatever ends the session leaves a readable run with all that was measured.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

import msgspec

from edgekit.schema import codec
from edgekit.schema.plan import Plan
from edgekit.schema.run import MANIFEST, Clocks, Conditions, Launch, Run, Stopped
from edgekit.schema.storage import naming, write_atomically


def now() -> str:
    """This moment in UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class EventLog:
    """The growing ``events.jsonl`` of one launch; every chunk reaches the disk as it comes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("wb", buffering=0)

    def __enter__(self) -> EventLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def append(self, chunk: bytes) -> None:
        """Keep what the probe sent, verbatim."""
        left = memoryview(chunk)
        with naming(self._path):
            while left:
                # A disk that is nearly full takes a part, and says nothing.
                left = left[self._file.write(left) :]


class RunWriter:
    """One run directory under construction."""

    def __init__(self, directory: Path, run: Run, bundle_manifest: bytes) -> None:
        directory.mkdir(parents=True)
        self.directory = directory
        self.run = run
        write_atomically(directory / "bundle.json", bundle_manifest)
        self._save()

    def begin_launch(self, plan: Plan) -> Path:
        """Make the next launch's folder and write its plan; returns the folder."""
        folder = self.directory / "launches" / f"{len(self.run.launches):03d}"
        folder.mkdir(parents=True)
        write_atomically(folder / "plan.json", codec.encode(plan))
        return folder

    def end_launch(self, launch: Launch, stderr: bytes) -> None:
        """Record how a launch ended."""
        if stderr:
            write_atomically(self.directory / launch.directory / "stderr.txt", stderr)
        self.run = msgspec.structs.replace(self.run, launches=[*self.run.launches, launch])
        self._save()

    def note_clocks(self, clocks: Clocks) -> None:
        """Record the clock readings so far."""
        self.run = msgspec.structs.replace(self.run, clocks=clocks)
        self._save()

    def note(self, **fields: object) -> None:
        """Set fields of the run, written with the next launch or at the end."""
        self.run = msgspec.structs.replace(self.run, **fields)

    def finish(self, status: str, after: Conditions | None, stopped: Stopped | None = None) -> None:
        """Close the run with its final status (``done``, ``failed``, ``interrupted``)."""
        self.run = msgspec.structs.replace(self.run, status=status, after=after, stopped=stopped)
        self._save()

    def _save(self) -> None:
        write_atomically(self.directory / MANIFEST, codec.encode(self.run))
