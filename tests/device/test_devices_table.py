"""A line of ``edgekit devices``, from what a phone answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from edgekit.cli.tables import print_devices
from edgekit.device import discover
from edgekit.device.base import Completed
from edgekit.errors import DeviceFailedError

FACTS = """=edgekit= machine
aarch64
=edgekit= system
Linux
=edgekit= online
0-7
=edgekit= getprop
[ro.build.version.sdk]: [34]
[ro.build.version.release]: [14]
[ro.product.cpu.abi]: [arm64-v8a]
[ro.product.model]: [Some \x1b[31mPhone]
[ro.soc.manufacturer]: [QTI]
[ro.soc.model]: [SM8650]
=edgekit= disk
Filesystem 1024-blocks Used Available Capacity Mounted on
/dev/block/dm-5 1000 400 600 40% /data
"""
FEELING = """=edgekit= thermal
battery 31000
cpu-0-0 41500
cpu-0-1 43250
"""


class Phone:
    name = "adb:R5CT1234"
    transport = "adb"
    root = "/data/local/tmp/edgekit"

    def __init__(self, feels: bool = True) -> None:
        self.feels = feels

    def run(self, argv: Sequence[str], **options: Any) -> Completed:
        if "machine" in argv[2]:
            return Completed(0, FACTS.encode(), b"")
        if not self.feels:
            raise DeviceFailedError("read the device's conditions: not done after 60 s", device=self.name)
        return Completed(0, FEELING.encode(), b"")


def test_a_phone_tells_what_it_is_and_how_it_feels(capsys: pytest.CaptureFixture[str]) -> None:
    found = discover._describe(Phone())  # type: ignore[arg-type]
    assert (found.name, found.serial, found.state) == ("adb:R5CT1234", "R5CT1234", "device")
    assert (found.soc, found.abi, found.os) == ("QTI SM8650", "android-arm64-v8a", "Android 14 (API 34)")
    assert (found.free_bytes, found.temperature_c) == (600 * 1024, 43.25)
    print_devices([found], "md")
    shown = capsys.readouterr().out
    assert "QTI SM8650" in shown
    assert "\x1b" not in shown


def test_a_phone_that_does_not_tell_how_it_feels_can_be_used() -> None:
    found = discover._describe(Phone(feels=False))  # type: ignore[arg-type]
    assert (found.state, found.temperature_c) == ("device", None)
