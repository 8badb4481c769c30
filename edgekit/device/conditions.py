"""How a device feels now: load, memory, clock rates, temperatures, charge."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from edgekit.device import parsing
from edgekit.device.base import Device, checked
from edgekit.resources import device_scripts_dir
from edgekit.schema.celsius import sane_celsius
from edgekit.schema.run import Conditions

#: ``dumpsys`` asks a system service, which a busy phone answers late; the script gives each 5 s.
READ_TIMEOUT_S = 60.0

#: ``status`` of Android's battery service: 2 charging, 3 discharging, 4 not charging, 5 full.
_CHARGING = {"2": True, "3": False, "4": False, "5": True}
#: The same from the kernel's power_supply class.
_CHARGING_KERNEL = {"Charging": True, "Discharging": False, "Not charging": False, "Full": True}


def read(device: Device) -> Conditions:
    """Read a device's conditions, in one command; what it does not tell is None or missing.

    Raises:
        DeviceFailedError: it cannot be asked.
    """
    script = (device_scripts_dir() / "conditions.sh").read_text(encoding="utf-8")
    output = checked(device, ["sh", "-c", script], doing="read the device's conditions", timeout=READ_TIMEOUT_S)
    return parse(output.decode("utf-8", "replace"), datetime.now(UTC).isoformat(timespec="milliseconds"))


def parse(text: str, at: str) -> Conditions:
    """Conditions from the output of ``device_scripts/conditions.sh``, read at the time ``at`` (ISO 8601)."""
    found = parsing.sections(text)
    load = re.match(r"([0-9]{1,6}\.[0-9]{1,4})\s", found.get("loadavg", ""))
    frequency: dict[str, int] = {}
    limit: dict[str, int] = {}
    governor: dict[str, str] = {}
    for line in found.get("policies", "").splitlines():
        words = line.split()
        if len(words) == 3 and words[0] == "khz":
            khz = parsing.integer(words[2])
            if khz is not None and khz > 0:
                frequency[words[1]] = khz
        elif len(words) == 3 and words[0] == "limit":
            khz = parsing.integer(words[2])
            if khz is not None and khz > 0:
                limit[words[1]] = khz
        elif len(words) == 3 and words[0] == "governor":
            governor[words[1]] = words[2]
    battery = parsing.battery_service(found.get("battery", ""))
    supply: dict[str, str] = {}
    online = set()
    for line in found.get("power_supply", "").splitlines():
        key, _, value = line.partition(" ")
        if key == "online":
            online.add(value)
        else:
            supply.setdefault(key, value)
    busy, ticks = parsing.cpu_ticks(found.get("stat", "")) or (None, None)
    # The service's sensors have names that mean something; the kernel's zones are the fallback.
    temperature = parsing.thermal_service(found.get("thermalservice", "")) or parsing.thermal_zones(
        found.get("thermal", "")
    )
    tenths = parsing.integer(battery.get("temperature"))
    if tenths is not None and (celsius := sane_celsius(tenths / 10)) is not None:
        temperature["battery"] = celsius
    return Conditions(
        at=at,
        load_1m=float(load.group(1)) if load else None,
        memory_available_bytes=parsing.meminfo(found.get("meminfo", "")).get("MemAvailable"),
        frequency_khz=frequency,
        governor=governor,
        temperature_c=temperature,
        battery_percent=_percent(battery, supply),
        charging=_CHARGING.get(battery.get("status", ""), _CHARGING_KERNEL.get(supply.get("status", ""))),
        plugged=_plugged(battery, online),
        frequency_limit_khz=limit,
        thermal_status=parsing.thermal_status(found.get("thermalservice", "")),
        busy_ticks=busy,
        cpu_ticks=ticks,
    )


def _plugged(battery: dict[str, str], online: set[str]) -> bool | None:
    told = {battery.get(f"{kind} powered") for kind in ("AC", "USB", "Wireless", "Dock")} & {"true", "false"}
    if told:
        return "true" in told
    # Some chargers say 2 where they are programmable.
    return bool(online & {"1", "2"}) if online else None


def _percent(battery: dict[str, str], supply: dict[str, str]) -> int | None:
    level, scale = parsing.integer(battery.get("level")), parsing.integer(battery.get("scale"))
    if level is not None and scale is not None and 0 <= level <= scale and scale > 0:
        # ``present: false`` is a device without a battery whose service still makes one up.
        return None if battery.get("present") == "false" else round(100 * level / scale)
    percent = parsing.integer(supply.get("capacity"))
    return percent if percent is not None and 0 <= percent <= 100 else None
