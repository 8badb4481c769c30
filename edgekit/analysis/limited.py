"""Whether a device throttled itself while runs were measured: its kernel's clock limits, Android's own word."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import msgspec

from edgekit.analysis.load import LaunchData, RunData
from edgekit.analysis.sensors import Series

#: A limit lowered by less is a rounding of the table of clock rates.
MIN_LOWERED = 0.03

#: Limits of one launch: highest and lowest allowed rate by sensor, GHz.
_Limits = dict[str, tuple[float, float]]


class Clocks(msgspec.Struct, frozen=True, array_like=True):
    """What the launches of a run with so many threads told of the device's clock.

    A golden check alone times nothing and is left out.
    """

    #: One entry a launch that told any limit.
    limits: list[_Limits]
    #: Android's own word, one entry a launch that had it: 0 where it was not throttled, to 6.
    statuses: list[int]
    #: GHz of the fastest sensor, its median, one entry a launch; 0 where none was told.
    fastest: list[float]


def clocks_of(run: RunData, threads: int) -> Clocks:
    """What a run told in its launches with so many threads."""
    timed = [
        data
        for data in run.launches
        if data.stream is not None and data.plan is not None and data.launch.threads == threads and data.plan.trials
    ]
    return Clocks(
        limits=[limits for limits in map(_limits, timed) if limits],
        statuses=[status for status in map(_status, timed) if status is not None],
        fastest=[data.clock_ghz for data in timed],
    )


def lowered_limits(runs: Sequence[Clocks]) -> list[str]:
    """What forbids a verdict between these runs: clock rates that were limited in one launch and not in another.

    A limit that stood the whole time is no reason: that is the device as it was asked about; but a device that calls
    itself throttled is believed. Empty where nothing was lowered or nothing is known.
    """
    launches = [limits for run in runs for limits in run.limits]
    found = []
    statuses = [status for run in runs for status in run.statuses]
    if any(statuses):
        count = sum(status > 0 for status in statuses)
        found.append(
            f"throttling: the device called itself throttled (status {max(statuses)} of 6) "
            f"in {count} of {len(statuses)} launches"
        )
    for name in sorted({name for limits in launches for name in limits}):
        here = [limits[name] for limits in launches if name in limits]
        highest = max(high for high, _ in here)
        lowered = [low for _, low in here if low < (1 - MIN_LOWERED) * highest]
        if lowered:
            found.append(
                f"throttling: the kernel limited {name} to {min(lowered):.2f} of {highest:.2f} GHz "
                f"in {len(lowered)} of {len(here)} launches"
            )
    return found


def clock_stayed(earlier: Clocks, later: Clocks) -> bool:
    """Whether the device told its clock in every launch of both runs, and was not slower later.

    What is not told is no evidence.
    """
    if not earlier.fastest or not later.fastest or not all(earlier.fastest) or not all(later.fastest):
        return False
    return min(later.fastest) >= (1 - MIN_LOWERED) * statistics.median(earlier.fastest)


def _known(entry: Series) -> list[float]:
    return [value for value in entry.values if value is not None]


def _limits(data: LaunchData) -> _Limits:
    """What the probe sampled; where it could not, the readings before and after the launch."""
    limits: _Limits = {}
    for entry in data.sensors("frequency_limit"):
        known = _known(entry)
        if known:
            limits[entry.sensor.name] = (max(known), min(known))
    if limits:
        return limits
    readings = [reading for reading in (data.launch.before, data.launch.after) if reading is not None]
    for name in sorted({name for reading in readings for name in reading.frequency_limit_khz}):
        told = [reading.frequency_limit_khz[name] / 1e6 for reading in readings if name in reading.frequency_limit_khz]
        limits[name] = (max(told), min(told))
    return limits


def _status(data: LaunchData) -> int | None:
    readings = [reading for reading in (data.launch.before, data.launch.after) if reading is not None]
    return max((reading.thermal_status for reading in readings if reading.thermal_status is not None), default=None)
