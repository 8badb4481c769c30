"""What a sensor's number means in degrees Celsius; one reading for the shell scripts and for the probe."""

from __future__ import annotations

#: Temperatures outside of this are a broken or absent sensor, not a device.
_COLDEST_C, _HOTTEST_C = -40.0, 150.0


def sane_celsius(value: float) -> float | None:
    """``value`` when a device can have this temperature; exactly 0 is what absent sensors report."""
    return value if value != 0 and _COLDEST_C <= value <= _HOTTEST_C else None


def zone_celsius(value: int) -> float | None:
    """Degrees Celsius from a thermal zone's number.

    The kernel's unit is a thousandth of a degree; some vendors give whole degrees.
    """
    return sane_celsius(value / 1000 if abs(value) >= 1000 else float(value))
