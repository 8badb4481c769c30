"""What a comparison takes from the events of one run: derived from that run alone, so that an index can keep it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace

import msgspec

from edgekit.analysis import memory, metrics, statistics
from edgekit.analysis.disturbance import Others, others_of
from edgekit.analysis.energy import Energy, energies
from edgekit.analysis.limited import Clocks, clocks_of
from edgekit.analysis.load import RunData
from edgekit.analysis.memory import ContextGrowth, MemorySplit
from edgekit.analysis.metrics import LoadTimes, MemoryPeak, Sample, Test
from edgekit.analysis.statistics import Estimate
from edgekit.analysis.sustained import Sustained, sustained
from edgekit.analysis.usage import Usage, usage_of
from edgekit.schema.run import GoldenVerdict


class TestFacts(msgspec.Struct, frozen=True, array_like=True):
    """One test of a run: all its samples, without the times of single tokens, and what they sum up to."""

    __test__ = False  # Not a test of ours: pytest would collect it.

    test: Test
    #: In the order of measuring, warm-up included.
    samples: list[Sample]
    #: Speed of the samples that count, tokens a second.
    speed: Estimate
    #: 50th, 90th and 99th percentile of the steps of a decode that count, and the longest; ms.
    token_ms: tuple[float | None, float | None, float | None, float | None]
    #: Why the speeds cannot carry a verdict; empty where they can.
    unstable: list[str]
    usage: Usage | None
    #: By the device's own sensors, or why it is not told.
    energy: Energy | str | None


class ThreadsFacts(msgspec.Struct, frozen=True, array_like=True):
    """What all tests of a run with as many threads share."""

    threads: int
    peak: MemoryPeak | None
    #: Bytes.
    peak_pss: int | None
    split: MemorySplit | None
    growth: list[ContextGrowth]
    clocks: Clocks


class RunFacts(msgspec.Struct, frozen=True, array_like=True):
    """One run."""

    #: Trials that ended and do not count, each with the reason.
    dropped: list[str]
    kernels: tuple[str, ...]
    #: What is wrong where not all launches ran on the same kernels.
    mixed_kernels: str | None
    loads: LoadTimes
    golden: GoldenVerdict | None
    #: Launches that measured something.
    measuring: int
    #: In :attr:`~edgekit.analysis.metrics.Test.order`.
    tests: list[TestFacts]
    threads: list[ThreadsFacts]
    sustained: list[Sustained]
    others: Others


@dataclass(frozen=True, eq=False)
class KnownRun(RunData):
    """A run whose facts were derived before. It equals the same run without them."""

    facts: RunFacts = field(repr=False)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RunData) and all(
            getattr(self, entry.name) == getattr(other, entry.name) for entry in fields(RunData)
        )


def known(data: RunData) -> KnownRun:
    """A run together with its facts, derived now."""
    return KnownRun(data.path, data.run, data.bundle, data.launches, data.faults, derive(data))


def facts_of(data: RunData) -> RunFacts:
    """The facts of a run, as they are known or derived now."""
    return data.facts if isinstance(data, KnownRun) else derive(data)


# One fact each, without deriving anything else.


def measuring(data: RunData) -> int:
    """How many launches of a run measured something."""
    if isinstance(data, KnownRun):
        return data.facts.measuring
    return sum(1 for launch in data.launches if launch.plan and launch.plan.trials)


def others(data: RunData) -> Others:
    """What others took of the device's processor while a run was measured."""
    return data.facts.others if isinstance(data, KnownRun) else others_of(data.launches)


def kernels(data: RunData) -> tuple[str, ...]:
    """Our kernels that a run ran on (see :func:`~edgekit.analysis.metrics.kernels_used`)."""
    return data.facts.kernels if isinstance(data, KnownRun) else metrics.kernels_used(data)


def golden(data: RunData) -> GoldenVerdict | None:
    """The golden check on the device (see :func:`~edgekit.analysis.metrics.golden_verdict`)."""
    return data.facts.golden if isinstance(data, KnownRun) else metrics.golden_verdict(data)


def derive(data: RunData) -> RunFacts:
    """The facts of a run, from its events."""
    found = metrics.all_samples(data)
    usage = usage_of(data) if found else {}
    energy = energies(data)
    return RunFacts(
        dropped=metrics.dropped_trials(data),
        kernels=metrics.kernels_used(data),
        mixed_kernels=metrics.mixed_kernels(data),
        loads=metrics.load_times(data),
        golden=metrics.golden_verdict(data),
        measuring=measuring(data),
        tests=[_test(test, samples, usage.get(test), energy.get(test)) for test, samples in found.items()],
        threads=[_threads(data, threads) for threads in dict.fromkeys(test.threads for test in found)],
        sustained=sustained(data),
        others=others_of(data.launches),
    )


def _test(test: Test, samples: Sequence[Sample], usage: Usage | None, energy: Energy | str | None) -> TestFacts:
    counted = [sample for sample in samples if not sample.warmup]
    speeds = [sample.tok_s for sample in counted]
    steps = [step for sample in counted for step in sample.token_ms]
    return TestFacts(
        test=test,
        samples=[replace(sample, token_ms=()) for sample in samples],
        speed=statistics.estimate(speeds),
        token_ms=(*_percentiles(steps), max(steps, default=None)),
        unstable=list(statistics.stability(speeds).reasons),
        usage=usage,
        energy=energy,
    )


def _threads(data: RunData, threads: int) -> ThreadsFacts:
    return ThreadsFacts(
        threads=threads,
        peak=metrics.memory_peak(data, threads),
        peak_pss=memory.peak_pss(data, threads),
        split=memory.split(data, threads),
        growth=memory.growth(data, threads),
        clocks=clocks_of(data, threads),
    )


def _percentiles(steps: Sequence[float]) -> tuple[float | None, float | None, float | None]:
    """50th, 90th and 99th percentile, linear between neighbours."""
    if not steps:
        return None, None, None
    ordered = sorted(steps)

    def at(share: float) -> float:
        below, part = divmod(share * (len(ordered) - 1), 1)
        first = ordered[int(below)]
        return first + part * (ordered[min(int(below) + 1, len(ordered) - 1)] - first)

    return at(0.50), at(0.90), at(0.99)
