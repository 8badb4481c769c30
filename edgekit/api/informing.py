"""``edgekit.devices``, ``edgekit.models`` and ``edgekit.doctor``: what there is, and what is missing."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgekit.deploy.doctor import Finding
    from edgekit.device.discover import DeviceRecord
    from edgekit.schema.model_profile import ModelProfile


def devices() -> list[DeviceRecord]:
    """Devices that can be used or nearly so: this machine, and all that the adb server lists.

    Without an adb server only this machine is listed.
    """
    from edgekit.device.discover import list_devices

    return list_devices()


def models() -> list[ModelProfile]:
    """Models and architectures that edgekit knows by name, sorted by name."""
    from edgekit.schema.model_profile import load_model_profile, model_names

    return [load_model_profile(name) for name in model_names()]


def doctor() -> list[Finding]:
    """What this machine has and lacks, each with the command that installs it."""
    from edgekit.deploy.doctor import check_host

    return check_host()
