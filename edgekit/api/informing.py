"""What there is, and what is missing: ``edgekit.devices``, ``models``, ``models_report``, ``model`` and ``doctor``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.progress import Progress, silent

if TYPE_CHECKING:
    from edgekit.analysis.catalogue import ModelFacts
    from edgekit.deploy.device_doctor import Checkup
    from edgekit.deploy.doctor import Finding
    from edgekit.device.discover import DeviceRecord
    from edgekit.schema.model_profile import ModelProfile


def devices() -> list[DeviceRecord]:
    """Devices that can be used or nearly so: this machine, and all that the adb server lists.

    Without an adb server only this machine is listed.
    """
    from edgekit.device.discover import list_devices

    return list_devices()


def models(*, filters: Sequence[str] = (), sort: str | None = None) -> list[ModelFacts]:
    """Facts of the models and architectures that edgekit knows by name.

    Args:
        filters: conditions such as ``parameters<500M`` or ``attention=GQA``; all must hold.
        sort: a field of :class:`edgekit.analysis.catalogue.ModelFacts`, ``-FIELD`` for the largest first;
            None for the order of names.

    Raises:
        InputError: no such field, or a condition that cannot be read.
    """
    from edgekit.analysis.catalogue import model_facts, select
    from edgekit.schema.model_index import all_model_profiles

    return select([model_facts(profile) for profile in all_model_profiles()], filters, sort)


def models_report(out: str | Path, *, filters: Sequence[str] = (), progress: Progress = silent) -> Path:
    """Write an HTML page that shows how the models that edgekit knows changed over the years.

    Attention, feed-forward, activation, norm, vocabulary, and training tokens per parameter.

    Args:
        out: the file to write, ``.html``.
        filters: as for :func:`models`.
        progress: told of each plot.

    Raises:
        InputError: no such field, a condition that cannot be read, no model left, or ``out`` is a directory.
        HostStorageError: the file cannot be written.
    """
    from edgekit.reporting.catalogue_report import write_catalogue_report

    return write_catalogue_report(models(filters=filters), out, progress=progress)


def model(name: str) -> ModelProfile:
    """One model's profile: its configuration, and where each value was read.

    Raises:
        InputError: no such profile; the hint offers the nearest names.
    """
    from edgekit.schema.model_profile import load_model_profile

    return load_model_profile(name)


def doctor() -> list[Finding]:
    """What this machine has and lacks, each with the command that installs it."""
    from edgekit.deploy.doctor import check_host

    return check_host()


def check_device(device: str | None = None) -> Checkup:
    """What works on a device for measuring, and what it tells of itself; nothing stays on it.

    Args:
        device: as in :func:`edgekit.push`.

    Returns:
        A checklist, and a report for a bug tracker from which private values were removed.

    Raises:
        DeviceUnavailableError, DeviceFailedError: no such device, or it cannot be asked at all.
    """
    from edgekit.deploy.device_doctor import check_device as check
    from edgekit.device.discover import resolve

    return check(resolve(device))
