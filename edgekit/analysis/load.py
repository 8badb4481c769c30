"""Reading a run directory (see :mod:`edgekit.schema.run`) as far as it can be read."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TypeVar, cast

from edgekit.analysis.sensors import Series, series
from edgekit.errors import InputError
from edgekit.schema import bundle as bundle_schema
from edgekit.schema import codec
from edgekit.schema import run as run_schema
from edgekit.schema.bundle import Bundle
from edgekit.schema.event import Event, SensorKind, Stream
from edgekit.schema.imported import MANIFEST as IMPORTED
from edgekit.schema.plan import Plan
from edgekit.schema.run import Launch, Run
from edgekit.schema.stream import read_stream_file

PLAN = "plan.json"
EVENTS = "events.jsonl"

EventType = TypeVar("EventType", bound=Event)


@dataclass(frozen=True)
class LaunchData:
    """One launch: what was asked for and what came back.

    ``gap`` says why plan or events are missing; both are there where it is None.
    """

    launch: Launch
    plan: Plan | None
    stream: Stream | None
    gap: str | None = None

    def events(self, kind: type[EventType]) -> list[EventType]:
        """All events of one kind, in the order of the stream; none without events."""
        return cast("list[EventType]", self._by_kind.get(kind, []))

    @cached_property
    def _by_kind(self) -> dict[type[Event], list[Event]]:
        found: dict[type[Event], list[Event]] = {}
        for event in self.stream.events if self.stream is not None else ():
            found.setdefault(type(event), []).append(event)
        return found

    def sensors(self, *kinds: SensorKind) -> list[Series]:
        """The samples of all sensors of these kinds, in the probe's order; none without events."""
        return [entry for entry in self._sensors if entry.sensor.kind in kinds]

    @cached_property
    def clock_ghz(self) -> float:
        """Median of the fastest sensor of a clock rate, GHz; 0 where none was told."""
        known = ([value for value in entry.values if value is not None] for entry in self.sensors("frequency"))
        return max((statistics.median(values) for values in known if values), default=0.0)

    @cached_property
    def _sensors(self) -> list[Series]:
        return [] if self.stream is None else series(self.stream)


@dataclass(frozen=True)
class RunData:
    """A run as read from ``path``.

    ``faults`` name everything that is missing or could not be read; nothing else was left out.
    """

    path: Path
    run: Run
    bundle: Bundle
    launches: Sequence[LaunchData]
    faults: list[str]


def load_run(path: Path | str) -> RunData:
    """Read one run directory.

    A launch whose plan or events are missing or unreadable becomes a marked gap; the
    rest of the run stays usable.

    Raises:
        InputError: no run there, a corrupt ``run.json`` or ``bundle.json``, or a bundle other than the one measured.
        UnsupportedError: a file was written by a newer edgekit.
    """
    directory = Path(path)
    if (directory / IMPORTED).is_file():
        raise InputError(
            f"read run from {directory}: it was imported and holds no events",
            hint="compare and report show imported results; everything else needs a run that edgekit measured",
        )
    if not (directory / run_schema.MANIFEST).is_file():
        raise InputError(
            f"read run from {directory}: there is no {run_schema.MANIFEST}",
            hint="give the directory that `edgekit probe` or `edgekit run` wrote",
        )
    run = codec.read(directory / run_schema.MANIFEST, Run)
    bundle = codec.read(directory / bundle_schema.MANIFEST, Bundle)
    if bundle.identity != run.bundle:
        raise InputError(
            f"read run from {directory}: its {bundle_schema.MANIFEST} is of another bundle "
            f"({bundle.identity[:12]}) than the one measured ({run.bundle[:12]})",
            hint="one of the two files was replaced; restore it from the session that wrote the run",
        )
    launches = [_load_launch(directory, launch, run) for launch in run.launches]
    faults = []
    if run.status != "done":
        why = "" if run.stopped is None else run.stopped.text
        faults.append(f"the run is not complete: {run.status}" + (f": {why}" if why not in ("", run.status) else ""))
    for data in launches:
        where = f"launch {data.launch.index}"
        if data.launch.status != "done":
            reason = f": {data.launch.message}" if data.launch.message else ""
            faults.append(f"{where}: {data.launch.status}{reason}")
        if data.gap:
            faults.append(f"{where}: {data.gap}")
        if data.stream:
            faults += [f"{where}: {fault}" for fault in data.stream.faults]
            if not data.stream.complete and data.launch.status == "done":
                faults.append(f"{where}: the events end before bye")
    return RunData(path=directory, run=run, bundle=bundle, launches=launches, faults=faults)


def _load_launch(directory: Path, launch: Launch, run: Run) -> LaunchData:
    folder = directory / _inside(launch.directory, directory)
    try:
        plan = codec.read(folder / PLAN, Plan)
    except InputError as error:
        return LaunchData(launch, None, None, gap=f"no plan: {error.message}")
    if plan.bundle != run.bundle or plan.threads != launch.threads:
        return LaunchData(launch, None, None, gap=f"its {PLAN} is of another launch")
    try:
        stream = read_stream_file(folder / EVENTS)
    except InputError as error:
        return LaunchData(launch, plan, None, gap=f"no events: {error.message}")
    return LaunchData(launch, plan, stream)


def _inside(relative: str, directory: Path) -> PurePosixPath:
    """A launch's folder, which must lie inside the run.

    Raises:
        InputError: it would lead out of the run.
    """
    path = PurePosixPath(relative)
    if path.is_absolute() or ".." in path.parts or "\\" in relative or ":" in relative or "\0" in relative:
        raise InputError(
            f"read run from {directory}: launch folder {relative!r} lies outside the run",
            hint=f"{run_schema.MANIFEST} was edited; use the original",
        )
    return path
