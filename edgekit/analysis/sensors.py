"""The device's sensors over one launch, on the clock of its tokens, in the field's units."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgekit.schema.celsius import sane_celsius, zone_celsius
from edgekit.schema.event import ConditionSamples, Sensor, SensorKind, Sensors, SensorUnit, Stream, Unreadable

#: How many of a sensor's unit are one of the field's, and that one.
_SCALES: dict[SensorUnit, tuple[int, str]] = {
    "kHz": (1_000_000, "GHz"),
    "mC": (1_000, "°C"),
    "dC": (10, "°C"),
    "uA": (1_000_000, "A"),
    "uV": (1_000_000, "V"),
    "uW": (1_000_000, "W"),
    "uJ": (1_000_000, "J"),
    "": (1, ""),
}


@dataclass(frozen=True)
class Series:
    """One sensor's samples; equal lengths.

    ``values`` are in ``unit`` (GHz, °C, A, V, W, J, or none for a switch); None is what could not be read or what no
    device can have. ``took_ns`` is how long each row of samples took to read, half of it to either side of ``at_ns``.
    """

    sensor: Sensor
    unit: str
    at_ns: list[int]
    took_ns: list[int]
    values: list[float | None]


def series(stream: Stream, *kinds: SensorKind) -> list[Series]:
    """The samples of all sensors of these kinds (of all, where none is named), in the probe's order."""
    listed = next((event.sensors for event in stream.events if isinstance(event, Sensors)), [])
    found = {
        place: Series(sensor, _SCALES[sensor.unit][1], [], [], [])
        for place, sensor in enumerate(listed)
        if not kinds or sensor.kind in kinds
    }
    if not found:
        return []
    for event in stream.events:
        if not isinstance(event, ConditionSamples):
            continue
        for place, column in enumerate(event.values, start=event.first):
            entry = found.get(place)
            if entry is not None:
                entry.at_ns.extend(event.at_ns)
                entry.took_ns.extend(event.took_ns)
                entry.values.extend(_values(entry.sensor, column))
    return list(found.values())


def unreadable(stream: Stream) -> list[Unreadable] | None:
    """What the device has and does not tell; None where the probe was not asked to look."""
    return next((event.unreadable for event in stream.events if isinstance(event, Sensors)), None)


def _values(sensor: Sensor, column: Sequence[int | None]) -> list[float | None]:
    if sensor.kind == "temperature":
        if sensor.unit == "mC":
            return [None if raw is None else zone_celsius(raw) for raw in column]
        return [None if raw is None else sane_celsius(raw / 10) for raw in column]
    scale = _SCALES[sensor.unit][0]
    if sensor.kind in ("frequency", "frequency_limit"):
        return [None if raw is None or raw <= 0 else raw / scale for raw in column]
    return [None if raw is None else raw / scale for raw in column]
