"""Sustained decoding: speed, temperature and frequency over time, the level it settles at, and when."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from edgekit.analysis.load import LaunchData, RunData
from edgekit.analysis.metrics import NS_PER_S, Test, key_of
from edgekit.analysis.sensors import series
from edgekit.analysis.settling import settle
from edgekit.schema.event import SensorKind, Stream, TrialResult
from edgekit.schema.plan import Trial

#: More points than a plot can show help nobody, and a level is found as well from these.
MAX_POINTS = 240
#: A pause of this many seconds, and of many times a usual step, is no decoding: the device slept or its clock jumped.
GAP_S = 1.0
_GAP_STEPS = 50
#: Share of the points that makes the speed at the start.
_START = 0.05


@dataclass(frozen=True)
class SpeedPoint:
    """Decode speed over some whole passes; ``at_s`` is their middle, in seconds since the first step began."""

    at_s: float
    tok_s: float
    tokens: int


@dataclass(frozen=True)
class Sustained:
    """One launch that decoded for a time.

    Times are seconds since its first step began. ``start_tok_s`` is the median of the first twentieth of the
    points. ``level_tok_s`` is what the speed settles at, with its 95% interval, and ``settled_at_s`` when, with the
    interval of resampled series; all of them None where it did not settle, and ``reason`` says why.
    """

    launch: int
    test: Test
    asked_s: float
    lasted_s: float
    tokens: int
    points: list[SpeedPoint]
    start_tok_s: float
    level_tok_s: float | None
    level_low: float | None
    level_high: float | None
    settled_at_s: float | None
    settled_low_s: float | None
    settled_high_s: float | None
    reason: str | None
    #: ``[(seconds, value)]`` by sensor in degrees Celsius, and by policy in GHz; empty where nothing was told.
    temperature_c: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    frequency_ghz: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    #: What was left out of the points, and why.
    gaps: list[str] = field(default_factory=list)

    @property
    def settled(self) -> bool:
        """Whether there is a level."""
        return self.level_tok_s is not None

    @property
    def retained(self) -> float | None:
        """The level over the speed at the start; None where it did not settle."""
        return self.level_tok_s / self.start_tok_s if self.level_tok_s is not None else None


def sustained(run: RunData) -> list[Sustained]:
    """Every sustained trial of a run, in the order of measuring; a cut one is as long as it got."""
    found = []
    for data in sorted(run.launches, key=lambda entry: entry.launch.position):
        if data.plan is None or data.stream is None:
            continue
        for trial in data.plan.trials:
            if trial.seconds is not None:
                made = _sustained(data, trial, data.plan.threads)
                if made is not None:
                    found.append(made)
    return found


@dataclass(frozen=True)
class _Pass:
    start_ns: int
    end_ns: int
    tokens: int


def _sustained(data: LaunchData, trial: Trial, threads: int) -> Sustained | None:
    assert data.stream is not None
    assert trial.seconds is not None
    results = [event for event in data.stream.events if isinstance(event, TrialResult) and event.trial == trial.id]
    passes, gaps = _passes(results, trial.tokens)
    if not passes:
        return None
    zero = passes[0].start_ns
    points = _points(passes, zero)
    outcome = settle([point.tok_s for point in points])

    def moment(index: int | None) -> float | None:
        # From the first point on: settled from the start.
        return None if index is None else 0.0 if index == 0 else points[index].at_s

    return Sustained(
        launch=data.launch.index,
        test=key_of(trial, threads),
        asked_s=trial.seconds,
        lasted_s=(passes[-1].end_ns - zero) / NS_PER_S,
        tokens=sum(entry.tokens for entry in passes),
        points=points,
        start_tok_s=statistics.median(point.tok_s for point in points[: max(1, round(len(points) * _START))]),
        level_tok_s=outcome.level,
        level_low=outcome.low,
        level_high=outcome.high,
        settled_at_s=moment(outcome.start),
        settled_low_s=moment(outcome.start_low),
        settled_high_s=moment(outcome.start_high),
        reason=outcome.reason,
        temperature_c=_over_time(data.stream, "temperature", zero),
        frequency_ghz=_over_time(data.stream, "frequency", zero),
        gaps=gaps,
    )


def _over_time(stream: Stream, kind: SensorKind, zero: int) -> dict[str, list[tuple[float, float]]]:
    """Samples by sensor on the speed's clock; what could not be read is left out, not filled in."""
    found = {}
    for entry in series(stream, kind):
        told = zip(entry.at_ns, entry.values, strict=True)
        samples = [((at - zero) / NS_PER_S, value) for at, value in told if value is not None]
        if samples:
            found[entry.sensor.name] = samples
    return found


def _passes(results: Iterable[TrialResult], tokens: int) -> tuple[list[_Pass], list[str]]:
    """Passes that can be used, in order; the others are named."""
    whole, gaps = [], []
    last_end, expected = -1, 0
    for result in results:
        part = result.part if result.part is not None else expected
        if part > expected:
            gaps.append(f"{part - expected} passes before pass {part} are missing")
        expected = part + 1
        if len(result.token_ns) != tokens:
            gaps.append(f"pass {part} reported {len(result.token_ns)} token times for {tokens} tokens")
        elif result.start_ns < last_end:
            gaps.append(f"pass {part} begins before the one before it ended: the clock jumped")
        else:
            last_end = result.end_ns
            whole.append((part, result))
    steps = [later - earlier for _, result in whole for earlier, later in itertools.pairwise(_moments(result))]
    if not steps:
        return [], gaps
    limit = max(GAP_S * NS_PER_S, _GAP_STEPS * statistics.median(steps))
    kept = []
    for part, result in whole:
        longest = max(later - earlier for earlier, later in itertools.pairwise(_moments(result)))
        if longest > limit:
            gaps.append(f"a step of pass {part} took {longest / NS_PER_S:.3g} s: the device slept or its clock jumped")
        else:
            kept.append(_Pass(result.start_ns, result.end_ns, tokens))
    for before, after in itertools.pairwise(kept):
        pause = after.start_ns - before.end_ns
        if pause > limit:
            gaps.append(f"{pause / NS_PER_S:.3g} s without a step")
    return kept, gaps


def _moments(result: TrialResult) -> list[int]:
    return [result.start_ns, *result.token_ns]


def _points(passes: Sequence[_Pass], zero: int) -> list[SpeedPoint]:
    """Whole passes together, so that each point covers the same depths, in at most ``MAX_POINTS``."""
    together = -(-len(passes) // MAX_POINTS)
    points = []
    for first in range(0, len(passes), together):
        batch = passes[first : first + together]
        tokens = sum(entry.tokens for entry in batch)
        seconds = sum(entry.end_ns - entry.start_ns for entry in batch) / NS_PER_S
        middle = (batch[0].start_ns + batch[-1].end_ns) / 2
        points.append(SpeedPoint(at_s=(middle - zero) / NS_PER_S, tok_s=tokens / seconds, tokens=tokens))
    return points
