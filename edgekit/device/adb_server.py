"""The adb server: where it is, starting it, and what it knows of devices."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass

from edgekit.device.adb_wire import ALLOW_THIS_HOST, RefusedError, Wire, WireError
from edgekit.device.base import Deadline, printable
from edgekit.errors import DeviceUnavailableError, InputError, UnsupportedError

DEFAULT_PORT = 5037
#: A server on this machine answers in milliseconds, one across a network in less than this.
CONNECT_TIMEOUT_S = 5.0
#: Answering from the server's own tables; no device is asked.
SERVER_TIMEOUT_S = 10.0
#: A cold adb generates a key and scans USB before it answers.
START_TIMEOUT_S = 30.0
#: ``adb connect`` to an address where nobody answers gives up by itself after about 10 s.
DEVICE_CONNECT_TIMEOUT_S = 20.0
#: After connecting, a device says hello and authorizes within moments.
DEVICE_READY_TIMEOUT_S = 5.0

#: States of a device that says hello.
_ON_ITS_WAY = ("offline", "connecting", "authorizing")
_LOOPBACK = ("localhost", "127.0.0.1", "::1", "")
_INSTALL_ADB = "install adb (Debian and Ubuntu: `apt install adb`; macOS: `brew install android-platform-tools`)"


@dataclass(frozen=True, slots=True)
class Listed:
    """One line of ``adb devices -l``."""

    serial: str
    state: str
    tags: dict[str, str]


class AdbServer:
    """An adb server at an address; cheap to make, connects for each request."""

    def __init__(self, host: str, port: int) -> None:
        self.host = host
        self.port = port

    @classmethod
    def from_environment(cls) -> AdbServer:
        """The server that adb's own variables name.

        ``ADB_SERVER_SOCKET`` (``tcp:HOST:PORT`` or ``tcp:PORT``), else
        ``ANDROID_ADB_SERVER_ADDRESS`` and ``ANDROID_ADB_SERVER_PORT``, else port 5037 here.

        Raises:
            InputError: a variable cannot be understood.
            UnsupportedError: the server listens on something that is not TCP.
        """
        spec = os.environ.get("ADB_SERVER_SOCKET")
        if spec:
            if not spec.startswith("tcp:"):
                raise UnsupportedError(
                    f"reach the adb server at ADB_SERVER_SOCKET={spec}: only tcp:HOST:PORT is spoken",
                    hint="unset ADB_SERVER_SOCKET, or give it the form tcp:HOST:PORT",
                )
            host, _, port = spec[4:].rpartition(":")
            return cls(host.strip("[]") or "127.0.0.1", _port(port, "ADB_SERVER_SOCKET"))
        host = os.environ.get("ANDROID_ADB_SERVER_ADDRESS") or "127.0.0.1"
        number = os.environ.get("ANDROID_ADB_SERVER_PORT")
        return cls(host, _port(number, "ANDROID_ADB_SERVER_PORT") if number else DEFAULT_PORT)

    def open(self, deadline: Deadline) -> Wire:
        """A connection to the server, which is started when it is ours to start.

        Raises:
            DeviceUnavailableError: no server, and none can be started.
        """
        sock = self._connect()
        if sock is None:
            self._start()
            sock = self._connect()
        if sock is None:
            raise DeviceUnavailableError(f"connect to the adb server at {self}: nobody answers", hint=_INSTALL_ADB)
        return Wire(sock, deadline)

    def ask(self, service: str, timeout: float = SERVER_TIMEOUT_S) -> str:
        """The server's answer to a ``host:`` request.

        Raises:
            RefusedError: it said no, with its reason.
            WireError: it did not answer.
            DeviceUnavailableError: there is no server.
        """
        wire = self.open(Deadline(timeout))
        try:
            wire.request(service.encode())
            return wire.text()
        finally:
            wire.close()

    def devices(self) -> list[Listed]:
        """Every device the server knows, whatever its state.

        Raises:
            DeviceUnavailableError: no server, or no sensible answer.
        """
        try:
            try:
                told = self.ask("host:devices-l")
            except WireError as error:
                if not isinstance(error.__cause__, ConnectionError):
                    raise
                # It crashed, as some releases do when a device vanishes while it is connected: another one is started.
                told = self.ask("host:devices-l")
            return parse_devices(told)
        except WireError as error:
            raise DeviceUnavailableError(
                f"list the devices of the adb server at {self}: {error}",
                hint="is that an adb server? ANDROID_ADB_SERVER_ADDRESS, ANDROID_ADB_SERVER_PORT or ADB_SERVER_SOCKET "
                f"names another; `adb -P {self.port} kill-server` ends one that hangs",
            ) from error

    def connect(self, address: str) -> None:
        """Connect to ``HOST:PORT`` and wait until the device is listed.

        Raises:
            DeviceUnavailableError: nobody answers there.
        """
        deadline = Deadline(DEVICE_READY_TIMEOUT_S)
        self._connect_once(address)
        while (state := self.state(address)) in (None, *_ON_ITS_WAY) and not deadline.passed:
            if state is None:
                # The answer was of an older connection to the same address, which has ended meanwhile.
                self._connect_once(address)
            time.sleep(0.05)

    def _connect_once(self, address: str) -> None:
        name = f"adb:{address}"
        try:
            answer = self.ask(f"host:connect:{address}", DEVICE_CONNECT_TIMEOUT_S)
        except WireError as error:
            answer = str(error)
        # One that does not trust this host is connected too, and listed with what keeps it from being used.
        if not answer.startswith(("connected to", "already connected to", "failed to authenticate to")):
            raise DeviceUnavailableError(
                f"adb connect: {printable(answer)}",
                device=name,
                hint="is adbd listening there (`adb tcpip 5555` on a phone), and is the address right?",
            )

    def disconnect(self, address: str) -> None:
        """Forget a device that was connected over the network; no error when it is not known."""
        with contextlib.suppress(WireError):
            self.ask(f"host:disconnect:{address}")

    def state(self, serial: str) -> str | None:
        """State of one device (``device``, ``offline``, ``unauthorized`` …), None when it is not listed."""
        return next((listed.state for listed in self.devices() if listed.serial == serial), None)

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"

    def _connect(self) -> socket.socket | None:
        try:
            sock = socket.create_connection((self.host, self.port), CONNECT_TIMEOUT_S)
        except OSError:
            return None
        # A server on another machine may vanish without a word.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        return sock

    def _start(self) -> None:
        if self.host not in _LOOPBACK:
            raise DeviceUnavailableError(
                f"connect to the adb server at {self}: nobody answers",
                hint=f"start it on that machine: `adb -a -P {self.port} nodaemon server`",
            )
        import adbutils

        try:
            adb = adbutils.adb_path()
        except (adbutils.AdbError, OSError) as error:
            raise DeviceUnavailableError(
                f"start an adb server: no adb on the PATH and none in adbutils ({error})", hint=_INSTALL_ADB
            ) from error
        # With either of these adb takes its own machine for another one, where it starts nothing.
        remote = ("ADB_SERVER_SOCKET", "ANDROID_ADB_SERVER_ADDRESS")
        environment = {key: value for key, value in os.environ.items() if key not in remote}
        # Not a pipe: the server inherits it and would keep us waiting for its end for ever.
        with tempfile.TemporaryFile() as output:
            try:
                code = subprocess.run(
                    [adb, "-P", str(self.port), "start-server"],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    env=environment,
                    timeout=START_TIMEOUT_S,
                    check=False,
                ).returncode
            except (OSError, subprocess.TimeoutExpired) as error:
                raise DeviceUnavailableError(
                    f"start an adb server with {adb}: {error}", hint=f"run `{adb} -P {self.port} start-server`"
                ) from error
            output.seek(0)
            said = printable(output.read())
        if code != 0:
            raise DeviceUnavailableError(
                f"start an adb server with {adb}: exit code {code}",
                detail=said or None,
                hint=f"run `{adb} -P {self.port} start-server` and see what it says",
            )


def _port(text: str, variable: str) -> int:
    try:
        port = int(text)
    except ValueError:
        port = 0
    if not 0 < port < 65536:
        raise InputError(f"read {variable}: {text!r} is no port number")
    return port


#: State names that consist of several words, as newer servers print them.
_STATE = re.compile(r"^(\S+)\s+(no permissions(?: \([^)]*\))?|\S+)(.*)$")


def parse_devices(text: str) -> list[Listed]:
    """Read the answer to ``host:devices-l``; lines that make no sense are left out."""
    found = []
    for line in text.splitlines():
        # A USB device names itself: no escape of its making may reach a terminal.
        match = _STATE.match(printable(line))
        if not match:
            continue
        serial, state, rest = match.groups()
        tags = dict(word.split(":", 1) for word in rest.split() if ":" in word)
        found.append(Listed(serial, "no permissions" if state.startswith("no permissions") else state, tags))
    return found


#: What to do about a device that is listed but cannot be used.
ADVICE = {
    "unauthorized": ALLOW_THIS_HOST,
    "authorizing": ALLOW_THIS_HOST,
    "offline": "plug it in again or run `adb reconnect offline`; over Wi-Fi, `adb connect HOST:PORT` again",
    "connecting": "wait a moment and try again",
    "no permissions": "this user may not use the USB device: install Android's udev rules, then plug it in again",
    "recovery": "boot the device into its normal system",
    "sideload": "boot the device into its normal system",
    "bootloader": "boot the device into its normal system",
    "host": "boot the device into its normal system",
}

__all__ = ["ADVICE", "AdbServer", "Listed", "RefusedError", "parse_devices"]
