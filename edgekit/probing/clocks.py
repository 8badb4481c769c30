"""The device's clock beside this host's, by round trips."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence

from edgekit.device.base import Device
from edgekit.errors import EdgekitError
from edgekit.schema.run import ClockReading

#: The shortest of a few round trips is near what the transport can do; more would only delay the session.
ROUND_TRIPS = 5
#: A clock is read in milliseconds; a device that needs longer is not ready, and the session will say why.
TIMEOUT_S = 10.0


def read_clock(device: Device, probe: Sequence[str], *, count: int = ROUND_TRIPS) -> list[ClockReading]:
    """Ask the device for its clock ``count`` times, noting this host's before and after.

    Args:
        device: where.
        probe: the command that starts the probe there.
        count: of round trips.

    What fails is left out: a session is no worse for it, only its timeline is less exact.
    """
    readings = []
    for _ in range(count):
        unix = time.time_ns()
        before = time.monotonic_ns()
        with contextlib.suppress(EdgekitError, ValueError):
            answer = device.run([*probe, "--clock"], timeout=TIMEOUT_S)
            after = time.monotonic_ns()
            if answer.exit_code == 0:
                reading = ClockReading(
                    host_before_ns=before, device_ns=int(answer.stdout), host_after_ns=after, host_unix_ns=unix
                )
                readings.append(reading)
    return readings
