"""Figures of one run, each defined exactly. Times come from the probe's monotonic clock.

None of them includes tokenization, sampling or detokenization: the probe feeds token
ids and reads logits. A warm-up trial is never counted, and neither is a trial that
did not deliver what its plan asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from operator import sub
from typing import Literal

from edgekit.analysis.disturbance import MarkKind
from edgekit.analysis.disturbance import marks as changed
from edgekit.analysis.load import LaunchData, RunData
from edgekit.analysis.warmup import warmup_rounds
from edgekit.schema.event import Bye, Loaded, MemorySamples, TrialResult
from edgekit.schema.plan import Trial, TrialKind
from edgekit.schema.run import GoldenVerdict

#: A load is cold when at most this share of the artefact was in the page cache, warm from ``WARM_SHARE`` on.
COLD_SHARE = 0.05
WARM_SHARE = 0.95

NS_PER_S = 1_000_000_000
NS_PER_MS = 1_000_000


@dataclass(frozen=True)
class Test:
    """What was timed. Two results answer the same question only if their tests are equal."""

    __test__ = False  # Not a test of ours: pytest would collect it.

    threads: int
    kind: TrialKind
    tokens: int
    depth: int = 0

    @property
    def name(self) -> str:
        """As llama-bench names it: ``pp512``, ``tg128``, ``pp512 @ d4096``."""
        return f"{'pp' if self.kind == 'prefill' else 'tg'}{self.tokens}" + (f" @ d{self.depth}" if self.depth else "")

    @property
    def order(self) -> tuple[int, bool, int, int]:
        """Sorts by threads, prefill before decode, then depth and length."""
        return (self.threads, self.kind == "decode", self.depth, self.tokens)


@dataclass(frozen=True)
class Sample:
    """One counted trial.

    ``seconds`` is ``end_ns - start_ns`` of the trial: for a prefill the forward pass of all
    ``tokens`` of the prompt, for a decode ``tokens`` steps of one token each.
    ``round`` is the plan's repetition, ``position`` the launch's place in the session's order.
    """

    test: Test
    round: int
    launch: int
    position: int
    start_ns: int
    seconds: float
    #: Decode only: milliseconds of each step, from the end of the step before (the first: from ``start_ns``).
    token_ms: tuple[float, ...] = ()
    #: What changed on the device while it was measured (see :mod:`edgekit.analysis.disturbance`).
    marks: tuple[MarkKind, ...] = ()
    #: Of a round that was still warming up.
    warmup: bool = False

    @property
    def tok_s(self) -> float:
        """Tokens per second: all tokens of the trial over all of its time."""
        return self.test.tokens / self.seconds


@dataclass(frozen=True)
class LoadTimes:
    """Seconds to open, parse and prepare the artefact, one entry a load.

    ``cold``: at most 5% of it was in the page cache before; ``warm``: at least 95% was, or the
    same process had loaded it before; ``other``: in between, or the kernel did not tell.
    """

    cold: list[float]
    warm: list[float]
    other: list[float]


@dataclass(frozen=True)
class MemoryPeak:
    """Largest resident memory of the process, bytes.

    ``peak`` is the kernel's high-water mark (VmHWM, which misses nothing) where it was
    reported, else the largest sample. ``anon`` and ``file`` are the split at the largest sample,
    so their sum can be below ``peak``; None without samples.
    """

    peak: int
    anon: int | None
    file: int | None


@dataclass(frozen=True)
class Timeline:
    """One launch on the probe's clock: memory samples and timed regions, seconds since the launch's first event."""

    launch: int
    threads: int
    at_s: list[float]
    anon: list[int]
    file: list[int]
    rss: list[int]
    #: ``load``, ``prefill`` or ``decode``; a name; start and end.
    regions: list[tuple[Literal["load", "prefill", "decode"], str, float, float]]


def key_of(trial: Trial, threads: int) -> Test:
    """The test that a trial is a sample of."""
    return Test(threads=threads, kind=trial.kind, tokens=trial.tokens, depth=trial.depth)


def counted_trials(data: LaunchData) -> Iterator[tuple[Trial, TrialResult]]:
    """Results of a launch that delivered what was asked for; warm-ups and trials that last for a time left out.

    A launch that was profiled has none: its times are no speed.
    """
    if data.plan is not None and not data.plan.profile:
        yield from delivered_trials(data)


def delivered_trials(data: LaunchData) -> Iterator[tuple[Trial, TrialResult]]:
    """The same of any launch, profiled or not."""
    if data.plan is None:
        return
    planned = {trial.id: trial for trial in data.plan.trials}
    for event in data.events(TrialResult):
        trial = planned.get(event.trial)
        counts = trial is not None and not trial.warmup and trial.seconds is None
        if trial is not None and counts and _delivered(trial, event):
            yield trial, event


def _delivered(trial: Trial, result: TrialResult) -> bool:
    return len(result.token_ns) == (1 if trial.kind == "prefill" else trial.tokens) and trial.tokens > 0


def dropped_trials(run: RunData) -> list[str]:
    """Trials that ended but do not count, each with the reason."""
    found = []
    for data in run.launches:
        if data.plan is None:
            continue
        planned = {trial.id: trial for trial in data.plan.trials}
        for event in data.events(TrialResult):
            trial = planned.get(event.trial)
            where = f"launch {data.launch.index}: trial {event.trial}"
            if trial is None:
                found.append(f"{where} is not in the plan")
            elif not _delivered(trial, event):
                found.append(f"{where} reported {len(event.token_ns)} token times for {trial.kind} of {trial.tokens}")
    return found


def samples(run: RunData) -> dict[Test, list[Sample]]:
    """The samples that count: all but those of rounds that the data show to be warm-up (see :func:`all_samples`)."""
    return {test: [sample for sample in found if not sample.warmup] for test, found in all_samples(run).items()}


def all_samples(run: RunData) -> dict[Test, list[Sample]]:
    """All samples by test, each list in the order of measuring, tests in :attr:`Test.order`.

    Samples of the first rounds that were slower than the later ones, over all tests of their kind, are marked as
    warm-up; and each tells what changed on the device while it was measured.
    """
    found: dict[Test, list[Sample]] = {}
    for data in sorted(run.launches, key=lambda entry: entry.launch.position):
        changes = changed(data)
        for trial, result in counted_trials(data):
            test = key_of(trial, data.launch.threads)
            steps = map(sub, result.token_ns, [result.start_ns, *result.token_ns]) if trial.kind == "decode" else ()
            found.setdefault(test, []).append(
                Sample(
                    test=test,
                    round=trial.repetition,
                    launch=data.launch.index,
                    position=data.launch.position,
                    start_ns=result.start_ns,
                    seconds=(result.end_ns - result.start_ns) / NS_PER_S,
                    token_ms=tuple([step / NS_PER_MS for step in steps]),
                    marks=tuple(sorted({mark.kind for mark in changes if mark.trial in (None, trial.id)})),
                )
            )
    for kind in ("prefill", "decode"):
        slow = warmup_rounds([entry for test, entry in found.items() if test.kind == kind])
        for test, entry in found.items():
            if slow and test.kind == kind:
                found[test] = [replace(sample, warmup=True) if sample.round in slow else sample for sample in entry]
    return dict(sorted(found.items(), key=lambda item: item[0].order))


def load_times(run: RunData) -> LoadTimes:
    """Load times of all launches, whatever their threads: only the first few loads of a session can be cold."""
    times = LoadTimes(cold=[], warm=[], other=[])
    for data in run.launches:
        for event in data.events(Loaded):
            seconds = (event.end_ns - event.start_ns) / NS_PER_S
            share = event.resident_before
            if event.load > 0 or (share is not None and share >= WARM_SHARE):
                times.warm.append(seconds)
            elif share is not None and share <= COLD_SHARE:
                times.cold.append(seconds)
            else:
                times.other.append(seconds)
    return times


def memory_peak(run: RunData, threads: int) -> MemoryPeak | None:
    """Largest resident memory over the launches with that many threads that ran trials; None when unknown."""
    peak = 0
    largest: tuple[int, int, int] | None = None
    for data in run.launches:
        if data.plan is None or data.launch.threads != threads or not data.plan.trials:
            continue
        uses = [event.memory for event in data.events(Loaded)] + [event.memory for event in data.events(Bye)]
        for use in uses:
            peak = max(peak, use.peak or 0, use.rss or 0)
        for event in data.events(MemorySamples):
            sample = max(zip(event.rss, event.anon, event.file, strict=True), default=None)
            if sample is not None:
                largest = max(largest or sample, sample)
    if largest is not None:
        peak = max(peak, largest[0])
    if not peak:
        return None
    return MemoryPeak(peak=peak, anon=largest[1] if largest else None, file=largest[2] if largest else None)


def timeline(data: LaunchData) -> Timeline | None:
    """Memory and timed regions of one launch; None when nothing was sampled."""
    if data.plan is None or data.stream is None or not data.stream.events:
        return None
    starts = [data.stream.events[0].t]
    for event in data.stream.events:
        if isinstance(event, Loaded):
            starts.append(event.start_ns)
        elif isinstance(event, MemorySamples):
            starts += event.at_ns[:1]
    zero = min(starts)

    def seconds(at_ns: int) -> float:
        return (at_ns - zero) / NS_PER_S

    result = Timeline(data.launch.index, data.plan.threads, [], [], [], [], [])
    for event in data.stream.events:
        if isinstance(event, Loaded):
            result.regions.append(("load", "load", seconds(event.start_ns), seconds(event.end_ns)))
        elif isinstance(event, MemorySamples):
            result.at_s.extend(map(seconds, event.at_ns))
            result.rss.extend(event.rss)
            result.anon.extend(event.anon)
            result.file.extend(event.file)
    for trial, outcome in counted_trials(data):
        name = key_of(trial, data.plan.threads).name
        result.regions.append((trial.kind, name, seconds(outcome.start_ns), seconds(outcome.end_ns)))
    return result if result.at_s else None


def kernels_used(run: RunData) -> tuple[str, ...]:
    """Which of our kernels the run's launches ran on, as the device reported them; empty: the runtime's own alone."""
    loads = (event for data in run.launches for event in data.events(Loaded))
    return tuple(sorted({name for load in loads for name in load.kernels}))


def mixed_kernels(run: RunData) -> str | None:
    """What is wrong where the launches of one run did not all run on the same kernels; None if they did."""
    found = {
        " and ".join(event.kernels) or "the runtime's own" for data in run.launches for event in data.events(Loaded)
    }
    return f"its launches ran on different kernels: {', '.join(sorted(found))}" if len(found) > 1 else None


def golden_verdict(run: RunData) -> GoldenVerdict | None:
    """The golden check on the device: a failed one where there is any, else the last; None when none ran."""
    verdicts = [data.launch.golden for data in run.launches if data.launch.golden is not None]
    failed = [verdict for verdict in verdicts if not verdict.passed]
    return failed[0] if failed else verdicts[-1] if verdicts else None
