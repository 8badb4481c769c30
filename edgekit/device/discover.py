"""From what a user typed to a device, and the list of all devices."""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgekit.device.local import LocalDevice
from edgekit.errors import DeviceFailedError, DeviceUnavailableError, EdgekitError, InputError, UnsupportedError

if TYPE_CHECKING:
    from edgekit.device.adb_server import AdbServer
    from edgekit.device.base import Device

_HOST_PORT = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):(?P<port>[0-9]{1,5})\Z")
#: What ``adb`` itself accepts as a serial; nothing in it can change the meaning of a request to the server.
_SERIAL = re.compile(r"[A-Za-z0-9._:\[\]@()-]{1,256}\Z")

#: Devices that `edgekit devices` asks at a time; each answers in some milliseconds.
_ASKED_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class DeviceRecord:
    """One line of ``edgekit devices``. ``None`` is what could not be learnt in the device's state."""

    #: What ``--device`` takes: ``local`` or ``adb:SERIAL``.
    name: str
    #: adb's word: ``device`` is ready; ``offline``, ``unauthorized`` and the like are not.
    state: str
    #: As ``adb devices`` has it; None for this machine.
    serial: str | None = None
    model: str | None = None
    #: The chip, where an Android names it; None where ``model`` is the processor.
    soc: str | None = None
    abi: str | None = None
    os: str | None = None
    #: Where bundles are stored.
    free_bytes: int | None = None
    #: Degrees Celsius of the hottest sensor at the processor.
    temperature_c: float | None = None
    #: What to do when the device is not ready, or why its results are never compared as speed.
    advice: str | None = None


def resolve(spec: str | None = None) -> Device:
    """The device that a user means.

    Args:
        spec: ``local``; ``adb:SERIAL``; ``adb:HOST:PORT``, which is connected when it is not yet listed;
            ``adb``, the only device there is; ``adb-direct:HOST:PORT``, ``adb-direct:usb`` or
            ``adb-direct:usb:SERIAL``, which need no adb server; None, the device of ``ANDROID_SERIAL``, else ``local``.

    Raises:
        InputError: the text has no such form.
        DeviceUnavailableError: no such device, or it cannot be used now.
        UnsupportedError: ``local`` on a machine that is not Linux.
    """
    if spec is None:
        serial = os.environ.get("ANDROID_SERIAL")
        spec = f"adb:{serial}" if serial else "local"
    if spec == "local":
        return LocalDevice()
    kind, colon, serial = spec.partition(":")
    if kind == "adb-direct" and serial:
        from edgekit.device.adb_direct import DirectDevice

        direct = DirectDevice(serial)
        direct.connect()
        return direct
    if kind != "adb" or (colon and not serial):
        raise InputError(
            f"use device {spec!r}: not the name of a device",
            hint="local, adb, adb:SERIAL, adb:HOST:PORT or adb-direct:HOST:PORT",
        )
    # Here and not above: naming no phone must not cost the time to load what talks to one.
    from edgekit.device.adb import AdbDevice
    from edgekit.device.adb_server import AdbServer

    server = AdbServer.from_environment()
    serial = _usable(server, serial) if serial else _only(server)
    return AdbDevice(serial, server)


def adb_names() -> list[str]:
    """``adb:SERIAL`` of every device of the adb server, whatever its state.

    Raises:
        DeviceUnavailableError: there is no adb server.
    """
    from edgekit.device.adb_server import AdbServer

    return [f"adb:{one.serial}" for one in AdbServer.from_environment().devices()]


def list_devices() -> list[DeviceRecord]:
    """This machine (where it can be used) and every device of the adb server, also those that are not ready.

    Where there is no adb server and none can be started, one record says so.
    """
    from concurrent.futures import ThreadPoolExecutor

    from edgekit.device.adb import AdbDevice
    from edgekit.device.adb_server import ADVICE, AdbServer, Listed

    def describe(listed: Listed) -> DeviceRecord:
        if listed.state == "device":
            return _describe(AdbDevice(listed.serial, server))
        return DeviceRecord(
            f"adb:{listed.serial}",
            listed.state,
            serial=listed.serial,
            model=listed.tags.get("model"),
            advice=ADVICE.get(listed.state, "reconnect it"),
        )

    found: list[DeviceRecord] = []
    with contextlib.suppress(UnsupportedError):  # not Linux: this machine is no device
        found.append(_describe(LocalDevice()))
    try:
        server = AdbServer.from_environment()
        listed = server.devices()
    except DeviceUnavailableError as error:
        advice = f"{error.message}; {error.hint}" if error.hint else error.message
        return [*found, DeviceRecord("adb", "no server", advice=advice)]
    # One that hangs must not keep the others waiting.
    with ThreadPoolExecutor(max_workers=_ASKED_AT_ONCE) as pool:
        return [*found, *pool.map(describe, listed)]


def _describe(device: Device) -> DeviceRecord:
    from edgekit.device import android, conditions
    from edgekit.device.facts import gather
    from edgekit.schema.celsius import hottest

    serial = device.name.partition(":")[2] or None
    try:
        facts = gather(device)
    except EdgekitError as error:
        state = "unsupported" if isinstance(error, UnsupportedError) else "failing"
        return DeviceRecord(device.name, state, serial=serial, advice=error.message)
    heat = None
    # Who does not tell how it feels can be used all the same.
    with contextlib.suppress(EdgekitError):
        heat = hottest(conditions.read(device))
    return DeviceRecord(
        device.name,
        "device",
        serial=serial,
        model=facts.android.get("model") or facts.cpu_model,
        soc=android.soc_name(facts.android),
        abi=facts.abi,
        os=facts.os,
        free_bytes=facts.free_bytes,
        temperature_c=heat[1] if heat else None,
        advice=f"{facts.fidelity}: {facts.fidelity_reason}" if facts.fidelity != "real" else None,
    )


def _usable(server: AdbServer, serial: str) -> str:
    from edgekit.device.adb_server import ADVICE

    if not _SERIAL.match(serial):
        raise InputError(f"use device 'adb:{serial}': {serial!r} cannot be a serial number")
    state = server.state(serial)
    if _HOST_PORT.match(serial) and (
        state in (None, "offline", "unauthorized") or (state == "device" and not _answers(server, serial))
    ):
        # A device that was rebooted or moved stays listed, with a connection that leads nowhere. One that refused
        # this host asks its owner again only over a new connection.
        server.disconnect(serial)
        server.connect(serial)
        state = server.state(serial)
    if state is None:
        raise DeviceUnavailableError(
            "not among the devices of the adb server", device=f"adb:{serial}", hint=_known(server)
        )
    if state != "device":
        raise DeviceUnavailableError(f"its state is {state!r}", device=f"adb:{serial}", hint=ADVICE.get(state))
    return serial


def _answers(server: AdbServer, serial: str) -> bool:
    from edgekit.device.adb import AdbDevice
    from edgekit.device.adbd_shell import LIVENESS_TIMEOUT_S

    try:
        AdbDevice(serial, server).stat("/", timeout=LIVENESS_TIMEOUT_S)
    except DeviceFailedError:
        return False
    return True


def _only(server: AdbServer) -> str:
    from edgekit.device.adb_server import ADVICE

    listed = server.devices()
    ready = [one.serial for one in listed if one.state == "device"]
    if len(ready) == 1:
        return ready[0]
    if ready:
        raise DeviceUnavailableError("use the only adb device: there are several", hint=_known(server))
    if listed:
        one = listed[0]
        raise DeviceUnavailableError(
            f"its state is {one.state!r}", device=f"adb:{one.serial}", hint=ADVICE.get(one.state)
        )
    raise DeviceUnavailableError(
        f"use the only adb device: the adb server at {server} knows none",
        hint="plug one in and allow USB debugging, or name it as adb:HOST:PORT",
    )


def _known(server: AdbServer) -> str:
    names = [f"adb:{one.serial}" + ("" if one.state == "device" else f" ({one.state})") for one in server.devices()]
    return f"name one of: {', '.join(names)}" if names else f"the adb server at {server} knows no device; plug one in"
