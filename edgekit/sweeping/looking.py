"""The devices of a sweep: which ones its plan means, what they are, what they hold, and which share a machine."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from edgekit.deploy.store import held_objects
from edgekit.device import facts as facts_module
from edgekit.device.base import Device
from edgekit.device.discover import adb_names, resolve
from edgekit.errors import DeviceFailedError, DeviceUnavailableError, EdgekitError, UnsupportedError
from edgekit.schema.run import DeviceFacts
from edgekit.schema.sweep import EVERY_ADB, SweepPlan

#: Devices that are asked at a time.
_ASKED_AT_ONCE = 16
_BOOT_ID = "/proc/sys/kernel/random/boot_id"
#: The machine that this process runs on.
HERE = "this machine"


@dataclass
class DeviceLook:
    """One device as a sweep found it; with ``error`` it cannot be used now."""

    name: str
    device: Device | None = None
    facts: DeviceFacts | None = None
    #: Devices with the same word run on the same processor: they are measured one at a time.
    machine: str = ""
    #: Bytes that lie in its store by SHA-256, and of objects that have arrived in part.
    held: frozenset[str] = frozenset()
    parts: dict[str, int] = field(default_factory=dict)
    error: EdgekitError | None = None


def meant_devices(plan: SweepPlan, before: Sequence[str]) -> dict[str, list[str]]:
    """The full names of devices by each word that the plan has for some; ``""`` is what is meant by none.

    Args:
        plan: the plan.
        before: devices that earlier starts of the sweep found; ``adb:*`` means them, too.

    Raises:
        InputError: a word that names no device.
        DeviceUnavailableError: ``adb`` where there are none or several, or no adb server.
    """
    words = plan.devices if plan.devices is not None else [""]
    found: dict[str, list[str]] = {}
    for word in dict.fromkeys([*words, *(word for rule in plan.include for word in rule.devices or [])]):
        if word == EVERY_ADB:
            known = [name for name in before if name.startswith("adb:")]
            found[word] = list(dict.fromkeys([*known, *adb_names()]))
            if not found[word]:
                raise DeviceUnavailableError(
                    "use every device of the adb server: it knows none", hint="plug one in, or name it in the plan"
                )
        elif word in ("", "adb"):
            # Which one is meant is not in the word.
            found[word] = [resolve(word or None).name]
        else:
            found[word] = [word]
    return found


def look_at(names: Sequence[str]) -> list[DeviceLook]:
    """Every device's facts and store, read only; one that cannot be used keeps its error."""
    with ThreadPoolExecutor(max_workers=_ASKED_AT_ONCE) as pool:
        return list(pool.map(_look, names))


def _look(name: str) -> DeviceLook:
    look = DeviceLook(name)
    try:
        look.device = resolve(name)
        look.facts = facts_module.gather(look.device)
        look.machine = machine_of(look.device, look.facts)
        if look.device.transport != "local":
            look.held, look.parts = held_objects(look.device)
    except (DeviceUnavailableError, DeviceFailedError, UnsupportedError) as error:
        look.error = error
    return look


def machine_of(device: Device, facts: DeviceFacts) -> str:
    """A word for the processor that a device runs on.

    Systems that share a kernel (containers, boards in namespaces, user-mode emulation) share its boot id; an emulator
    with a kernel of its own runs on this machine as far as anybody can tell.
    """
    if device.transport == "local":
        return HERE
    found = ""
    with contextlib.suppress(DeviceFailedError):
        answer = device.run(["cat", _BOOT_ID])
        found = answer.stdout.decode("ascii", "replace").strip() if answer.exit_code == 0 else ""
    own = ""
    with contextlib.suppress(OSError):
        own = Path(_BOOT_ID).read_text(encoding="ascii").strip()
    if found and found == own:
        return HERE
    if facts.fidelity == "emulated":
        return HERE
    return found[:64] or device.name


def alike(one: DeviceFacts, other: DeviceFacts) -> bool:
    """Whether two devices are equal in all that edgekit knows of them but their names and free space."""

    def essence(facts: DeviceFacts) -> tuple[object, ...]:
        phone = tuple(facts.android.get(key) for key in ("model", "soc_model", "release", "security_patch"))
        # The kernel's own share of the memory differs by some pages from boot to boot.
        memory = None if facts.memory_bytes is None else round(facts.memory_bytes / 2**28)
        return facts.abi, facts.os, facts.cpu_model, facts.cpus, memory, facts.fidelity, phone

    return essence(one) == essence(other) and one.clusters == other.clusters


Look = Callable[[Sequence[str]], list[DeviceLook]]
