"""``edgekit.probe`` and ``edgekit.pull``: measurements on a device, and runs that were left there."""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from edgekit.progress import Progress, silent
from edgekit.schema.protocol import Kernels, Protocol, load_protocol

if TYPE_CHECKING:
    from edgekit.device.base import Device
    from edgekit.schema.bundle import Bundle
    from edgekit.schema.run import DeviceFacts


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """Bundles to be measured in turn on one device that was found and asked already."""

    device: Device
    facts: DeviceFacts
    folders: Sequence[Path]
    #: Of the folders, each checked.
    manifests: Sequence[Bundle]
    protocol: Protocol
    out: Path
    allow_unfaithful: bool = False
    leave_on_device: bool = False
    progress: Progress = silent
    #: Begins the names of the runs; None: made from the time.
    name: str | None = None
    #: Devices of the same machine that are measured at the same time.
    beside: Sequence[str] = ()
    #: Rests between launches.
    pause: Callable[[float], None] = time.sleep


def chosen_protocol(name: str | Protocol, changes: dict[str, Any]) -> Protocol:
    """A protocol, itself or by name, with every change that is not None; the keys are :class:`Protocol`'s fields.

    Raises:
        InputError: no such protocol.
    """
    base = name if isinstance(name, Protocol) else load_protocol(name)
    return msgspec.structs.replace(base, **{key: value for key, value in changes.items() if value is not None})


def probe(
    bundles: Sequence[str | Path],
    *,
    device: str | None = None,
    protocol: str | Protocol = "default",
    prompts: Sequence[int] | None = None,
    generates: Sequence[int] | None = None,
    depths: Sequence[int] | None = None,
    repetitions: int | None = None,
    threads: Sequence[int] | None = None,
    affinity: Sequence[int] | None = None,
    gap_s: float | None = None,
    seed: int | None = None,
    precision: float | None = None,
    budget_s: float | None = None,
    max_repetitions: int | None = None,
    wait_s: float | None = None,
    max_temperature_c: float | None = None,
    max_load: float | None = None,
    sustain_s: float | None = None,
    kernels: Kernels | None = None,
    huge_pages: bool | None = None,
    profile: bool | None = None,
    out: str | Path = "runs",
    allow_unfaithful: bool = False,
    leave_on_device: bool = False,
    progress: Progress = silent,
) -> list[Path]:
    """Measure bundles in turn with each other on one device.

    Whatever is missing on the device (bundle, runtime library, probe) is put there first.
    Before anything is timed the device must pass each bundle's golden check.

    Args:
        bundles: folders of bundles.
        device: ``local`` (default), ``adb``, ``adb:SERIAL`` or ``adb:HOST:PORT``.
        protocol: named procedure, or one that was made, that gives the defaults of what follows.
        prompts: prompt lengths to prefill, tokens.
        generates: numbers of tokens to decode.
        depths: tokens already in the cache.
        repetitions: samples of each test.
        threads: thread counts.
        affinity: CPUs to run on.
        gap_s: seconds of rest between launches.
        seed: seed of prompts and of the order.
        precision: repeat until every test's 95% interval reaches no further than this share (0.02) from its median;
            ``repetitions`` are then the fewest.
        budget_s: begin no further round that would end after this many seconds.
        max_repetitions: the most rounds, whatever the precision and the budget.
        wait_s: the longest that each launch waits for the device to be cool and quiet; 0 never waits.
        max_temperature_c: degrees Celsius of the processor that a launch waits for; by default the device profile's.
        max_load: share of all CPUs' time (0 to 1) that others may take.
        sustain_s: seconds of decoding without a rest, by each bundle and thread count after the rounds
            (see :func:`edgekit.analysis.sustained.sustained`); with ``repetitions=0`` nothing else is measured.
        kernels: ``edgekit`` (default) runs our own operators where there are faster ones for the device's
            processor, ``runtime`` the runtime's own everywhere. What really ran is in the run and the comparison.
        huge_pages: weights lie in huge pages where the device has them and twice as much memory (default); False leaves
            them where the runtime put them. Each load's event says how much really lies there.
        profile: take the times of single operators instead of speeds, for :func:`edgekit.operators`. It slows all
            that is measured, so such a run is compared with none.
        out: folder of runs.
        allow_unfaithful: measure bundles that failed the gate or the golden check, too.
        leave_on_device: keep a copy of the run on the device, for :func:`pull`.
        progress: told of every launch.

    Returns:
        One run directory per bundle.

    Raises:
        InputError: a bundle is broken, or the protocol cannot be run with it.
        UnfaithfulError: the device computes something else than the host.
        UnsupportedError: no probe or runtime for the device's ABI.
        MissingToolError: no compiler for the device's ABI.
        HostStorageError: ``out`` cannot be written (nothing was sent).
        NotReadyError: the device did not become cool and quiet in time; what was measured before is kept.
        DeviceUnavailableError, DeviceFailedError, ProbeError: see :mod:`edgekit.errors`.
    """
    from edgekit.device import facts
    from edgekit.device.discover import resolve
    from edgekit.schema.integrity import check_bundle

    folders = [Path(bundle) for bundle in bundles]
    manifests = [check_bundle(folder) for folder in folders]
    measured = chosen_protocol(
        protocol,
        {
            "prompts": _as_list(prompts),
            "generates": _as_list(generates),
            "depths": _as_list(depths),
            "repetitions": repetitions,
            "threads": _as_list(threads),
            "affinity": _as_list(affinity),
            "gap_s": gap_s,
            "seed": seed,
            "precision": precision,
            "budget_s": budget_s,
            "max_repetitions": max_repetitions,
            "wait_s": wait_s,
            "max_temperature_c": max_temperature_c,
            "max_load": max_load,
            "sustain_s": sustain_s,
            "kernels": kernels,
            "huge_pages": huge_pages,
            "profile": profile,
        },
    )
    target = resolve(device)
    return measure(
        Measurement(
            device=target,
            facts=facts.gather(target),
            folders=folders,
            manifests=manifests,
            protocol=measured,
            out=Path(out),
            allow_unfaithful=allow_unfaithful,
            leave_on_device=leave_on_device,
            progress=progress,
        )
    )


def measure(asked: Measurement) -> list[Path]:
    """Measure bundles in turn with each other (returns and raises as :func:`probe`)."""
    from edgekit import __version__
    from edgekit.analysis.precision import widest_interval
    from edgekit.analysis.warmup import warmup_of
    from edgekit.deploy.install import install_probe, prepare_probe
    from edgekit.deploy.push import push_bundle
    from edgekit.probing.planning import check_protocol, default_threads
    from edgekit.probing.session import Session, Target
    from edgekit.schema.device_profile import measured_profiles, profile_of
    from edgekit.schema.operators import OPERATOR_MAP
    from edgekit.schema.storage import check_writable

    target, known, progress = asked.device, asked.facts, asked.progress
    profile_known = profile_of(known, measured_profiles())
    measured = msgspec.structs.replace(asked.protocol, threads=asked.protocol.threads or default_threads(known))
    for manifest in asked.manifests:
        check_protocol(measured, manifest, cpus=known.cpus)
    check_writable(asked.out)
    kits = [
        prepare_probe(manifest.runtime, known.abi, kernels=measured.kernels, progress=progress)
        for manifest in asked.manifests
    ]
    pushed = [
        push_bundle(target, folder, bundle=manifest, allow_unfaithful=asked.allow_unfaithful, progress=progress)
        for folder, manifest in zip(asked.folders, asked.manifests, strict=True)
    ]
    installed = [install_probe(target, kit, progress=progress) for kit in kits]
    versions = {"edgekit": __version__, "python": platform.python_version(), "host": platform.platform()}
    for kit in installed:
        if kit.c_library is not None:
            versions["c_library"] = kit.c_library
    session = Session(
        device=target,
        facts=known,
        targets=[
            Target(
                bundle=manifest,
                model_path=place.model_path,
                probe_command=kit.command,
                library_path=kit.library_path,
                kernel_paths=kit.kernel_paths,
                operator_map=folder / OPERATOR_MAP if (folder / OPERATOR_MAP).is_file() else None,
            )
            for folder, manifest, place, kit in zip(asked.folders, asked.manifests, pushed, installed, strict=True)
        ],
        protocol=measured,
        runs_dir=asked.out,
        versions=versions,
        command=sys.argv,
        allow_unfaithful=asked.allow_unfaithful,
        leave_on_device=asked.leave_on_device,
        limits=profile_known.limits if profile_known is not None else None,
        widest=widest_interval,
        warmup_of=warmup_of,
        progress=progress,
        beside=asked.beside,
        pause=asked.pause,
    )
    if asked.name is not None:
        session.name = asked.name
    return session.measure()


def pull(
    *,
    device: str | None = None,
    run: str | None = None,
    out: str | Path = "runs",
    keep: bool = False,
    progress: Progress = silent,
) -> list[Path]:
    """Fetch runs that a lost connection, a killed host or ``leave_on_device`` left on a device.

    Args:
        device: ``local`` (default), ``adb``, ``adb:SERIAL`` or ``adb:HOST:PORT``.
        run: one run's name; default: all.
        out: folder of runs; a run that is there already gets the launches it lacks.
        keep: leave the runs on the device.
        progress: told of every run.

    Returns:
        The run directories.

    Raises:
        InputError: no such run on the device, or what it holds is no run.
        DeviceUnavailableError, DeviceFailedError: no such device, or it failed on the way.
    """
    from edgekit.device.discover import resolve
    from edgekit.probing.recovery import pull_runs

    target = resolve(device)
    return pull_runs(target, Path(out), only=run, keep=keep, progress=progress)


def _as_list(values: Sequence[int] | None) -> list[int] | None:
    return None if values is None else list(values)
