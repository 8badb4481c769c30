"""What changed inside a launch or a trial while it was measured: marks, from the raw events and conditions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import msgspec

from edgekit.analysis.load import LaunchData
from edgekit.analysis.sensors import Series
from edgekit.schema.celsius import hottest, is_at_processor
from edgekit.schema.event import Hello, TrialResult
from edgekit.schema.run import Conditions

MarkKind = Literal["throttled", "hotter", "load", "charger", "governor", "low memory"]

#: A processor that gets hotter by more than this inside one trial was not the same at its end.
MAX_RISE_C = 10.0
#: Share of all CPUs' time taken by others, or by a hypervisor, above which a trial is marked.
MAX_LOAD = 0.10
#: The kernel counts in ticks, commonly of 10 ms: shorter trials tell nothing of the load.
MIN_LOAD_NS = 100_000_000
#: Less free memory than this, as a share of what was free before, and the system begins to take pages away.
LOW_MEMORY = 0.10


@dataclass(frozen=True)
class Mark:
    """One change; ``trial`` is None where it belongs to the whole launch."""

    kind: MarkKind
    text: str
    trial: int | None = None


class Others(msgspec.Struct, frozen=True, array_like=True):
    """What others and a hypervisor took of all CPUs' time while trials ran, summed over them."""

    #: Trials of which it is told, and those in which they took more than :data:`MAX_LOAD`.
    trials: int = 0
    disturbed: int = 0
    #: Nanoseconds: what they took, and what all CPUs had.
    taken_ns: int = 0
    available_ns: int = 0

    @property
    def share(self) -> float | None:
        """0 to 1; None where it is not told, or over less time than the kernel's ticks resolve."""
        if self.available_ns < MIN_LOAD_NS:
            return None
        return min(1.0, max(0.0, self.taken_ns / self.available_ns))

    def __add__(self, other: Others) -> Others:
        return Others(
            self.trials + other.trials,
            self.disturbed + other.disturbed,
            self.taken_ns + other.taken_ns,
            self.available_ns + other.available_ns,
        )


def others_of(launches: Iterable[LaunchData]) -> Others:
    """What others took during all trials of these launches; those that were profiled or check the golden have none."""
    found = Others()
    for data in launches:
        hello = next(iter(data.events(Hello)), None)
        if hello is None or data.plan is None or data.plan.profile:
            continue
        for result in data.events(TrialResult):
            taken = _taken_ns(result)
            if taken is not None and hello.cpus_online:
                available = (result.end_ns - result.start_ns) * hello.cpus_online
                disturbed = (others_share(result, hello.cpus_online) or 0.0) > MAX_LOAD
                found += Others(1, int(disturbed), taken, available)
    return found


def marks(data: LaunchData) -> list[Mark]:
    """All that changed, trial by trial, then what only the readings before and after the launch tell.

    What the device does not tell gives no mark.
    """
    found: list[Mark] = []
    results = data.events(TrialResult)
    if results:
        hello = next(iter(data.events(Hello)), None)
        sensors = [entry for entry in data.sensors("temperature", "frequency_limit", "external_power") if _moves(entry)]
        for event in results:
            found += _trial_marks(event, sensors, hello.cpus_online if hello else None)
    if data.launch.before is not None and data.launch.after is not None:
        told = {mark.kind for mark in found}
        found += [mark for mark in between(data.launch.before, data.launch.after) if mark.kind not in told]
    return found


def between(before: Conditions, after: Conditions) -> list[Mark]:
    """What differs between two readings of one device."""
    found = []
    for policy, khz in sorted(after.frequency_limit_khz.items()):
        earlier = before.frequency_limit_khz.get(policy)
        if earlier is not None and khz < earlier:
            text = f"{policy} was held at {khz / 1e6:.2f} GHz, {earlier / 1e6:.2f} before"
            found.append(Mark("throttled", text))
    if (after.thermal_status or 0) > (before.thermal_status or 0):
        found.append(Mark("throttled", f"the device says that it is throttled (status {after.thermal_status} of 6)"))
    first, last = hottest(before), hottest(after)
    if first is not None and last is not None and last[1] - first[1] > MAX_RISE_C:
        found.append(Mark("hotter", f"{last[0]} rose from {first[1]:.1f} to {last[1]:.1f} °C"))
    for policy, governor in sorted(after.governor.items()):
        if before.governor.get(policy, governor) != governor:
            found.append(Mark("governor", f"{policy} changed from {before.governor[policy]} to {governor}"))
    for what, one, other in (
        ("a charger was connected", before.plugged, after.plugged),
        ("it began to charge", before.charging, after.charging),
    ):
        if one is not None and other is not None and one != other:
            found.append(Mark("charger", what if other else f"no longer so: {what}"))
            break
    free, left = before.memory_available_bytes, after.memory_available_bytes
    if free and left is not None and left < LOW_MEMORY * free:
        found.append(Mark("low memory", f"{left >> 20} MiB are free, {free >> 20} before"))
    return found


def _moves(entry: Series) -> bool:
    """Whether the whole launch has anything to look for trial by trial."""
    known = [value for value in entry.values if value is not None]
    if len(known) < 2:
        return False
    change = max(known) - min(known)
    if entry.sensor.kind == "temperature":
        return change > MAX_RISE_C and is_at_processor(entry.sensor.name)
    return change > 0


def _trial_marks(result: TrialResult, sensors: list[Series], cpus: int | None) -> list[Mark]:
    found = []
    for entry in sensors:
        values = _inside(entry, result)
        if len(values) < 2:
            continue
        kind, name = entry.sensor.kind, entry.sensor.name
        if kind == "frequency_limit":
            highest = max(value for value in entry.values if value is not None)
            if min(values) < highest:
                text = f"{name} was held at {min(values):.2f} GHz, {highest:.2f} at other times of the launch"
                found.append(Mark("throttled", text, result.trial))
        elif kind == "temperature" and values[-1] - values[0] > MAX_RISE_C:
            text = f"{name} rose from {values[0]:.1f} to {values[-1]:.1f} °C"
            found.append(Mark("hotter", text, result.trial))
        elif kind == "external_power" and len(set(values)) > 1:
            found.append(Mark("charger", f"{name} was connected or taken away", result.trial))
    share = others_share(result, cpus)
    if share is not None and share > MAX_LOAD:
        found.append(Mark("load", f"others took {share:.0%} of all CPUs' time", result.trial))
    return found


def others_share(result: TrialResult, cpus: int | None) -> float | None:
    """Share of all CPUs' time in a trial that others and the hypervisor took, 0 to 1; None where it is not told."""
    lasted = result.end_ns - result.start_ns
    taken = _taken_ns(result)
    if not cpus or lasted < MIN_LOAD_NS or taken is None:
        return None
    return min(1.0, max(0.0, taken / (lasted * cpus)))


def _taken_ns(result: TrialResult) -> int | None:
    """Negative by up to a tick for each CPU, where the probe's own time was not counted yet; None where not told."""
    if result.machine_ns is None or result.cpu_ns is None:
        return None
    return result.machine_ns - result.cpu_ns + (result.stolen_ns or 0)


def _inside(entry: Series, result: TrialResult) -> list[float]:
    """Values from the last sample before the trial to the first after it."""
    found: list[float] = []
    before: float | None = None
    for at, value in zip(entry.at_ns, entry.values, strict=True):
        if value is None:
            continue
        if at < result.start_ns:
            before = value
        elif at <= result.end_ns:
            found.append(value)
        else:
            found.append(value)
            break
    return [before, *found] if before is not None else found
