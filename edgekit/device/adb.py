"""A device behind an adb server: phones and boards over USB, Wi-Fi or the network."""

from __future__ import annotations

import re
import time
from typing import Literal

from edgekit.device.adb_server import SERVER_TIMEOUT_S, AdbServer
from edgekit.device.adb_wire import RefusedError, Wire, WireError
from edgekit.device.adbd import AdbdDevice
from edgekit.device.base import Deadline

#: A server that has just started finds what is plugged in within this.
APPEARING_S = 3.0
#: A device whose connection is sound answers within this, over bad Wi-Fi, too.
TRY_S = 10.0
#: A serial by which a server can connect to a device: one of the network.
_ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):[0-9]{1,5}\Z")


class AdbDevice(AdbdDevice):
    """A device that an adb server lists. Each call has a connection of its own."""

    transport: Literal["adb"] = "adb"

    def __init__(self, serial: str, server: AdbServer | None = None, root: str | None = None) -> None:
        """Address a device; nothing is asked of it yet.

        Args:
            serial: as ``adb devices`` lists it.
            server: by default the one of the environment.
            root: as in :class:`~edgekit.device.adbd.AdbdDevice`.
        """
        super().__init__(root)
        self.serial = serial
        self.server = server if server is not None else AdbServer.from_environment()

    @property
    def name(self) -> str:
        """``adb:SERIAL``."""
        return f"adb:{self.serial}"

    def _open(self, deadline: Deadline) -> Wire:
        if not self._heard_lately() and not self._answers(deadline):
            self._find_again(deadline)
        try:
            return self._switched(deadline)
        except RefusedError as error:
            # Nothing was asked of the device yet.
            if not any(word in str(error) for word in ("not found", "offline")):
                raise
        self._find_again(deadline)
        return self._switched(deadline)

    def _answers(self, deadline: Deadline) -> bool:
        """Whether the server's connection to the device leads there; False when the server found that it does not.

        A device that lost its power says no farewell, and the server learns of it by what it sends next. If that were a
        command, nobody could tell whether it had run.
        """
        try:
            wire = self._switched(Deadline(min(TRY_S, deadline.left())))
        except WireError:
            return True  # what the server says of the device is told by who asks for more
        try:
            wire.request(b"sync:")
        except WireError as error:
            # One that is only slow has not lost its connection, over which others may be at work.
            return isinstance(error.__cause__, TimeoutError)
        finally:
            wire.close()
        return True

    def _find_again(self, deadline: Deadline) -> None:
        """Wait for a device that the server lost, or has forgotten because it was restarted."""
        if _ADDRESS.match(self.serial):
            if self.server.state(self.serial) == "offline":
                # To connect again would be answered with the connection that is lost.
                self.server.disconnect(self.serial)
            self.server.connect(self.serial)
            return
        appearing = Deadline(min(APPEARING_S, deadline.left()))
        while self.server.state(self.serial) != "device" and not appearing.passed:
            time.sleep(0.1)

    def _switched(self, deadline: Deadline) -> Wire:
        wire = self.server.open(deadline)
        try:
            wire.request(f"host:transport:{self.serial}".encode())
        except BaseException:
            wire.close()
            raise
        return wire

    def _ask_features(self) -> str:
        return self.server.ask(f"host-serial:{self.serial}:features", SERVER_TIMEOUT_S)
