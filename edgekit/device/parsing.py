"""Readers of what devices print. Pure; whatever the text, they return what makes sense and leave out the rest."""

from __future__ import annotations

import re

from edgekit.schema.celsius import sane_celsius, zone_celsius

_SECTION = re.compile(r"^=edgekit= ([a-z_]+)$")
#: More CPUs than any device has; a hostile list such as ``0-999999999`` must not fill the host's memory.
MAX_CPUS = 4096
_INTEGER = re.compile(r"-?[0-9]{1,18}\Z")


def sections(text: str) -> dict[str, str]:
    """The output of a device script by section (see device_scripts/facts.sh); the first of a name counts."""
    found: dict[str, list[str]] = {}
    current: list[str] = []
    for line in text.splitlines():
        match = _SECTION.match(line)
        if match:
            current = []
            found.setdefault(match.group(1), current)
        else:
            current.append(line)
    return {name: "\n".join(lines).strip() for name, lines in found.items()}


def integer(text: str | None) -> int | None:
    """A decimal integer of sane length, else None."""
    return int(text) if text is not None and _INTEGER.match(text.strip()) else None


def hexadecimal(text: str | None) -> int | None:
    """An integer written as ``0x41``, else None."""
    match = re.match(r"0x([0-9a-fA-F]{1,8})\Z", (text or "").strip())
    return int(match.group(1), 16) if match else None


def cpu_list(text: str) -> list[int]:
    """CPUs of a kernel list, ``0-3,7`` or ``0 1 2 3``, ascending."""
    found: set[int] = set()
    for part in re.split(r"[\s,]+", text.strip()):
        match = re.match(r"([0-9]{1,4})(?:-([0-9]{1,4}))?\Z", part)
        if match:
            first, last = int(match.group(1)), int(match.group(2) or match.group(1))
            found.update(range(first, min(last, MAX_CPUS - 1) + 1))
    return sorted(cpu for cpu in found if cpu < MAX_CPUS)


def cpuinfo(text: str) -> list[dict[str, str]]:
    """The blocks of ``/proc/cpuinfo``: one per processor, and others (``Hardware``) where there are any."""
    blocks: list[dict[str, str]] = [{}]
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        key = key.strip()
        if not colon:
            if blocks[-1]:
                blocks.append({})
        elif key == "processor" and "processor" in blocks[-1]:
            blocks.append({key: value.strip()})
        else:
            blocks[-1].setdefault(key, value.strip())
    return [block for block in blocks if block][: 2 * MAX_CPUS]


def meminfo(text: str) -> dict[str, int]:
    """``/proc/meminfo`` in bytes."""
    found: dict[str, int] = {}
    for line in text.splitlines():
        match = re.match(r"([A-Za-z()_0-9]+):\s+([0-9]{1,15}) kB\s*\Z", line)
        if match:
            found.setdefault(match.group(1), int(match.group(2)) * 1024)
    return found


def os_release(text: str) -> str | None:
    """``PRETTY_NAME`` of ``/etc/os-release``."""
    match = re.search(r'^PRETTY_NAME=(["\']?)(.*?)\1\s*$', text, re.MULTILINE)
    return match.group(2) or None if match else None


def getprop(text: str) -> dict[str, str]:
    """Android's properties; a value may span lines."""
    found: dict[str, str] = {}
    for match in re.finditer(r"^\[([^\]\n]+)\]: \[(.*?)\]$", text, re.MULTILINE | re.DOTALL):
        found.setdefault(match.group(1), match.group(2))
    return found


def free_bytes(text: str) -> int | None:
    """Free bytes from ``df -kP`` of one place."""
    for line in reversed(text.splitlines()):
        match = re.search(r"\s[0-9]+\s+[0-9]+\s+([0-9]{1,15})\s+(?:[0-9]+%|-)\s", line + " ")
        if match:
            return int(match.group(1)) * 1024
    return None


def thermal_zones(text: str) -> dict[str, float]:
    """Degrees Celsius by sensor from lines ``ZONE VALUE TYPE``; values that are none are left out."""
    found: dict[str, float] = {}
    for line in text.splitlines():
        zone, _, rest = line.partition(" ")
        number, _, kind = rest.partition(" ")
        value = integer(number)
        if value is None:
            continue
        celsius = zone_celsius(value)
        if celsius is not None:
            name = kind.strip() or "unknown"
            found[name if name not in found else f"{name} #{zone}"] = celsius
    return found


def thermal_service(text: str) -> dict[str, float]:
    """Degrees Celsius by sensor from ``dumpsys thermalservice``.

    Only what the hardware reports now: the cached values above it may be old.
    """
    current = text.partition("Current temperatures from HAL:")[2].partition("Current cooling devices")[0]
    found: dict[str, float] = {}
    for match in re.finditer(r"Temperature\{mValue=(-?[0-9]{1,4}(?:\.[0-9]{1,9})?), [^\n}]*?mName=([^,}\n]+)", current):
        celsius = sane_celsius(float(match.group(1)))
        if celsius is not None:
            found.setdefault(match.group(2).strip(), round(celsius, 3))
    return found


def thermal_status(text: str) -> int | None:
    """Android's own verdict from ``dumpsys thermalservice``: 0 (none) to 6 (shutdown)."""
    match = re.search(r"^Thermal Status: ([0-6])$", text, re.MULTILINE)
    return int(match.group(1)) if match else None


def cpu_ticks(text: str) -> tuple[int, int] | None:
    """Busy time and all time of all CPUs since boot, in ticks, from the first line of ``/proc/stat``.

    Waiting for a disk is idle; what a hypervisor took for others is busy.
    """
    words = text.split("\n", 1)[0].split()
    if len(words) < 5 or words[0] != "cpu":
        return None
    # user nice system idle iowait irq softirq steal; the guests' time behind them is part of user.
    ticks = [integer(word) for word in words[1:9]]
    numbers = [tick for tick in ticks if tick is not None and tick >= 0]
    if len(numbers) != len(ticks) or sum(numbers) == 0:
        return None
    return sum(numbers) - numbers[3] - (numbers[4] if len(numbers) > 4 else 0), sum(numbers)


def battery_service(text: str) -> dict[str, str]:
    """The lines ``key: value`` of ``dumpsys battery``; the first of a key counts, since vendors append theirs."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        key, colon, value = line.strip().partition(":")
        if colon:
            found.setdefault(key.strip(), value.strip())
    return found
