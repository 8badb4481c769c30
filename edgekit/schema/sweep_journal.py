"""The journal of a sweep: one JSON object a line, only ever appended to, each line on the disk before work goes on.

A line that a killed host left unfinished is the last one and is dropped. What is done follows from the lines in
their order: a cell is done once it stands in a :class:`Measured`.
"""

from __future__ import annotations

import msgspec

from edgekit.schema.sweep import SweepPlan

JOURNAL = "journal.jsonl"
SCHEMA_VERSION = 1


class Entry(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind"):
    """Base of all entries."""

    #: UTC, ISO 8601.
    at: str


class Begun(Entry, frozen=True, kw_only=True, tag="begun"):
    """A start of the sweep, the first or a further one."""

    schema_version: int
    edgekit: str
    plan: SweepPlan
    #: The devices that the plan's words meant, by their full names.
    devices: list[str]
    cells: int


class Exported(Entry, frozen=True, kw_only=True, tag="exported"):
    """What became of one bundle; without ``bundle``, ``reason`` says why there is none."""

    model: str
    recipe: str
    runtime: str
    context: int | None
    #: Folder relative to the sweep's.
    bundle: str | None
    #: As the manifest tells it.
    identity: str | None = None
    reason: str | None = None
    exit_code: int | None = None
    #: Of the whole export that made it, other bundles of the model included.
    seconds: float | None = None
    peak_bytes: int | None = None
    #: Address of the worker of a cluster; None for a process of this host.
    worker: str | None = None


class Started(Entry, frozen=True, kw_only=True, tag="started"):
    """A session begins; the names of its runs begin with ``attempt``."""

    attempt: str
    device: str
    cells: list[str]
    #: What it was expected to take.
    expected_s: float | None = None


class Measured(Entry, frozen=True, kw_only=True, tag="measured"):
    """A session is done: its cells, each with the run that holds it."""

    attempt: str
    device: str
    #: Name of a folder in ``runs/`` by cell.
    runs: dict[str, str]
    seconds: float


class Failed(Entry, frozen=True, kw_only=True, tag="failed"):
    """Cells that cannot be measured."""

    cells: list[str]
    device: str
    reason: str
    exit_code: int


class Retried(Entry, frozen=True, kw_only=True, tag="retried"):
    """Cells that failed and are to be tried again."""

    cells: list[str]


class Quarantined(Entry, frozen=True, kw_only=True, tag="quarantined"):
    """A device that is left alone until the next start."""

    device: str
    reason: str
    exit_code: int


class Moved(Entry, frozen=True, kw_only=True, tag="moved"):
    """Cells that another, equal device takes over."""

    cells: list[str]
    device: str


class Ended(Entry, frozen=True, kw_only=True, tag="ended"):
    """The end of a start."""

    done: int
    failed: int
    pending: int
    interrupted: bool = False


AnyEntry = Begun | Exported | Started | Measured | Failed | Retried | Quarantined | Moved | Ended
