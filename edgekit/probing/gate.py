"""The conditions gate: a launch waits until the device is cool and quiet, or the session gives up.

What the device does not tell cannot hold a launch up: it is unknown, and recorded as that.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from edgekit.device import conditions
from edgekit.device.base import Device
from edgekit.errors import NotReadyError, UnsupportedError
from edgekit.progress import Progress, ProgressEvent, silent
from edgekit.schema.celsius import hottest
from edgekit.schema.limits import Limits
from edgekit.schema.protocol import Protocol
from edgekit.schema.run import Conditions

#: Where only a time to wait was given: the share of the CPUs that others may take …
DEFAULT_MAX_LOAD = 0.10
#: … and how much hotter than at the session's beginning the device may be, where nobody set a limit for it.
DEFAULT_RISE_C = 3.0
#: How long a launch waits where limits were given and no time.
DEFAULT_WAIT_S = 600.0
#: Between two looks at a device. Looking costs CPU time there, so not too often.
POLL_S = 2.0
#: The load is counted over at least this long; the kernel's ticks are 10 ms.
LOAD_S = 1.0


def busy_share(before: Conditions | None, now: Conditions) -> float | None:
    """Share of all CPUs' time that was taken between two readings, 0 to 1.

    None where the device does not tell, where no time passed, or where its counters went back (a restart).
    """
    if before is None or None in (before.busy_ticks, before.cpu_ticks, now.busy_ticks, now.cpu_ticks):
        return None
    busy, ticks = now.busy_ticks - before.busy_ticks, now.cpu_ticks - before.cpu_ticks  # type: ignore[operator]
    return busy / ticks if ticks > 0 and 0 <= busy <= ticks else None


def obstacles(now: Conditions, load: float | None, limits: Limits, start: Conditions | None = None) -> list[str]:
    """What speaks against measuring now, for people; empty where nothing that is known does.

    Args:
        now: the device's conditions.
        load: see :func:`busy_share`.
        limits: what must hold.
        start: the conditions when the session began; a clock rate that the kernel holds below that of then is one of
            a hot device.
    """
    found = []
    heat = hottest(now)
    if heat is not None and limits.max_temperature_c is not None and heat[1] > limits.max_temperature_c:
        found.append(f"{heat[0]} is at {heat[1]:.1f} °C (limit {limits.max_temperature_c:.1f})")
    if load is not None and limits.max_load is not None and load > limits.max_load:
        found.append(f"{load:.0%} of its CPU time is taken by something else (limit {limits.max_load:.0%})")
    if now.thermal_status:
        found.append(f"it says of itself that it is throttled (status {now.thermal_status} of 6)")
    for policy, khz in sorted(now.frequency_limit_khz.items()):
        before = start.frequency_limit_khz.get(policy) if start is not None else None
        if before is not None and khz < before:
            found.append(f"{policy} is held at {khz / 1e6:.2f} GHz ({before / 1e6:.2f} when the session began)")
    return found


@dataclass(frozen=True)
class Passed:
    """The device was ready: its conditions then, and the seconds that it took."""

    conditions: Conditions
    waited_s: float


@dataclass
class Gate:
    """Holds launches up. ``start`` are the conditions when the session began."""

    device: Device
    limits: Limits
    #: Longest time that one launch waits.
    wait_s: float
    start: Conditions
    progress: Progress = silent
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    read: Callable[[Device], Conditions] = field(default=conditions.read)

    def wait(self, what: str) -> Passed:
        """Return once the device is cool and quiet; ``what`` is what waits, for messages.

        Raises:
            NotReadyError: it did not become so in time.
            DeviceFailedError: the device cannot be asked.
        """
        began = self.clock()
        before: Conditions | None = None
        while True:
            now = self.read(self.device)
            in_way = self._in_way(before, now)
            waited = max(0.0, self.clock() - began)
            if not in_way:
                return Passed(now, waited)
            if waited >= self.wait_s:
                raise NotReadyError(
                    f"wait for the device to be cool and quiet before {what}: after {waited:.0f} s {in_way[0]}",
                    device=self.device.name,
                    detail="\n".join(in_way[1:]) or None,
                    hint="end what else runs there and let it cool down; --wait, --max-temperature and --max-load "
                    "allow more",
                )
            if before is not None:
                self.progress(
                    ProgressEvent(
                        f"wait for {self.device.name} to be cool and quiet",
                        done=round(waited),
                        total=round(self.wait_s),
                        unit="s",
                        detail="; ".join(in_way),
                    )
                )
            self.sleep(min(LOAD_S if before is None else POLL_S, max(0.1, self.wait_s - waited)))
            before = now

    def _in_way(self, before: Conditions | None, now: Conditions) -> Sequence[str]:
        """Obstacles; before the first second is over, the load still has to be counted."""
        countable = self.limits.max_load is not None and now.cpu_ticks is not None
        if before is None and countable and self.wait_s > 0:
            return obstacles(now, None, self.limits, self.start) or ["its load has to be counted first"]
        return obstacles(now, busy_share(before, now), self.limits, self.start)


def gate_for(
    protocol: Protocol, profile: Limits | None, device: Device, start: Conditions, progress: Progress
) -> Gate | None:
    """What a session's launches wait for; None where there is nothing to wait for.

    Args:
        protocol: the limits that are asked for, and how long to wait.
        profile: limits of the device's profile, where one matches.
        device: the device.
        start: its conditions when the session began.
        progress: told while a launch waits.

    Raises:
        UnsupportedError: a limit is on something that the device does not tell.
    """
    asked = Limits(max_temperature_c=protocol.max_temperature_c, max_load=protocol.max_load)
    wanted = protocol.wait_s is not None or asked != Limits() or profile is not None
    if not wanted or protocol.wait_s == 0:
        return None
    check_told(asked, start, device.name)
    return Gate(
        device=device,
        limits=limits_for(asked, profile, start),
        wait_s=DEFAULT_WAIT_S if protocol.wait_s is None else protocol.wait_s,
        start=start,
        progress=progress,
    )


def limits_for(asked: Limits, profile: Limits | None, start: Conditions) -> Limits:
    """The limits that hold: asked for, else the device profile's, else what :data:`DEFAULT_RISE_C` allows."""
    temperature = asked.max_temperature_c
    if temperature is None and profile is not None:
        temperature = profile.max_temperature_c
    if temperature is None and (heat := hottest(start)) is not None:
        temperature = heat[1] + DEFAULT_RISE_C
    load = asked.max_load
    if load is None and profile is not None:
        load = profile.max_load
    return Limits(max_temperature_c=temperature, max_load=DEFAULT_MAX_LOAD if load is None else load)


def check_told(asked: Limits, start: Conditions, device: str) -> None:
    """Refuse a limit on what the device does not tell.

    Raises:
        UnsupportedError: it could never be checked.
    """
    if asked.max_temperature_c is not None and hottest(start) is None:
        raise UnsupportedError(
            f"wait for at most {asked.max_temperature_c:g} °C: the device tells no temperature",
            device=device,
            hint="leave out --max-temperature, and let the device rest with --gap",
        )
    if asked.max_load is not None and start.cpu_ticks is None:
        raise UnsupportedError(
            f"wait for a load of at most {asked.max_load:.0%}: the device does not tell how busy it is",
            device=device,
            hint="leave out --max-load",
        )


def unknown(start: Conditions) -> list[str]:
    """What of the gate's questions the device does not answer."""
    told = {
        "temperature": hottest(start) is not None,
        "load": start.cpu_ticks is not None,
        "frequency": bool(start.frequency_khz),
        "governor": bool(start.governor),
        "battery": start.battery_percent is not None,
        "charger": start.plugged is not None,
        "free memory": start.memory_available_bytes is not None,
    }
    return [name for name, known in told.items() if not known]
