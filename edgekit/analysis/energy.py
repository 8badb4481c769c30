"""Energy per token, with its uncertainty and what it rests on; or why it cannot be measured here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

import msgspec

from edgekit.analysis import metrics, sensors, statistics
from edgekit.analysis.load import LaunchData, RunData
from edgekit.analysis.metrics import Test
from edgekit.analysis.power import CounterTrace, GapError, PowerTrace, unwrap, usual_distance
from edgekit.analysis.power_meter import PlacedMeter
from edgekit.schema.event import Hello, TrialResult

#: Watts that a device which computes can take; outside of this the driver counts in another unit.
LEAST_WATTS, MOST_WATTS = 0.05, 1000.0
#: A trial shorter than this many changes of the sensor's value says more about the sensor than about the trial.
LEAST_CHANGES = 3
#: RAPL counts about once a millisecond: a reading may be that old.
COUNTER_AGE_S = 0.001


class Energy(msgspec.Struct, frozen=True, kw_only=True):
    """Energy of one test. Idle consumption of what ``covers`` names is in it."""

    source: str
    #: ``processor packages`` (no memory, screen or radio), ``whole device`` or ``whatever the meter feeds``.
    covers: str
    #: Median over trials; the interval holds the repetitions' 95% interval of the median and the bounds of
    #: integration. Below six trials the repetitions' range stands for their interval.
    joules_per_token: float
    low: float
    high: float
    #: Median over trials of the mean power.
    watts: float
    trials: int
    #: Samples a second, and how many of them brought a new value: what the figures rest on.
    sampling_hz: float
    refreshed_hz: float
    #: Half the bounds' width over the value, of the worst trial.
    integration_error: float
    #: By how much the meter's clock may be wrong beside the probe's; None for sensors of the device.
    alignment_error_s: float | None = None


@dataclass(frozen=True)
class _Source:
    """Something that tells power in one launch, on the probe's clock in seconds."""

    name: str
    covers: str
    trace: CounterTrace | PowerTrace
    sampling_hz: float
    refreshed_hz: float
    #: Whether it knows about the region: None, or why not.
    objection: Callable[[float, float], str | None]
    alignment_error_s: float | None = None
    #: The trace's clock less the probe's.
    ahead_s: float = 0.0


def energies(run: RunData, meter: PlacedMeter | None = None) -> dict[Test, Energy | str]:
    """Energy of each test of the run, or the reason why it is not measurable.

    Args:
        run: the run.
        meter: an external meter's samples, which count instead of the device's own sensors.
    """
    found: dict[Test, list[tuple[float, float, float, float]]] = {}
    reasons: dict[Test, list[str]] = {}
    used: dict[Test, _Source] = {}
    rates: dict[Test, list[float]] = {}
    for data in run.launches:
        source: _Source | str | None = None
        for trial, result in metrics.counted_trials(data):
            test = metrics.key_of(trial, data.launch.threads)
            reasons.setdefault(test, [])
            if source is None:
                source = _meter_source(data, meter) if meter else _own_source(data)
            if isinstance(source, str):
                reasons[test].append(source)
                continue
            measured = _of_trial(source, result)
            if isinstance(measured, str):
                reasons[test].append(measured)
                continue
            seconds = (result.end_ns - result.start_ns) / 1e9
            found.setdefault(test, []).append(
                (
                    measured[0] / trial.tokens,
                    measured[1] / trial.tokens,
                    measured[2] / trial.tokens,
                    measured[0] / seconds,
                )
            )
            used[test] = source
            rates.setdefault(test, []).append(source.refreshed_hz)
    answers: dict[Test, Energy | str] = {}
    for test, why in reasons.items():
        if test in found:
            answers[test] = _summary(used[test], found[test], min(rates[test]))
        else:
            answers[test] = f"not measurable here: {'; '.join(dict.fromkeys(why))}"
    return answers


def _summary(source: _Source, trials: Sequence[tuple[float, float, float, float]], refreshed_hz: float) -> Energy:
    best = [entry[0] for entry in trials]
    middle = median(best)
    low, high = statistics.median_interval(best) if len(best) > 1 else (middle, middle)
    # The bounds of integration are not random: repeating does not narrow them.
    below = max((value - floor) / value for value, floor, _, _ in trials)
    above = max((ceiling - value) / value for value, _, ceiling, _ in trials)
    return Energy(
        source=source.name,
        covers=source.covers,
        joules_per_token=middle,
        low=max(0.0, low * (1 - below)),
        high=high * (1 + above),
        watts=median(entry[3] for entry in trials),
        trials=len(trials),
        sampling_hz=source.sampling_hz,
        refreshed_hz=refreshed_hz,
        integration_error=max(below, above),
        alignment_error_s=source.alignment_error_s,
    )


def _of_trial(source: _Source, result: TrialResult) -> tuple[float, float, float] | str:
    start, end = result.start_ns / 1e9, result.end_ns / 1e9
    objection = source.objection(start, end)
    if objection:
        return objection
    if (end - start) * source.refreshed_hz < LEAST_CHANGES:
        return (
            f"{source.name}: a trial of {end - start:.3g} s is too short for a value that changes "
            f"{source.refreshed_hz:.3g} times a second (measure more tokens)"
        )
    try:
        joules = source.trace.energy(start + source.ahead_s, end + source.ahead_s)
    except GapError as error:
        return f"{source.name}: {error}"
    watts = joules.best / (end - start)
    if not LEAST_WATTS <= watts <= MOST_WATTS:
        return f"{source.name} tells {watts:.3g} W, which no device that computes takes: its unit may be another one"
    return joules.best, joules.low, joules.high


def _own_source(data: LaunchData) -> _Source | str:
    """What the device itself tells: counters of energy first, then its battery."""
    if data.stream is None:
        return "the launch has no events"
    seen = data.sensors("energy", "current", "voltage", "power", "external_power")
    unreadable = sensors.unreadable(data.stream)
    if unreadable is None:
        return "current, voltage and energy were not sampled (power_hz is 0, or an older probe)"
    packages = [entry for entry in seen if entry.sensor.kind == "energy" and entry.sensor.name.startswith("package-")]
    if packages:
        return _counter_source(packages)
    if any(entry.sensor.kind in ("current", "power") for entry in seen):
        return _battery_source(seen)
    refused = [entry for entry in unreadable if "/power_supply/" in entry.source or "energy_uj" in entry.source]
    if refused:
        return "; ".join(f"{entry.source}: {entry.reason}" for entry in refused[:3])
    return "the device shows neither a battery's current nor a counter of energy"


def _counter_source(packages: Sequence[sensors.Series]) -> _Source | str:
    names = " + ".join(entry.sensor.name for entry in packages)
    at_s, rows = _complete(packages)
    if len(at_s) < 2:
        return f"RAPL {names}: fewer than two samples"
    totals = [0.0] * len(at_s)
    for column, entry in zip(zip(*rows, strict=True), packages, strict=True):
        wraps_at = entry.sensor.wraps_at
        joules = unwrap(column, None if wraps_at is None else wraps_at / 1e6)
        if joules is None:
            return f"RAPL {entry.sensor.name}: the counter fell, and nothing says where it begins again"
        totals = [total + value for total, value in zip(totals, joules, strict=True)]
    slack = COUNTER_AGE_S + max(packages[0].took_ns, default=0) / 2e9
    return _Source(
        name=f"RAPL {names}",
        covers="processor packages",
        trace=CounterTrace(at_s, totals, slack_s=slack),
        sampling_hz=1 / usual_distance(at_s),
        refreshed_hz=_changes(totals) / (at_s[-1] - at_s[0]),
        objection=lambda start, end: None,
    )


def _battery_source(seen: Sequence[sensors.Series]) -> _Source | str:
    kinds = {entry.sensor.kind: entry for entry in reversed(seen)}
    chosen = [kinds[kind] for kind in ("current", "voltage") if kind in kinds]
    if len(chosen) < 2:
        if "power" not in kinds:
            return f"battery {chosen[0].sensor.name}: a current without a voltage"
        chosen = [kinds["power"]]
    name = f"battery {chosen[0].sensor.name}"
    at_s, rows = _complete(chosen)
    if len(at_s) < 2:
        return f"{name}: fewer than two samples"
    # The sign of a discharging current is a driver's own choice; that it discharges is known from the chargers.
    watts = [abs(row[0] * row[1]) if len(row) == 2 else abs(row[0]) for row in rows]
    chargers = [entry for entry in seen if entry.sensor.kind == "external_power"]

    def charged(start: float, end: float) -> str | None:
        for entry in chargers:
            for at, value in zip(entry.at_ns, entry.values, strict=True):
                if start <= at / 1e9 <= end and value:
                    return (
                        f"on external power ({entry.sensor.name}): the battery's current is not what the device takes"
                    )
        return None

    return _Source(
        name=name,
        covers="whole device",
        trace=PowerTrace(at_s, watts),
        sampling_hz=1 / usual_distance(at_s),
        refreshed_hz=_changes(watts) / (at_s[-1] - at_s[0]),
        objection=charged,
    )


def _meter_source(data: LaunchData, meter: PlacedMeter) -> _Source | str:
    hello = data.stream.events[0] if data.stream and data.stream.events else None
    if not isinstance(hello, Hello):
        return "the launch does not say when it began"
    return _Source(
        name=f"power meter {meter.name}",
        covers="whatever the meter feeds",
        trace=meter.trace,
        sampling_hz=1 / meter.trace.usual_s,
        # A steady load gives a good meter the same value again and again.
        refreshed_hz=1 / meter.trace.usual_s,
        objection=lambda start, end: None,
        alignment_error_s=meter.trace.slack_s,
        ahead_s=(hello.unix_ns - hello.t) / 1e9,
    )


def _complete(columns: Sequence[sensors.Series]) -> tuple[list[float], list[list[float]]]:
    """Moments at which all of these gave a value, and the values; a sample that is missing leaves a gap."""
    at_s: list[float] = []
    rows: list[list[float]] = []
    for at_ns, *row in zip(columns[0].at_ns, *(entry.values for entry in columns), strict=False):
        values = [value for value in row if value is not None]
        if len(values) == len(columns) and (not at_s or at_ns / 1e9 > at_s[-1]):
            at_s.append(at_ns / 1e9)
            rows.append(values)
    return at_s, rows


def _changes(values: Sequence[float]) -> int:
    return sum(one != other for one, other in pairwise(values))
