"""How cool and how quiet a device must be before something is timed on it."""

from __future__ import annotations

import msgspec


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Limits that hold before a launch; None is no limit."""

    #: Of the hottest sensor at a processor, or of the hottest there is where none has such a name.
    max_temperature_c: float | None = None
    #: Share of all CPUs' time, 0 to 1, that may be taken by what else runs there.
    max_load: float | None = None
