"""What a device is: processor, memory, system, ABI, and whether its speed means anything."""

from __future__ import annotations

import re
from typing import Literal

from edgekit.device import android, parsing
from edgekit.device.base import Device, checked, printable
from edgekit.device.cpu_names import arm_core
from edgekit.errors import UnsupportedError
from edgekit.resources import device_scripts_dir
from edgekit.schema.run import CpuCluster, DeviceFacts

#: One shell and a dozen small reads; emulated boards are slow.
GATHER_TIMEOUT_S = 60.0

#: Machines for which there is a probe, as ``uname -m`` tells them.
_LINUX_ABIS = {"x86_64": "linux-x86_64", "aarch64": "linux-arm64", "arm64": "linux-arm64"}
SUPPORTED_ABIS = ("linux-x86_64", "linux-arm64", "android-arm64-v8a", "android-x86_64")

#: ``e_machine`` of an ELF file, little-endian, by the name that ``uname -m`` has for it.
_ELF_MACHINES = {"3e 00": "x86_64", "b7 00": "aarch64", "28 00": "arm", "03 00": "i386", "f3 00": "riscv64"}
#: A 64-bit kernel may run a 32-bit system, where ``uname -m`` still tells the kernel's machine.
_NARROW = {"aarch64": "arm", "x86_64": "i386"}


def gather(device: Device) -> DeviceFacts:
    """Ask a device what it is, in one command.

    Raises:
        UnsupportedError: its ABI is one for which there is no probe.
        DeviceFailedError: it cannot be asked.
    """
    script = (device_scripts_dir() / "facts.sh").read_text(encoding="utf-8")
    output = checked(
        device, ["sh", "-c", script, "sh", device.root], doing="ask what the device is", timeout=GATHER_TIMEOUT_S
    )
    return parse(output.decode("utf-8", "replace"), device.name, device.transport)


def parse(text: str, name: str, transport: Literal["local", "adb", "adb-direct"]) -> DeviceFacts:
    """Facts from the output of ``device_scripts/facts.sh``.

    Raises:
        UnsupportedError: the ABI is one for which there is no probe.
    """
    found = parsing.sections(text)
    properties = parsing.getprop(found.get("getprop", ""))
    blocks = parsing.cpuinfo(found.get("cpuinfo", ""))
    abi = abi_of(found, properties, name)
    fidelity, reason = fidelity_of(found, properties, blocks)
    phone = android.known(properties)
    clusters = clusters_of(blocks, found.get("policies", ""))
    online = parsing.cpu_list(found.get("online", "")) or parsing.cpu_list(found.get("present", ""))
    return DeviceFacts(
        name=name,
        transport=transport,
        abi=abi,
        os=_system(found, phone),
        kernel=android.short(found.get("kernel", "")),
        cpus=len(online) or sum("processor" in block for block in blocks) or 1,
        clusters=clusters,
        cpu_model=_cpu_model(blocks, found, phone) or _cores(clusters),
        memory_bytes=parsing.meminfo(found.get("meminfo", "")).get("MemTotal"),
        free_bytes=parsing.free_bytes(found.get("disk", "")),
        android=phone,
        fidelity=fidelity,
        fidelity_reason=reason,
    )


def abi_of(found: dict[str, str], properties: dict[str, str], name: str) -> str:
    """The ABI for which a probe must be built (one of ``SUPPORTED_ABIS``).

    Raises:
        UnsupportedError: there is no probe for it.
    """
    machine = found.get("machine", "")
    hint = f"supported are {', '.join(SUPPORTED_ABIS)}"
    # A board that replays a phone runs programs of its own machine.
    if android.is_android(properties) and android.SIMULATED_PROPERTY not in properties:
        abi, listed = android.abi(properties)
        if abi is None:
            raise UnsupportedError(f"use an Android of ABI {listed!r}", device=name, hint=hint)
        return abi
    abi = _LINUX_ABIS.get(machine) if found.get("system", "Linux") == "Linux" else None
    if abi is None:
        what = printable(f"{found.get('system', '?')} {machine}")[:80]
        raise UnsupportedError(f"use a device that runs {what}: there is no probe for it", device=name, hint=hint)
    if _NARROW.get(_canonical(machine)) == _interpreter_machine(found):
        raise UnsupportedError(f"use a 32-bit system on a {machine} kernel", device=name, hint=hint)
    return abi


def fidelity_of(
    found: dict[str, str], properties: dict[str, str], blocks: list[dict[str, str]]
) -> tuple[Literal["real", "emulated", "simulated"], str | None]:
    """Whether times measured on the device mean anything, and why not."""
    machine = _canonical(found.get("machine", ""))
    runs_on = _interpreter_machine(found)
    path = printable(found.get("interpreter_path", ""))[: android.MAX_TEXT]
    if runs_on is not None and runs_on != machine:
        return "emulated", f"{machine} programs are run by {path or 'an emulator'} on {runs_on}"
    if runs_on is None and "qemu" in path:
        return "emulated", f"{machine} programs are run by {path}"
    if machine == "aarch64" and any("vendor_id" in block and "flags" in block for block in blocks):
        return "emulated", "uname says aarch64, /proc/cpuinfo describes an x86 processor"
    if android.is_emulator(properties):
        return "emulated", "an Android emulator, not a phone"
    if android.SIMULATED_PROPERTY in properties:
        phone = android.short(properties[android.SIMULATED_PROPERTY])
        return "simulated", f"replays the recorded properties of {phone}"
    return "real", None


def clusters_of(blocks: list[dict[str, str]], policies: str) -> list[CpuCluster]:
    """Cores that share a kind and a largest frequency, in the order of their first core.

    The kernel's frequency policies tell which cores belong together; without them, equal
    neighbours in ``/proc/cpuinfo`` do.
    """
    names: dict[int, str | None] = {}
    for block in blocks:
        cpu = parsing.integer(block.get("processor"))
        if cpu is not None and 0 <= cpu < parsing.MAX_CPUS:
            names[cpu] = _core_name(block)
    groups: dict[tuple[str | None, int | None], set[int]] = {}
    placed: set[int] = set()
    cpus: list[int] = []
    for line in policies.splitlines():
        key, _, value = line.partition(" ")
        if key == "cpus":
            cpus = [cpu for cpu in parsing.cpu_list(value) if cpu not in placed]
        elif key == "max_khz":
            limit = parsing.integer(value)
            for cpu in cpus:
                groups.setdefault((names.get(cpu), limit), set()).add(cpu)
            placed.update(cpus)
            cpus = []
    for cpu in sorted(set(names) - placed):
        groups.setdefault((names[cpu], None), set()).add(cpu)
    clusters = [CpuCluster(cpus=sorted(members), name=name, max_khz=khz) for (name, khz), members in groups.items()]
    return sorted(clusters, key=lambda cluster: cluster.cpus)


def _core_name(block: dict[str, str]) -> str | None:
    implementer = parsing.hexadecimal(block.get("CPU implementer"))
    part = parsing.hexadecimal(block.get("CPU part"))
    if implementer is not None and part is not None:
        return arm_core(implementer, part)
    return android.short(block.get("model name", ""))


def _cpu_model(blocks: list[dict[str, str]], found: dict[str, str], phone: dict[str, str]) -> str | None:
    """The processor's name: what the kernel says, else the chip that Android names, else the board."""
    for key in ("model name", "Hardware"):
        for block in blocks:
            if block.get(key):
                return android.short(block[key])
    return android.soc_name(phone) or android.short(found.get("board_model", ""))


def _cores(clusters: list[CpuCluster]) -> str | None:
    """``4x Cortex-A55 + 4x Cortex-A76``, where all the device tells is its cores."""
    return (
        " + ".join(f"{len(cluster.cpus)}x {cluster.name}" for cluster in clusters if cluster.name)[: android.MAX_TEXT]
        or None
    )


def _system(found: dict[str, str], phone: dict[str, str]) -> str:
    if phone:
        return f"Android {phone.get('release', '?')} (API {phone.get('sdk', '?')})"
    named = parsing.os_release(found.get("os_release", ""))
    return android.short(named or "") or android.short(found.get("system", "")) or "unknown"


def _canonical(machine: str) -> str:
    return "aarch64" if machine == "arm64" else machine


def _interpreter_machine(found: dict[str, str]) -> str | None:
    return _ELF_MACHINES.get(re.sub(r"\s+", " ", found.get("interpreter", "")).strip())
