"""``edgekit.calibrate``: what a device can do at best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.progress import Progress, silent

if TYPE_CHECKING:
    from edgekit.schema.device_profile import DeviceProfile


@dataclass(frozen=True)
class CalibrationOutcome:
    """A measured device profile, and the file it was written to."""

    profile: DeviceProfile
    path: Path


def calibrate(
    *,
    device: str | None = None,
    threads: Sequence[int] | None = None,
    rounds: int | None = None,
    seconds: float | None = None,
    buffer_mib: int | None = None,
    name: str | None = None,
    out: str | Path | None = None,
    progress: Progress = silent,
) -> CalibrationOutcome:
    """Measure a device's read bandwidth, arithmetic rates, clock and the cost of starting threads; store its profile.

    Runs on that device are then shown beside what it allows, and estimates take the measured values.

    Args:
        device: ``local`` (default), ``adb``, ``adb:SERIAL`` or ``adb:HOST:PORT``.
        threads: thread counts on the fastest cores; None: 1, 2, 4, ... and all, and each cluster of its own.
        rounds: samples of each quantity.
        seconds: after which no further round begins.
        buffer_mib: memory that is read; None: eight times the last-level cache, 128 MiB at least.
        name: of the profile; None: that of the chip's shipped profile, or one made from the processor's name.
        out: file to write (``.json``); None: into the user's data folder, where it is found by its name.
        progress: told of the build and of every round.

    Raises:
        InputError: more threads than cores, or a name that cannot be a file's.
        UnsupportedError, MissingToolError: the program cannot be built for the device.
        ProbeError: it failed there.
        HostStorageError: the profile cannot be written (nothing was measured).
        DeviceUnavailableError, DeviceFailedError: no such device, or it failed on the way.
    """
    import re
    from datetime import UTC, datetime

    from edgekit.analysis.calibration import profile_from
    from edgekit.deploy.probe_build import CALIBRATION_NAME, ensure_calibration
    from edgekit.deploy.push import push_files
    from edgekit.device import facts
    from edgekit.device.discover import resolve
    from edgekit.errors import HostStorageError, InputError
    from edgekit.probing import calibrating
    from edgekit.schema import codec
    from edgekit.schema.device_profile import measured_dir, shipped_profile_of
    from edgekit.schema.storage import check_writable, write_atomically

    if name is not None and not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,79}", name):
        raise InputError(f"calibrate: {name!r} cannot name a profile", hint="use small letters, digits, - . and _")
    if out is not None and Path(out).suffix != ".json":
        raise InputError(f"calibrate: write a profile to {out}", hint="give a file that ends in .json")
    folder = measured_dir() if out is None else Path(out).absolute().parent
    target = resolve(device)
    known = facts.gather(target)
    where = calibrating.places(known, threads)
    check_writable(folder, doing=f"write a device profile into {folder}")
    program = ensure_calibration(known.abi, progress=progress)
    placed = push_files(target, {CALIBRATION_NAME: program}, progress=progress)[CALIBRATION_NAME]
    found = calibrating.calibrate_device(
        target,
        placed,
        where,
        rounds=calibrating.DEFAULT_ROUNDS if rounds is None else rounds,
        seconds=calibrating.DEFAULT_SECONDS if seconds is None else seconds,
        buffer_bytes=None if buffer_mib is None else buffer_mib << 20,
        progress=progress,
    )
    profile = profile_from(
        found, known, at=datetime.now(UTC).isoformat(timespec="seconds"), name=name, known=shipped_profile_of(known)
    )
    path = folder / f"{profile.name}.json" if out is None else Path(out)
    try:
        write_atomically(path, codec.encode(profile))
    except OSError as error:
        raise HostStorageError(f"write the device profile {path}: {error.strerror or error}") from error
    return CalibrationOutcome(profile, path)
