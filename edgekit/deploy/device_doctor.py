"""What works on a device for measuring, and what it tells of itself: a checklist, and facts for a bug report."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from edgekit.deploy.toolchain import find_toolchain
from edgekit.device import android, conditions, facts, parsing
from edgekit.device.base import Device, checked, printable
from edgekit.device.private import redact
from edgekit.errors import DeviceFailedError, EdgekitError, UnsupportedError
from edgekit.resources import device_scripts_dir
from edgekit.schema.run import Conditions, DeviceFacts

#: Every processor is tried once, and services answer late on a busy phone.
CHECK_TIMEOUT_S = 120.0
#: A report is for people to read; a device may say anything.
MAX_SECTION_CHARACTERS = 20_000
#: A small bundle, a runtime and room for runs.
WANTED_FREE_BYTES = 1 << 30
#: Less than this, and a full battery is not what limits the device.
LOW_BATTERY_PERCENT = 30
#: Without these nothing can be pushed.
_NEEDED_TOOLS = ("sha256sum", "stat", "ln", "find", "df")

State = Literal["ok", "problem", "unknown"]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was tried. ``unknown`` is what the device does not tell, which keeps no measurement away."""

    name: str
    state: State
    found: str
    #: What to do about it; None where there is nothing to do.
    advice: str | None = None


@dataclass(frozen=True, slots=True)
class Checkup:
    """What was found on a device."""

    device: str
    checks: tuple[Check, ...]
    #: Everything that was asked, as the device answered, private values removed: for a bug report.
    report: str

    @property
    def healthy(self) -> bool:
        """Whether nothing stands in the way of measuring."""
        return all(check.state != "problem" for check in self.checks)


def check_device(device: Device) -> Checkup:
    """Try out everything that measuring needs, and collect what the device tells of itself.

    Nothing stays on the device.

    Raises:
        DeviceFailedError, DeviceUnavailableError: it cannot be asked at all.
    """
    began = time.monotonic()
    if device.run(["true"]).exit_code != 0:
        raise DeviceFailedError("run `true`: it failed", device=device.name)
    answered_s = time.monotonic() - began
    texts = {
        "facts": _script(device, "facts.sh", device.root),
        "conditions": _script(device, "conditions.sh"),
        "doctor": _script(device, "doctor.sh", device.root),
    }
    tried = parsing.sections(texts["doctor"])
    properties = parsing.getprop(parsing.sections(texts["facts"]).get("getprop", ""))
    checks = [Check("commands", "ok", f"exit codes and separate errors; a call takes {1000 * answered_s:.0f} ms")]
    known: DeviceFacts | None = None
    try:
        known = facts.parse(texts["facts"], device.name, device.transport)
    except UnsupportedError as error:
        checks.append(Check("ABI", "problem", error.message, error.hint))
    felt = conditions.parse(texts["conditions"], "")
    if known is not None:
        checks += [_abi(known), *_fidelity(known), *_cores(known, tried)]
    checks += [_user(tried, properties), _tools(tried), _storage(device, tried, known)]
    checks += [_affinity(tried), _clocks(felt), _heat(felt), _memory(tried), *_battery(felt)]
    if android.is_android(properties):
        checks += _android(tried, properties)
    private = [value for key in ("ro.serialno", "ro.boot.serialno") if (value := properties.get(key))]
    private += [part for part in re.split(r"[:\[\]]", device.name.partition(":")[2]) if part]
    return Checkup(device.name, tuple(checks), _report(device, checks, texts, private))


def _script(device: Device, name: str, *arguments: str) -> str:
    script = (device_scripts_dir() / name).read_text(encoding="utf-8")
    output = checked(
        device, ["sh", "-c", script, "sh", *arguments], doing=f"ask the device ({name})", timeout=CHECK_TIMEOUT_S
    )
    return output.decode("utf-8", "replace")


def _abi(known: DeviceFacts) -> Check:
    try:
        find_toolchain(known.abi)
    except EdgekitError as error:
        return Check("ABI", "problem", f"{known.abi}, and no compiler for it on this host", error.hint)
    return Check("ABI", "ok", f"{known.abi}, {known.os}")


def _fidelity(known: DeviceFacts) -> Iterator[Check]:
    if known.fidelity != "real":
        yield Check(
            "fidelity", "problem", f"{known.fidelity}: {known.fidelity_reason}", "its speed is never compared as speed"
        )


def _cores(known: DeviceFacts, tried: dict[str, str]) -> Iterator[Check]:
    clusters = " + ".join(f"{len(cluster.cpus)}x {cluster.name or 'unknown core'}" for cluster in known.clusters)
    allowed = parsing.cpu_list(tried.get("allowed", ""))
    if allowed and len(allowed) < known.cpus:
        yield Check(
            "cores",
            "problem",
            f"{clusters}; the shell may use only {len(allowed)} of {known.cpus}",
            "keep the screen on and the device awake; background programs get the slow cores only",
        )
    else:
        yield Check("cores", "ok", clusters or f"{known.cpus} cores")


def _user(tried: dict[str, str], properties: dict[str, str]) -> Check:
    uid = parsing.integer(tried.get("user"))
    name = {0: "root", android.SHELL_UID: "the shell user"}.get(uid if uid is not None else -1, f"uid {uid}")
    label = android.short(tried.get("label", ""))
    enforcing = android.short(tried.get("enforcing", ""))
    selinux = (
        f", SELinux {label or 'without a label'}{f' ({enforcing})' if enforcing else ''}" if label or enforcing else ""
    )
    state: State = "unknown" if uid is None else "ok"
    if android.is_android(properties) and uid not in (0, android.SHELL_UID):
        state = "problem"
    return Check("user", state, f"{name}{selinux}")


def _tools(tried: dict[str, str]) -> Check:
    there = set(tried.get("tools", "").split())
    missing = [tool for tool in _NEEDED_TOOLS if tool not in there]
    if missing:
        return Check("tools", "problem", f"missing: {', '.join(missing)}", "install them, or toybox or busybox")
    further = sorted(there & {"taskset", "settaskprofile", "perfetto", "simpleperf", "timeout"})
    return Check("tools", "ok", "; also ".join(["all that pushing needs", *([", ".join(further)] if further else [])]))


def _storage(device: Device, tried: dict[str, str], known: DeviceFacts | None) -> Check:
    told = parsing_words(tried.get("storage", ""))
    elsewhere = "name another place with EDGEKIT_DEVICE_ROOT"
    owner, uid = parsing.integer(told.get("owner")), parsing.integer(tried.get("user"))
    if owner is not None and uid not in (None, 0, owner) and owner != 0:
        return Check("storage", "problem", f"{device.root} belongs to another user (uid {owner}): not used", elsewhere)
    if told.get("writable") != "yes":
        return Check("storage", "problem", f"{device.root} cannot be written", elsewhere)
    if told.get("executable") != "yes":
        return Check("storage", "problem", f"no program may run from {device.root} (mounted noexec)", elsewhere)
    free = known.free_bytes if known else None
    room = "free space unknown" if free is None else f"{free / (1 << 30):.1f} GiB free"
    links = "hard links" if told.get("links") == "yes" else "no hard links: shared contents are copied on the device"
    if free is not None and free < WANTED_FREE_BYTES:
        return Check("storage", "problem", f"{device.root}: {room}", "make room, or `edgekit prune`")
    return Check("storage", "ok", f"{device.root}: writable, executable, {links}, {room}")


def parsing_words(text: str) -> dict[str, str]:
    """Lines ``KEY VALUE``."""
    return {key: value for key, _, value in (line.partition(" ") for line in text.splitlines())}


def _affinity(tried: dict[str, str]) -> Check:
    lines = [line.split() for line in tried.get("affinity", "").splitlines()]
    if not lines:
        return Check("affinity", "unknown", "no taskset to try it with; the probe reads back where it really ran")
    refused = [words[0] for words in lines if words[1:] != words[:1]]
    if refused:
        return Check(
            "affinity",
            "problem",
            f"a program that is put on core {', '.join(refused)} does not stay there",
            "leave out --affinity; the probe reads back where it really ran",
        )
    return Check("affinity", "ok", f"a program stays where it is put, on each of {len(lines)} cores")


def _clocks(felt: Conditions) -> Check:
    if not felt.frequency_khz:
        return Check("clock rates", "unknown", "not told: a slow result will not be explained by them")
    governors = ", ".join(sorted(set(felt.governor.values()))) or "unknown governor"
    return Check("clock rates", "ok", f"of {len(felt.frequency_khz)} clusters; {governors}")


def _heat(felt: Conditions) -> Check:
    if not felt.temperature_c:
        return Check("temperatures", "unknown", "no sensor may be read: let the device rest with --gap")
    shown = ", ".join(f"{android.short(name)} {value:.0f} °C" for name, value in sorted(felt.temperature_c.items())[:4])
    if felt.thermal_status:
        return Check("temperatures", "problem", f"{shown}; the device throttles itself", "let it cool down")
    return Check("temperatures", "ok", f"{len(felt.temperature_c)} sensors: {shown}")


def _memory(tried: dict[str, str]) -> Check:
    told = tried.get("memory", "").split()
    if "statm" not in told:
        return Check("memory", "problem", "/proc/self/statm cannot be read", "the probe's memory will not be known")
    if "smaps_rollup" not in told:
        return Check("memory", "unknown", "resident memory; not counted proportionally, smaps_rollup cannot be read")
    return Check("memory", "ok", "resident, and proportionally (smaps_rollup)")


def _battery(felt: Conditions) -> Iterator[Check]:
    if felt.battery_percent is None:
        return
    found = f"{felt.battery_percent}%, {'charging' if felt.charging else 'not charging'}"
    if felt.battery_percent < LOW_BATTERY_PERCENT:
        yield Check("battery", "problem", found, "charge it: many phones slow down when it is low")
    else:
        yield Check("battery", "ok", found)


def _android(tried: dict[str, str], properties: dict[str, str]) -> Iterator[Check]:
    awake = android.is_awake(tried.get("power", ""))
    yield _told(
        "screen", awake, "on", "off or asleep", "keep the screen on (Developer options, Stay awake): programs slow down"
    )
    saves = android.saves_power(tried.get("power", ""))
    yield _told("battery saver", None if saves is None else not saves, "off", "on", "turn it off: it limits the clocks")
    state = android.dozes(tried.get("doze", ""))
    yield _told(
        "doze",
        None if state is None else state in ("ACTIVE", "INACTIVE"),
        str(state),
        str(state),
        "wake the device up; `adb shell dumpsys deviceidle disable` keeps it awake",
    )
    behind = android.in_background(tried.get("cpuset", ""))
    cpuset = android.short(tried.get("cpuset", "")) or ""
    yield _told(
        "cpuset", None if behind is None else not behind, cpuset, cpuset, "background work gets the slow cores only"
    )
    sdk = parsing.integer(properties.get("ro.build.version.sdk"))
    if "settaskprofile" in tried.get("tools", "").split():
        yield Check("task profiles", "ok", "settaskprofile is there")
    elif sdk is not None and sdk < android.TASK_PROFILE_API:
        yield Check("task profiles", "unknown", f"a shell may take one from API {android.TASK_PROFILE_API} on")
    else:
        yield Check("task profiles", "unknown", "no settaskprofile")


def _told(name: str, good: bool | None, yes: str, no: str, advice: str) -> Check:
    if good is None:
        return Check(name, "unknown", "not told")
    return Check(name, "ok", yes) if good else Check(name, "problem", no, advice)


def _report(device: Device, checks: list[Check], texts: dict[str, str], private: list[str]) -> str:
    from edgekit import __version__

    lines = [f"edgekit {__version__}, a device over {device.transport}", ""]
    lines += [f"{check.state:8} {check.name}: {check.found}" for check in checks]
    for text in texts.values():
        for name, section in parsing.sections(text).items():
            if section:
                lines += ["", f"== {name}", _readable(name, section)]
    return redact("\n".join(lines), private) + "\n"


def _readable(name: str, section: str) -> str:
    if name == "getprop":
        # Of hundreds only those that tell kinds of phones apart; the rest is nobody's business.
        wanted = {key for keys in android.PROPERTIES.values() for key in keys} | {"ro.product.cpu.abi"}
        section = "\n".join(f"[{key}]: [{value}]" for key, value in parsing.getprop(section).items() if key in wanted)
    return printable(section[:MAX_SECTION_CHARACTERS], MAX_SECTION_CHARACTERS)
