"""A run on one line of time: what the device did, and how it felt meanwhile.

All times are nanoseconds of the device's clock, that of the events. What the host noted is put there with a stated
error (:mod:`edgekit.analysis.clocks`). What is missing is a gap that says so; nothing is filled in.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

from edgekit.analysis.clocks import Alignment, align
from edgekit.analysis.load import LaunchData, RunData
from edgekit.analysis.metrics import key_of
from edgekit.analysis.operators import IN_DELEGATE, ProfiledPass, ProfiledSample, clock_offset, profiled_samples
from edgekit.analysis.sensors import series
from edgekit.schema.event import Hello, Loaded, MemorySamples, ProbeFault, ProportionalSamples, TrialResult
from edgekit.schema.plan import Trial
from edgekit.schema.run import Conditions

Detail = str | int | float | bool
Category = Literal["launch", "load", "prefill", "decode", "warm-up", "token", "pass", "delegate", "operator", "gap"]


@dataclass
class Slice:
    """A stretch of time with a name; ``inside`` lie within it, one after another."""

    name: str
    category: Category
    start_ns: int
    end_ns: int
    details: dict[str, Detail] = field(default_factory=dict)
    inside: list[Slice] = field(default_factory=list)


@dataclass
class Mark:
    """A moment."""

    name: str
    at_ns: int
    details: dict[str, Detail] = field(default_factory=dict)


@dataclass
class Counter:
    """A quantity over time; ``unit`` as in tables, ``B`` for bytes. Where ``values`` is None nothing was told."""

    name: str
    unit: str
    at_ns: list[int] = field(default_factory=list)
    values: list[float | None] = field(default_factory=list)


@dataclass
class RunTimeline:
    """One run: slices by track, counters, moments, and what is missing (``faults``)."""

    title: str
    details: dict[str, Detail]
    tracks: dict[str, list[Slice]]
    counters: list[Counter]
    marks: list[Mark]
    #: The device's clock and its wall clock at one moment; None where no launch said hello.
    clock_ns: int | None
    unix_ns: int | None
    faults: list[str]


#: Names of the tracks, as they are shown.
LAUNCHES, OPERATORS, GAPS = "launches", "operators", "gaps"


def timeline_of(data: RunData) -> RunTimeline:
    """Lay a run out in time."""
    return _Builder(data).build()


class _Builder:
    def __init__(self, data: RunData) -> None:
        self._data = data
        self._faults = list(data.faults)
        self._counters: dict[str, Counter] = {}
        self._marks: list[Mark] = []
        self._tracks: dict[str, list[Slice]] = {LAUNCHES: [], OPERATORS: [], GAPS: []}
        self._alignment = align(data.run.clocks)
        self._hello: Hello | None = None
        self._last = 0
        self._open_gap: tuple[int, str] | None = None

    def build(self) -> RunTimeline:
        samples: dict[int, list[ProfiledSample]] = {}
        if self._data.run.profiled:
            found, missing = profiled_samples(self._data)
            self._faults += missing
            for sample in found:
                samples.setdefault(sample.launch, []).append(sample)
        for launch in sorted(self._data.launches, key=lambda entry: entry.launch.index):
            self._launch(launch, samples.get(launch.launch.index, []))
        self._host()
        run = self._data.run
        tracks = {name: slices for name, slices in self._tracks.items() if slices}
        return RunTimeline(
            title=f"{run.model} {run.recipe} on {run.device.name}",
            details=self._details(),
            tracks=tracks,
            counters=[_in_order(counter) for counter in self._counters.values()],
            marks=sorted(self._marks, key=lambda mark: mark.at_ns),
            clock_ns=self._hello.t if self._hello else None,
            unix_ns=self._hello.unix_ns if self._hello else None,
            faults=self._faults,
        )

    # -- launches ------------------------------------------------------------------------------------------

    def _launch(self, data: LaunchData, samples: list[ProfiledSample]) -> None:
        where = f"launch {data.launch.index}"
        hello = next((event for event in data.stream.events if isinstance(event, Hello)), None) if data.stream else None
        if data.stream is None or data.plan is None or hello is None:
            at = self._last
            if self._last:
                self._marks.append(Mark(f"{where}: no events", at, {"why": data.gap or "nothing was said"}))
                self._open_gap = self._open_gap or (at, f"{where}: no events")
            return
        shift = self._shift(hello, where)
        inside: list[Slice] = []
        planned = {trial.id: trial for trial in data.plan.trials}
        latest = hello.t
        for event in data.stream.events:
            latest = max(latest, event.t)
            if isinstance(event, Loaded):
                details: dict[str, Detail] = {"threads": event.threads}
                if event.resident_before is not None:
                    details["share in the page cache before"] = event.resident_before
                inside.append(Slice("load", "load", event.start_ns, event.end_ns, details))
            elif isinstance(event, TrialResult):
                inside.append(_trial(event, planned.get(event.trial), data.plan.threads))
            elif isinstance(event, ProbeFault):
                self._marks.append(Mark(f"error: {event.code}", event.t + shift, {"message": event.message}))
        whole = Slice(
            f"{where}, {data.launch.threads} threads",
            "launch",
            min([hello.t, *(part.start_ns for part in inside)]),
            max([latest, *(part.end_ns for part in inside)]),
            {"status": data.launch.status, "profiled": data.plan.profile},
            _one_after_another(inside, self._faults, where),
        )
        _move(whole, shift)
        self._close_gap(whole.start_ns)
        self._tracks[LAUNCHES].append(whole)
        self._last = max(self._last, whole.end_ns)
        self._sample(data, shift)
        self._operators(samples, shift, where)
        if not data.stream.complete:
            reason = data.launch.message or "; ".join(data.stream.faults) or "the events end before bye"
            self._marks.append(Mark(f"{where}: the events end here", whole.end_ns, {"why": reason}))
            self._open_gap = (whole.end_ns, f"{where}: events are missing")

    def _shift(self, hello: Hello, where: str) -> int:
        """What to add to a launch's times: nothing, unless the device was started anew in between."""
        if self._hello is None:
            self._hello = hello
        if hello.t >= self._last:
            return 0
        shift = hello.unix_ns - self._hello.unix_ns + self._hello.t - hello.t
        if hello.t + shift >= self._last:
            self._faults.append(f"{where}: the device's clock began anew; placed by its wall clock")
            return shift
        self._faults.append(f"{where}: the device's clocks went back; how long the gap before it is, is not known")
        self._marks.append(Mark(f"{where}: a gap of unknown length before it", self._last))
        return self._last - hello.t

    def _close_gap(self, start_ns: int) -> None:
        if self._open_gap is not None:
            at, why = self._open_gap
            self._tracks[GAPS].append(Slice(f"gap: {why}", "gap", at, max(at, start_ns)))
            self._open_gap = None

    def _sample(self, data: LaunchData, shift: int) -> None:
        assert data.stream is not None
        for event in data.stream.events:
            if isinstance(event, MemorySamples):
                for name, column in (("rss", event.rss), ("anonymous", event.anon), ("file-mapped", event.file)):
                    self._count(f"memory, {name}", "B", _moved(event.at_ns, shift), column)
            elif isinstance(event, ProportionalSamples):
                for name, column in (("pss", event.pss), ("uss", event.uss), ("swap", event.swap)):
                    self._count(f"memory, {name}", "B", _moved(event.at_ns, shift), column)
        for entry in series(data.stream):
            name = f"{entry.sensor.kind.replace('_', ' ')}, {entry.sensor.name}"
            self._count(name, entry.unit, _moved(entry.at_ns, shift), entry.values)

    def _count(self, name: str, unit: str, at_ns: list[int], values: Iterable[float | None]) -> None:
        counter = self._counters.setdefault(name, Counter(name, unit))
        counter.at_ns.extend(at_ns)
        counter.values.extend(values)

    def _operators(self, samples: list[ProfiledSample], shift: int, where: str) -> None:
        for sample in samples:
            offset = clock_offset(sample)
            if offset is None:
                self._faults.append(f"{where}: the operators' times do not fit the tokens'; left out")
                continue
            name = sample.test.name
            for number, entry in enumerate(sample.passes):
                title = name if sample.trial.kind == "prefill" else f"{name}, token {number + 1}"
                made = _pass(title, entry, offset[1])
                _move(made, offset[0] + shift)
                # The error of the clocks may let two passes touch.
                made.start_ns = max(made.start_ns, self._tracks[OPERATORS][-1].end_ns if self._tracks[OPERATORS] else 0)
                _clip(made)
                self._tracks[OPERATORS].append(made)

    # -- the host ------------------------------------------------------------------------------------------

    def _host(self) -> None:
        run, alignment = self._data.run, self._alignment
        if alignment is None:
            self._faults.append("the host's clock was not compared with the device's: what the host noted is left out")
            return
        if alignment.jumped:
            self._faults.append("the clocks of host and device moved against each other: one of them jumped")
        for launch in run.launches:
            place = alignment.at(launch.started_at)
            if place is not None:
                name = f"host asks for launch {launch.index}"
                self._marks.append(Mark(name, place[0], {"error_ns": place[1]}))
        for conditions in (run.before, run.after):
            if conditions is not None:
                self._conditions(conditions, alignment)

    def _conditions(self, conditions: Conditions, alignment: Alignment) -> None:
        place = alignment.at(conditions.at)
        if place is None:
            return
        at, error = place
        details: dict[str, Detail] = {"error_ns": error}
        if conditions.load_1m is not None:
            details["load over 1 min"] = conditions.load_1m
        if conditions.battery_percent is not None:
            details["battery, percent"] = conditions.battery_percent
        if conditions.charging is not None:
            details["charging"] = conditions.charging
        self._marks.append(Mark("conditions read by the host", at, details))
        for name, value in conditions.temperature_c.items():
            self._count(f"read by the host: temperature, {name}", "°C", [at], [value])
        for name, khz in conditions.frequency_khz.items():
            self._count(f"read by the host: frequency, {name}", "GHz", [at], [khz / 1e6])
        if conditions.memory_available_bytes is not None:
            self._count("read by the host: memory available", "B", [at], [conditions.memory_available_bytes])

    def _details(self) -> dict[str, Detail]:
        run, alignment = self._data.run, self._alignment
        details: dict[str, Detail] = {
            "run": run.id,
            "status": run.status,
            "model": run.model,
            "recipe": run.recipe,
            "runtime": run.runtime,
            "bundle": run.bundle,
            "device": run.device.name,
            "profiled": run.profiled,
        }
        if alignment is not None:
            details["clock error, half round trip, ns"] = alignment.half_trip_ns
            details["clock error in the session, ns"] = alignment.error_ns(alignment.host_ns[0])
            if alignment.drift_ns is not None:
                details["clock drift in the session, ns"] = alignment.drift_ns
        for number, fault in enumerate(self._faults):
            details[f"missing {number + 1}"] = fault
        return details


def _trial(result: TrialResult, trial: Trial | None, threads: int) -> Slice:
    if trial is None:
        return Slice(f"trial {result.trial} (not in the plan)", "decode", result.start_ns, result.end_ns)
    name = key_of(trial, threads).name
    if trial.warmup:
        return Slice(f"{name}, warm-up", "warm-up", result.start_ns, result.end_ns)
    seconds = (result.end_ns - result.start_ns) / 1e9
    details: dict[str, Detail] = {
        "trial": trial.id,
        "repetition": trial.repetition,
        "tokens": trial.tokens,
        "depth": trial.depth,
        "tokens per second": len(result.token_ns) / seconds if trial.kind == "decode" else trial.tokens / seconds,
    }
    steps = pairwise([result.start_ns, *result.token_ns]) if trial.kind == "decode" else ()
    tokens = [Slice(f"token {number}", "token", start, end) for number, (start, end) in enumerate(steps, start=1)]
    return Slice(name, trial.kind, result.start_ns, result.end_ns, details, tokens)


def _pass(title: str, entry: ProfiledPass, error_ns: int) -> Slice:
    """A pass with its delegates and operators, on the profile's clock."""
    inside: list[Slice] = []
    delegates = {start: Slice("delegate", "delegate", start, end) for start, end in entry.delegates}
    ordered = sorted(delegates.values(), key=lambda made: made.start_ns)
    inside += ordered
    for call in entry.calls:
        if call.operator == IN_DELEGATE:
            continue
        details: dict[str, Detail] = {"module": call.module}
        if call.layer is not None:
            details["layer"] = call.layer
        if call.weights:
            details["weights"] = call.weights
        end = call.start_ns + call.duration_ns
        made = Slice(call.operator, "operator", call.start_ns, end, details)
        holder = next((one for one in ordered if one.start_ns <= call.start_ns <= one.end_ns), None)
        (holder.inside if holder else inside).append(made)
    whole = Slice(title, "pass", entry.start_ns, entry.end_ns, {"clock error, ns": error_ns}, inside)
    whole.inside.sort(key=lambda made: (made.start_ns, -made.end_ns))
    return whole


def _clip(whole: Slice) -> None:
    """Keep parts within the whole and after one another: their clock may be coarser than the whole's."""
    whole.end_ns = max(whole.end_ns, whole.start_ns)
    at = whole.start_ns
    for part in whole.inside:
        part.start_ns = min(max(part.start_ns, at), whole.end_ns)
        part.end_ns = min(max(part.end_ns, part.start_ns), whole.end_ns)
        at = part.end_ns
        _clip(part)


def _one_after_another(slices: list[Slice], faults: list[str], where: str) -> list[Slice]:
    """In order of time; what overlaps its predecessor cannot be true and is left out."""
    kept: list[Slice] = []
    for entry in sorted(slices, key=lambda made: (made.start_ns, made.end_ns)):
        if kept and entry.start_ns < kept[-1].end_ns:
            faults.append(f"{where}: {entry.name} overlaps {kept[-1].name} and is left out")
        else:
            kept.append(entry)
    return kept


def _move(whole: Slice, by: int) -> None:
    if by:
        for entry in _all(whole):
            entry.start_ns += by
            entry.end_ns += by


def _all(whole: Slice) -> Iterator[Slice]:
    yield whole
    for part in whole.inside:
        yield from _all(part)


def _moved(at_ns: list[int], by: int) -> list[int]:
    return [at + by for at in at_ns]


def _in_order(counter: Counter) -> Counter:
    pairs = sorted(zip(counter.at_ns, counter.values, strict=True), key=lambda pair: pair[0])
    return Counter(counter.name, counter.unit, [at for at, _ in pairs], [value for _, value in pairs])
