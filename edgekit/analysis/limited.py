"""Whether a device lowered its own clock rates while runs were measured, as its kernel told the probe."""

from __future__ import annotations

from collections.abc import Sequence

from edgekit.analysis.load import RunData
from edgekit.analysis.sensors import series

#: A limit lowered by less is a rounding of the table of clock rates.
MIN_LOWERED = 0.03

#: Limits of one launch: highest and lowest allowed rate by sensor, GHz.
_Limits = dict[str, tuple[float, float]]


def lowered_limits(runs: Sequence[RunData], threads: int) -> list[str]:
    """What forbids a verdict between these runs: clock rates that were limited in one launch and not in another.

    Only launches with so many threads count. A limit that stood the whole time is no reason:
    that is the device as it was asked about. Empty where nothing was lowered or nothing is known.
    """
    launches: list[_Limits] = []
    for run in runs:
        for data in run.launches:
            # A golden check alone times nothing.
            if data.stream is None or data.plan is None or data.launch.threads != threads or not data.plan.trials:
                continue
            limits: _Limits = {}
            for entry in series(data.stream, "frequency_limit"):
                known = [value for value in entry.values if value is not None]
                if known:
                    limits[entry.sensor.name] = (max(known), min(known))
            if limits:
                launches.append(limits)
    found = []
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
