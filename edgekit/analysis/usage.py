"""What the kernel counted of a test's trials, summed over all launches of a run that measured it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from edgekit.analysis.load import RunData
from edgekit.analysis.metrics import Test, counted_trials, key_of
from edgekit.schema.event import Loaded, TrialResult
from edgekit.schema.run import DeviceFacts

NS_PER_S = 1_000_000_000


@dataclass
class Usage:
    """Sums over trials; None is what the device did not tell."""

    trials: int = 0
    seconds: float = 0.0
    cpus: set[int] = field(default_factory=set)
    affinity_asked: list[int] | None = None
    affinity_read: list[list[int]] = field(default_factory=list)
    #: Of each launch: share of the files in memory before, seconds to load, faults that waited for the disk.
    loads: list[tuple[float | None, float, int | None]] = field(default_factory=list)
    major_faults: int | None = None
    involuntary_switches: int | None = None
    run_ns: int | None = None
    wait_ns: int | None = None
    #: Time on a CPU of the busiest thread, which would be all of the time if nothing held it up.
    busiest_ns: int | None = None
    limited_ns: int | None = None
    cpu_ns: int | None = None
    machine_ns: int | None = None
    stolen_ns: int | None = None
    #: Degrees Celsius.
    hottest: float | None = None
    #: Lowest limit of the clock by its CPUs, GHz.
    limits: dict[tuple[int, ...], float] = field(default_factory=dict)

    @property
    def wait_share(self) -> float | None:
        """Share of the time that threads could run in which they had no CPU."""
        if self.run_ns is None or self.wait_ns is None or self.run_ns + self.wait_ns <= 0:
            return None
        return self.wait_ns / (self.run_ns + self.wait_ns)

    @property
    def idle_share(self) -> float | None:
        """Share of the time in which not even the busiest thread ran."""
        if self.busiest_ns is None or not self.seconds:
            return None
        return min(max(1 - self.busiest_ns / (self.seconds * NS_PER_S), 0.0), 1.0)

    @property
    def stolen_share(self) -> float | None:
        """CPU time that a hypervisor took, over the time that passed."""
        return None if self.stolen_ns is None or not self.seconds else self.stolen_ns / (self.seconds * NS_PER_S)

    @property
    def others_cpus(self) -> float | None:
        """CPUs' worth of time that other programs used meanwhile."""
        if self.machine_ns is None or self.cpu_ns is None or not self.seconds:
            return None
        return max(self.machine_ns - self.cpu_ns, 0) / (self.seconds * NS_PER_S)

    def limited_share(self, threads: int) -> float | None:
        """Share of the threads' time in which a control group's limit stopped them."""
        if self.limited_ns is None or not self.seconds:
            return None
        return min(self.limited_ns / (self.seconds * NS_PER_S * max(threads, 1)), 1.0)

    def clock_limits(self, facts: DeviceFacts) -> list[tuple[str, float, float]]:
        """CPUs on which the test ran, the lowest limit of their clock, and the largest clock they have; GHz."""
        found = []
        for cpus, lowest in self.limits.items():
            largest = max((entry.max_khz or 0 for entry in facts.clusters if set(cpus) & set(entry.cpus)), default=0)
            if largest and self.cpus & set(cpus):
                found.append((f"CPUs {cpu_list(cpus)}", lowest, largest / 1e6))
        return found


def usage_of(data: RunData) -> dict[Test, Usage]:
    """The usage of every test of a run."""
    found: dict[Test, Usage] = {}
    for launch in data.launches:
        own = list(counted_trials(launch))
        if launch.stream is None or not own:
            continue
        loads = launch.events(Loaded)
        limits = launch.sensors("frequency_limit")
        hot = [value for entry in launch.sensors("temperature") for value in entry.values if value is not None]
        low = {
            tuple(entry.sensor.cpus): min(value for value in entry.values if value is not None)
            for entry in limits
            if any(value is not None for value in entry.values)
        }
        for test in dict.fromkeys(key_of(trial, launch.launch.threads) for trial, _ in own):
            use = found.setdefault(test, Usage())
            use.hottest = max([*hot, *([] if use.hottest is None else [use.hottest])], default=None)
            for cpus, value in low.items():
                use.limits[cpus] = min(value, use.limits.get(cpus, value))
            for load in loads:
                use.affinity_asked = load.affinity_asked
                use.affinity_read += load.affinity_read
                use.loads.append((load.resident_before, (load.end_ns - load.start_ns) / NS_PER_S, load.major_faults))
        for trial, result in own:
            _add(found[key_of(trial, launch.launch.threads)], result)
    return found


def _add(use: Usage, result: TrialResult) -> None:
    use.trials += 1
    use.seconds += (result.end_ns - result.start_ns) / NS_PER_S
    use.cpus |= set(result.cpus) | set(result.caller_cpus)
    for name in ("major_faults", "involuntary_switches", "limited_ns", "cpu_ns", "machine_ns", "stolen_ns"):
        _sum(use, name, getattr(result, name))
    if result.thread_run_ns:
        _sum(use, "run_ns", sum(result.thread_run_ns))
        _sum(use, "wait_ns", sum(result.thread_wait_ns))
        _sum(use, "busiest_ns", max(result.thread_run_ns))


def _sum(use: Usage, name: str, value: int | None) -> None:
    if value is not None:
        setattr(use, name, (getattr(use, name) or 0) + value)


def cpu_list(cpus: Iterable[int]) -> str:
    """``0-3,7``, as the kernel writes lists of CPUs."""
    ordered: Sequence[int] = sorted(set(cpus))
    parts: list[str] = []
    start = 0
    for index, cpu in enumerate(ordered):
        if index + 1 < len(ordered) and ordered[index + 1] == cpu + 1:
            continue
        first = ordered[start]
        parts.append(str(cpu) if first == cpu else f"{first}-{cpu}")
        start = index + 1
    return ",".join(parts)
