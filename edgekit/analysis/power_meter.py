"""An external power meter: its CSV with its own clock, and that clock beside the probe's."""

from __future__ import annotations

import csv
import math
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median, pstdev

from edgekit.analysis.load import RunData
from edgekit.analysis.power import PowerTrace, usual_distance
from edgekit.errors import InputError
from edgekit.schema.event import Hello

#: Columns that are understood, and what one of theirs is in seconds, watts, amperes or volts.
TIME_COLUMNS = {"time_s": 1.0, "timestamp": 1.0, "unix_s": 1.0, "time_ms": 1e-3, "time_us": 1e-6, "time_ns": 1e-9}
POWER_COLUMNS = {"power_w": 1.0, "power_mw": 1e-3}
CURRENT_COLUMNS = {"current_a": 1.0, "current_ma": 1e-3}
VOLTAGE_COLUMNS = {"voltage_v": 1.0, "voltage_mv": 1e-3}

#: A meter of 1 kHz fills an hour with four million lines.
MAX_ROWS = 20_000_000
#: Load edges must stand out: power inside the launches above that between them, by this share of it.
LEAST_CONTRAST = 0.05
_COARSE_STEPS = 4000
_RESAMPLES = 40


@dataclass(frozen=True)
class Alignment:
    """The meter's clock beside the device's: device's wall clock = meter's time + ``offset_s``, give or take."""

    offset_s: float
    error_s: float
    how: str


@dataclass(frozen=True)
class Meter:
    """A meter's samples on its own clock; ``skipped`` lines held no number."""

    name: str
    at_s: list[float]
    watts: list[float]
    skipped: int


@dataclass(frozen=True)
class PlacedMeter:
    """A meter's samples on the device's wall clock."""

    name: str
    trace: PowerTrace
    alignment: Alignment
    skipped: int


def place_meter(path: Path, runs: Sequence[RunData], offset: str | None = None) -> PlacedMeter:
    """Read a meter's CSV and place it on the device's wall clock.

    Args:
        path: the CSV (see :func:`read_meter`).
        runs: all runs of the session, for the edges of their load.
        offset: as :func:`parse_offset` reads it; None finds it by the edges of the load.

    Raises:
        InputError: the file, the offset or the edges are of no use.
    """
    stated = None if offset is None else parse_offset(offset)
    meter = read_meter(path)
    found = stated or align(meter, runs)
    trace = PowerTrace([at + found.offset_s for at in meter.at_s], meter.watts, slack_s=found.error_s)
    return PlacedMeter(meter.name, trace, found, meter.skipped)


def read_meter(path: Path) -> Meter:
    """Read a meter's CSV with a header: a time column, and power or current and voltage.

    Lines without numbers are left out and counted; they leave a gap.

    Raises:
        InputError: unreadable, columns that are not understood, a clock that goes back, fewer than two samples.
    """
    at_s: list[float] = []
    watts: list[float] = []
    skipped = 0
    try:
        with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
            rows = csv.reader(file)
            header = [name.strip().lower() for name in next(rows, [])]
            columns = _columns(header, path)
            for row in rows:
                if len(at_s) + skipped >= MAX_ROWS:
                    raise InputError(f"read power meter from {path}: more than {MAX_ROWS} lines")
                values = [_number(row[place]) * scale if place < len(row) else math.nan for place, scale in columns]
                if not all(map(math.isfinite, values)):
                    skipped += 1
                    continue
                if at_s and values[0] <= at_s[-1]:
                    raise InputError(
                        f"read power meter from {path}: line {rows.line_num}: the clock does not go on",
                        hint="sort the lines by time, or give the part after the clock was set",
                    )
                at_s.append(values[0])
                watts.append(values[1] if len(values) == 2 else values[1] * values[2])
    except (OSError, csv.Error) as error:
        raise InputError(f"read power meter from {path}: {error}") from error
    if len(at_s) < 2:
        raise InputError(f"read power meter from {path}: fewer than two samples")
    return Meter(path.name, at_s, watts, skipped)


def parse_offset(text: str) -> Alignment:
    """``12.5±0.02``: seconds to add to the meter's clock, and by how much that may be wrong (``+-`` works, too).

    Raises:
        InputError: not of that form.
    """
    match = re.fullmatch(r"\s*([+-]?[0-9]+(?:\.[0-9]+)?)\s*(?:±|\+-|\+/-)\s*([0-9]+(?:\.[0-9]+)?)\s*", text)
    if match is None:
        raise InputError(
            f"the power meter's offset {text!r} is not of the form 12.5±0.02",
            hint="seconds to add to the meter's clock to get the device's wall clock, and how wrong that may be",
        )
    return Alignment(float(match.group(1)), float(match.group(2)), "as stated")


def align(meter: Meter, runs: Sequence[RunData]) -> Alignment:
    """Find the offset at which the launches lie where the meter saw most power: at the edges of the load.

    The error is the meter's sampling, and twice the scatter of the offsets that parts of the launches give.

    Raises:
        InputError: the trace is shorter than the session, or shows no such edges.
    """
    windows = sorted(window for run in runs for window in launch_windows(run))
    where = f"align the power meter's {meter.name} with the runs"
    hint = "give the offset: --power-offset SECONDS±ERROR"
    if not windows:
        raise InputError(f"{where}: the runs have no launches with a clock", hint=hint)
    trace = PowerTrace(meter.at_s, meter.watts)
    first, last = windows[0][0], max(end for _, end in windows)
    # Offsets at which the whole session lies within the trace.
    low, high = last - meter.at_s[-1], first - meter.at_s[0]
    if high <= low:
        raise InputError(
            f"{where}: the meter saw {meter.at_s[-1] - meter.at_s[0]:.1f} s, the session took {last - first:.1f} s",
            hint="begin before the session and end after it",
        )
    step = usual_distance(meter.at_s)
    best = _best_offset(trace, windows, low, high, step)
    inside = sum(trace.mean(start - best, end - best) * (end - start) for start, end in windows)
    busy = sum(end - start for start, end in windows)
    whole = trace.mean(meter.at_s[0], meter.at_s[-1]) * (meter.at_s[-1] - meter.at_s[0])
    idle = (meter.at_s[-1] - meter.at_s[0]) - busy
    outside = (whole - inside) / idle if idle > 0 else math.inf
    if inside / busy < outside * (1 + LEAST_CONTRAST):
        raise InputError(f"{where}: power inside the launches does not stand out from power between them", hint=hint)
    draw = random.Random(0)
    near = 20 * step
    parts = [
        _best_offset(trace, draw.choices(windows, k=len(windows)), max(low, best - near), min(high, best + near), step)
        for _ in range(_RESAMPLES)
    ]
    return Alignment(best, step + 2 * pstdev(parts) + abs(median(parts) - best), "by the edges of the load")


def launch_windows(run: RunData) -> list[tuple[float, float]]:
    """When each launch ran, on the device's wall clock, in seconds."""
    found = []
    for data in run.launches:
        if data.stream is None or len(data.stream.events) < 2:
            continue
        hello = data.stream.events[0]
        if isinstance(hello, Hello):
            end = max(event.t for event in data.stream.events)
            found.append((hello.unix_ns / 1e9, (hello.unix_ns + end - hello.t) / 1e9))
    return found


def _best_offset(
    trace: PowerTrace, windows: Sequence[tuple[float, float]], low: float, high: float, step: float
) -> float:
    """Coarse, then finer down to a tenth of a sample: the most energy inside the windows."""

    def inside(offset: float) -> float:
        return sum(trace.mean(start - offset, end - offset) * (end - start) for start, end in windows)

    width = max((high - low) / _COARSE_STEPS, step / 2)
    best = max((low + width * place for place in range(int((high - low) / width) + 1)), key=inside)
    while width > step / 10:
        width /= 4
        best = max((best + width * place for place in range(-4, 5)), key=lambda o: inside(min(high, max(low, o))))
        best = min(high, max(low, best))
    return best


def _columns(header: Sequence[str], path: Path) -> list[tuple[int, float]]:
    def find(known: dict[str, float]) -> tuple[int, float] | None:
        return next(((place, known[name]) for place, name in enumerate(header) if name in known), None)

    time, power = find(TIME_COLUMNS), find(POWER_COLUMNS)
    current, voltage = find(CURRENT_COLUMNS), find(VOLTAGE_COLUMNS)
    if time is not None and power is not None:
        return [time, power]
    if time is not None and current is not None and voltage is not None:
        return [time, current, voltage]
    raise InputError(
        f"read power meter from {path}: its first line names no time and power",
        hint=f"columns: one of {', '.join(TIME_COLUMNS)}; and one of {', '.join(POWER_COLUMNS)}, or one of "
        f"{', '.join(CURRENT_COLUMNS)} with one of {', '.join(VOLTAGE_COLUMNS)}",
    )


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
