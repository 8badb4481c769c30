"""What only Android has: its properties, its services' answers, its shell user, its ways to slow a program down.

Everything here reads text that a device printed, and returns what makes sense of it.
"""

from __future__ import annotations

import re

from edgekit.device.base import printable

#: Android's only directory where the shell user may both write and execute; /sdcard is mounted noexec.
ROOT = "/data/local/tmp"
#: The user that adbd's shells run as on a phone that is not rooted.
SHELL_UID = 2000
#: Set by test boards that replay a phone's recorded properties.
SIMULATED_PROPERTY = "edgekit.simulated"
#: The first API level whose task profiles a shell may take (``settaskprofile $$ MaxPerformance``).
TASK_PROFILE_API = 33

#: Properties that help to compare phones; the others stay on the device, serial numbers among them.
PROPERTIES = {
    "model": ("ro.product.model", "ro.product.vendor.model"),
    "manufacturer": ("ro.product.manufacturer",),
    "brand": ("ro.product.brand",),
    "device": ("ro.product.device",),
    "soc_manufacturer": ("ro.soc.manufacturer",),
    "soc_model": ("ro.soc.model",),
    "platform": ("ro.board.platform",),
    "hardware": ("ro.hardware",),
    "abilist": ("ro.product.cpu.abilist",),
    "release": ("ro.build.version.release",),
    "sdk": ("ro.build.version.sdk",),
    "security_patch": ("ro.build.version.security_patch",),
    "build_type": ("ro.build.type",),
    "low_ram": ("ro.config.low_ram",),
}
#: Machines for which there is a probe, by Android's name for them.
_ABIS = {"arm64-v8a": "android-arm64-v8a", "x86_64": "android-x86_64"}
#: A property or model name is a few words; a device may send anything.
MAX_TEXT = 200


def is_android(properties: dict[str, str]) -> bool:
    """Whether these are an Android's properties."""
    return "ro.build.version.sdk" in properties


def known(properties: dict[str, str]) -> dict[str, str]:
    """Of an Android's properties those that tell one kind of phone from another, by short names."""
    if not is_android(properties):
        return {}
    found = {}
    for name, keys in PROPERTIES.items():
        value = next((short(properties[key]) for key in keys if properties.get(key)), None)
        if value:
            found[name] = value
    return found


def abi(properties: dict[str, str]) -> tuple[str | None, str]:
    """The ABI for which a probe must be built, None where there is no probe for it; and Android's name for it."""
    listed = properties.get("ro.product.cpu.abi") or properties.get("ro.product.cpu.abilist", "").split(",")[0]
    return _ABIS.get(listed), printable(listed)[:40]


def is_emulator(properties: dict[str, str]) -> bool:
    """Whether this is Android's emulator and no phone."""
    return properties.get("ro.kernel.qemu") == "1" or properties.get("ro.boot.qemu") == "1"


def soc_name(android: dict[str, str]) -> str | None:
    """The chip, from :func:`known`: its maker's name for it, else the platform's name."""
    if "soc_model" in android:
        return " ".join(part for part in (android.get("soc_manufacturer"), android["soc_model"]) if part)
    return android.get("platform") or android.get("soc_manufacturer")


def short(text: str) -> str | None:
    """One line of bounded length without controls, None when nothing is left."""
    return printable(" ".join(text.split()))[:MAX_TEXT] or None


def is_awake(power: str) -> bool | None:
    """Whether the device is awake with its screen on, from ``dumpsys power``; None where that does not tell."""
    wakefulness = re.search(r"mWakefulness=(\w+)", power)
    display = re.search(r"Display Power: state=(\w+)", power)
    if display and display.group(1) != "ON":
        return False
    if wakefulness:
        return wakefulness.group(1) == "Awake"
    return True if display else None


def saves_power(power: str) -> bool | None:
    """Whether the battery saver is on, from ``dumpsys power``; None where that does not tell."""
    told = re.search(r"(?:mSettingBatterySaverEnabled|mLowPowerModeEnabled)=(true|false)", power)
    return told.group(1) == "true" if told else None


def dozes(doze: str) -> str | None:
    """The deepest state of doze, from lines ``light STATE`` and ``deep STATE``; None where neither tells.

    ``ACTIVE`` and ``INACTIVE`` do not slow a program down; the others do.
    """
    states = [match.group(2) for match in re.finditer(r"^(light|deep) ([A-Z_]{1,40})$", doze, re.MULTILINE)]
    if not states:
        return None
    return next((state for state in reversed(states) if state not in ("ACTIVE", "INACTIVE")), states[-1])


def in_background(cpuset: str) -> bool | None:
    """Whether the shell lies in a cpuset for background work, which has the slow cores only; None without cpusets."""
    name = cpuset.strip()
    if not name.startswith("/"):
        return None
    return any(part in ("background", "system-background", "restricted") for part in name.split("/"))
