"""``edgekit.calibrate``: what a device can do at best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.progress import Progress, silent

if TYPE_CHECKING:
    from edgekit.analysis.accounting.decoder import Decoder
    from edgekit.schema.device_profile import DeviceProfile
    from edgekit.schema.own_runs import OwnRow


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
        buffer_mib: memory that is read; None: eight times the last-level cache, 128 MiB to 1 GiB.
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
    from functools import partial

    from edgekit.analysis.calibration import profile_from
    from edgekit.deploy.install import install_program
    from edgekit.deploy.probe_build import CALIBRATION_NAME, ensure_calibration
    from edgekit.device import facts
    from edgekit.device.discover import resolve
    from edgekit.errors import HostStorageError, InputError
    from edgekit.probing import calibrating
    from edgekit.schema import codec
    from edgekit.schema.device_profile import device_identity, measured_dir, measured_profiles, shipped_profile_of
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
    placed = install_program(
        target, known.abi, CALIBRATION_NAME, partial(ensure_calibration, progress=progress), progress=progress
    )
    found = calibrating.calibrate_device(
        target,
        placed,
        where,
        rounds=calibrating.DEFAULT_ROUNDS if rounds is None else rounds,
        seconds=calibrating.DEFAULT_SECONDS if seconds is None else seconds,
        buffer_bytes=None if buffer_mib is None else buffer_mib << 20,
        progress=progress,
    )
    identity = device_identity(known)
    before = next((item for item in measured_profiles() if item.measured and item.measured.identity == identity), None)
    profile = profile_from(
        found,
        known,
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        name=name,
        known=shipped_profile_of(known),
        before=before,
    )
    path = folder / f"{profile.name}.json" if out is None else Path(out)
    try:
        write_atomically(path, codec.encode(profile))
    except OSError as error:
        raise HostStorageError(f"write the device profile {path}: {error.strerror or error}") from error
    return CalibrationOutcome(profile, path)


def fit_profile(runs: Sequence[str | Path], *, out: str | Path | None = None) -> CalibrationOutcome:
    """Fit what runtimes take on a device to runs that were measured there, and store it in the device's profile.

    Estimates for the device then use these rates: a time for each kind of weights, from the last cache and from memory,
    for the KV cache, attention and what lies between products, for each block and pass. Their intervals come from
    predicting each model from the others.

    Args:
        runs: run directories of one device; at least three different models of a runtime with one number of threads.
        out: file to write (``.json``); None: the device's profile in the user's data folder.

    Raises:
        InputError: runs of several devices, of a device that was not calibrated, or of too few models.
        HostStorageError: the profile cannot be written.
    """
    import msgspec

    from edgekit.analysis.estimator.condensing import rows_of
    from edgekit.analysis.estimator.expecting import decoder_of_bundle
    from edgekit.analysis.estimator.fitting import cases_of, rates_of
    from edgekit.analysis.estimator.rating import general_rates
    from edgekit.analysis.load import load_run
    from edgekit.errors import HostStorageError, InputError
    from edgekit.schema import codec
    from edgekit.schema.device_profile import device_identity, measured_dir, measured_profiles
    from edgekit.schema.storage import check_writable, write_atomically

    loaded = [load_run(path) for path in runs]
    if not loaded:
        raise InputError("fit a profile: no runs were given")
    identities = {device_identity(run.run.device) for run in loaded}
    if len(identities) > 1:
        raise InputError(f"fit a profile: the runs are of {len(identities)} devices", hint="give the runs of one")
    [identity] = identities
    found = [item for item in measured_profiles() if item.measured and item.measured.identity == identity]
    if not found:
        raise InputError("fit a profile: the runs' device was not calibrated", hint="`edgekit calibrate` first")
    profile = found[0]
    decoders: dict[str, Decoder] = {}
    rows: list[OwnRow] = []
    for run in loaded:
        decoder = decoder_of_bundle(run.bundle)
        if decoder is not None and run.run.device.fidelity == "real":
            # One shape is one model, whatever its weights and its name: it must not predict itself.
            shape = repr(run.bundle.architecture)
            decoders[shape] = decoder
            rows += rows_of(shape, [run])
    fitted = rates_of(cases_of(rows, decoders), lambda threads: general_rates(profile, threads))
    kept = [item for item in profile.fitted if item.runtime not in {rates.runtime for rates in fitted}]
    profile = msgspec.structs.replace(profile, fitted=kept + fitted)
    path = measured_dir() / f"{profile.name}.json" if out is None else Path(out)
    check_writable(path.parent, doing=f"write a device profile into {path.parent}")
    try:
        write_atomically(path, codec.encode(profile))
    except OSError as error:
        raise HostStorageError(f"write the device profile {path}: {error.strerror or error}") from error
    return CalibrationOutcome(profile, path)
