"""Where a sweep stands, for whoever shows it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

DeviceState = Literal["waiting", "measuring", "done", "quarantined"]


@dataclass(frozen=True)
class DeviceStatus:
    """One device. Counts are cells."""

    name: str
    state: DeviceState
    total: int
    done: int
    failed: int
    #: What it does, what it waits for, or why it was given up.
    detail: str
    #: Expected until it is done; None where it will not be.
    seconds_left: float | None


@dataclass(frozen=True)
class SweepStatus:
    """Everything at one moment. Counts of exports are bundles."""

    devices: tuple[DeviceStatus, ...]
    exports_total: int
    exports_done: int
    exports_failed: int
    exports_detail: str

    @property
    def done(self) -> int:
        """Cells that are done."""
        return sum(device.done for device in self.devices)

    @property
    def failed(self) -> int:
        """Cells that failed."""
        return sum(device.failed for device in self.devices)

    @property
    def total(self) -> int:
        """All cells."""
        return sum(device.total for device in self.devices)


Watch = Callable[[SweepStatus], None]


def unwatched(status: SweepStatus) -> None:
    """Nobody looks."""
