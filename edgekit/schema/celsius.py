"""What a sensor's number means in degrees Celsius; one reading for the shell scripts and for the probe."""

from __future__ import annotations

import functools
import re

from edgekit.schema.run import Conditions

#: Temperatures outside of this are a broken or absent sensor, not a device.
_COLDEST_C, _HOTTEST_C = -40.0, 150.0

#: Names that kernels and vendors give to sensors in or at the processor.
_PROCESSOR = re.compile(
    r"cpu|\bsoc\b|soc[-_]|tsens|x86_pkg|coretemp|k10temp|zenpower|package|\bap\b|^big|^little|^mid|bigcore|littlecore"
    r"|center-thermal|acpitz",
    re.IGNORECASE,
)


def sane_celsius(value: float) -> float | None:
    """``value`` when a device can have this temperature; exactly 0 is what absent sensors report."""
    return value if value != 0 and _COLDEST_C <= value <= _HOTTEST_C else None


@functools.lru_cache(maxsize=65536)
def zone_celsius(value: int) -> float | None:
    """Degrees Celsius from a thermal zone's number.

    The kernel's unit is a thousandth of a degree; some vendors give whole degrees.
    """
    return sane_celsius(value / 1000 if abs(value) >= 1000 else float(value))


def is_at_processor(sensor: str) -> bool:
    """Whether a sensor's name says that it sits in or at the processor."""
    return _PROCESSOR.search(sensor) is not None


def hottest(now: Conditions) -> tuple[str, float] | None:
    """The sensor that counts, and its degrees Celsius: the hottest at a processor, else the hottest of all."""
    at_processor = {name: value for name, value in now.temperature_c.items() if is_at_processor(name)}
    found = at_processor or now.temperature_c
    return max(found.items(), key=lambda item: item[1]) if found else None
