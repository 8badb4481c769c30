"""Host and device clocks on one line, with a stated error.

Each round trip says that the device's clock had a value at some moment between two of the host's: the offset lies
between two bounds, whatever the trip's two halves took. Between the session's begin and its end the offset is taken
to move evenly; it may have moved otherwise, so all of the movement counts as error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from edgekit.schema.run import ClockReading, Clocks

#: Where the clocks were read once only: two that run freely, one of them being corrected, drift less than this.
MAX_DRIFT_PPM = 1000
_PPM = 1_000_000
#: Times of a run's documents are in whole milliseconds.
_MILLISECOND = 1_000_000


@dataclass(frozen=True)
class Alignment:
    """From the host's clock to the device's.

    Attributes:
        host_ns: host times (monotonic) at which the offset is known: the begin, and the end if it was read.
        offsets_ns: what to add there to the host's time to get the device's.
        half_trip_ns: by how much each of them can be wrong.
        unix_ns: what to add to the host's monotonic clock to get its wall clock.
        wall_moved_ns: how far the host's wall clock moved against its monotonic one during the session.
    """

    host_ns: tuple[int, ...]
    offsets_ns: tuple[int, ...]
    half_trip_ns: int
    unix_ns: int
    wall_moved_ns: int

    @property
    def drift_ns(self) -> int | None:
        """How far the clocks moved against each other; None where they were compared once only."""
        return abs(self.offsets_ns[-1] - self.offsets_ns[0]) if len(self.offsets_ns) > 1 else None

    @property
    def jumped(self) -> bool:
        """They moved by more than clocks drift: the device slept, or was started anew."""
        drift = self.drift_ns
        if drift is None:
            return False
        return (drift - 2 * self.half_trip_ns) * _PPM > MAX_DRIFT_PPM * (self.host_ns[-1] - self.host_ns[0])

    def device_ns(self, host_ns: int) -> int:
        """The device's clock at a moment of the host's monotonic clock."""
        first, last = self.host_ns[0], self.host_ns[-1]
        moved = self.offsets_ns[-1] - self.offsets_ns[0]
        share = min(max(host_ns - first, 0), last - first)
        return host_ns + self.offsets_ns[0] + (moved * share // (last - first) if last > first else 0)

    def error_ns(self, host_ns: int) -> int:
        """By how much :meth:`device_ns` can be wrong there."""
        outside = max(self.host_ns[0] - host_ns, host_ns - self.host_ns[-1], 0)
        return self.half_trip_ns + (self.drift_ns or 0) + outside * MAX_DRIFT_PPM // _PPM

    def at(self, text: str) -> tuple[int, int] | None:
        """The device's clock and its error at a time that a document of the host tells; None where it is no time."""
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            return None
        if moment.tzinfo is None:
            return None
        host = round(moment.timestamp() * 1000) * _MILLISECOND - self.unix_ns
        return self.device_ns(host), self.error_ns(host) + self.wall_moved_ns + _MILLISECOND


def align(clocks: Clocks | None) -> Alignment | None:
    """The alignment of a session's readings; None where there are none that make sense."""
    if clocks is None:
        return None
    places = [place for place in (_place(clocks.begin), _place(clocks.end)) if place is not None]
    if not places:
        return None
    walls = [reading.host_unix_ns - reading.host_before_ns for reading in (*clocks.begin, *clocks.end)]
    return Alignment(
        host_ns=tuple(place[0] for place in places),
        offsets_ns=tuple(place[1] for place in places),
        half_trip_ns=max(place[2] for place in places),
        unix_ns=walls[0],
        wall_moved_ns=max(walls) - min(walls),
    )


def _place(readings: Sequence[ClockReading]) -> tuple[int, int, int] | None:
    """Host time, offset and error from the shortest round trip."""
    sound = [reading for reading in readings if reading.host_after_ns >= reading.host_before_ns]
    if not sound:
        return None
    best = min(sound, key=lambda reading: reading.host_after_ns - reading.host_before_ns)
    middle = (best.host_before_ns + best.host_after_ns) // 2
    half = (best.host_after_ns - best.host_before_ns) // 2 + 1
    # The clocks drift during the trip, too.
    return middle, best.device_ns - middle, half + half * MAX_DRIFT_PPM // _PPM + 1
