"""A device behind an adb server: phones and boards over USB, Wi-Fi or the network."""

from __future__ import annotations

import re
import time
from typing import Literal

from edgekit.device.adb_server import SERVER_TIMEOUT_S, AdbServer
from edgekit.device.adb_wire import RefusedError, Wire
from edgekit.device.adbd import AdbdDevice
from edgekit.device.base import Deadline

#: A server that has just started finds what is plugged in within this.
APPEARING_S = 3.0
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
        try:
            return self._switched(deadline)
        except RefusedError as error:
            if "not found" not in str(error):
                raise
        # A server that was restarted has forgotten what was connected over the network, and looks for the rest.
        if _ADDRESS.match(self.serial):
            self.server.connect(self.serial)
        else:
            appearing = Deadline(min(APPEARING_S, deadline.left()))
            while self.server.state(self.serial) != "device" and not appearing.passed:
                time.sleep(0.1)
        return self._switched(deadline)

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
