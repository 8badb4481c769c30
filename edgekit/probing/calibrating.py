"""Running the calibration program on a device: which CPUs it is asked about, and what it answers."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from edgekit.device.base import Device, printable
from edgekit.errors import InputError, ProbeError, UnsupportedError
from edgekit.progress import Progress, ProgressEvent, silent
from edgekit.schema.calibration import (
    SCHEMA_VERSION,
    Calibration,
    CalibrationDone,
    CalibrationEvent,
    CalibrationHello,
    CalibrationSample,
)
from edgekit.schema.run import DeviceFacts

#: What the program is given, and what an emulated device may take on top for its first, untimed round.
DEFAULT_SECONDS = 40.0
_EXTRA_S = 300.0
DEFAULT_ROUNDS = 25
#: Some hundred bytes a sample; more is not from the program.
_MAX_BYTES = 16 * 1024 * 1024

_EVENTS: msgspec.json.Decoder[CalibrationEvent] = msgspec.json.Decoder(CalibrationEvent)


def places(facts: DeviceFacts, threads: Sequence[int] | None = None) -> list[list[int]]:
    """The sets of CPUs to measure, one thread on each CPU.

    All CPUs from the fastest cluster on with 1, 2, 4, ... and all threads (or ``threads``), and each cluster of its
    own with one thread and with all of its CPUs.

    Raises:
        InputError: more threads than CPUs.
    """
    clusters = sorted(facts.clusters, key=lambda cluster: -(cluster.max_khz or 0))
    cpus = [cpu for cluster in clusters for cpu in cluster.cpus] or list(range(facts.cpus))
    counts = list(threads) if threads else [count for count in (1, 2, 4, 8, 16, 32, 64) if count < len(cpus)]
    if not threads:
        counts.append(len(cpus))
    if max(counts) > len(cpus):
        raise InputError(
            f"calibrate with {max(counts)} threads: the device has {len(cpus)} cores",
            hint=f"give at most {len(cpus)} to -t",
        )
    found = [cpus[:count] for count in counts]
    for cluster in clusters if len(clusters) > 1 and not threads else []:
        found += [cluster.cpus[:1], list(cluster.cpus)]
    return [list(place) for place in dict.fromkeys(tuple(place) for place in found)]


def calibrate_device(
    device: Device,
    program: Sequence[str],
    where: Sequence[Sequence[int]],
    *,
    rounds: int = DEFAULT_ROUNDS,
    seconds: float = DEFAULT_SECONDS,
    buffer_bytes: int | None = None,
    progress: Progress = silent,
) -> Calibration:
    """Run the calibration program on a device over the sets of CPUs ``where``.

    Args:
        device: where it lies.
        program: the command that starts it there.
        where: as from :func:`places`.
        rounds: samples of each quantity and set of CPUs.
        seconds: after which no further round begins; one round is always measured.
        buffer_bytes: what is read; None: several times the last-level cache.
        progress: told of every round.

    Raises:
        ProbeError: it failed, or did not say what it should.
        UnsupportedError: it is newer than this edgekit.
        DeviceFailedError: the device was lost.
    """
    found: list[CalibrationEvent] = []
    pending = bytearray()
    total = 0

    def follow(chunk: bytes) -> None:
        nonlocal total
        total += len(chunk)
        if total > _MAX_BYTES:
            raise ProbeError("calibrate: the program flooded its output", device=device.name)
        pending.extend(chunk)
        *lines, rest = bytes(pending).split(b"\n")
        pending[:] = rest
        for line in lines:
            event = _decode(line, device.name)
            if isinstance(event, CalibrationSample) and (not found or _round(found[-1]) != event.round):
                progress(ProgressEvent(f"calibrate {device.name}", done=event.round, total=rounds, unit="rounds"))
            found.append(event)

    text = "/".join(",".join(map(str, place)) for place in where)
    command = [*program, "--places", text, "--rounds", str(rounds), "--seconds", f"{seconds:g}"]
    if buffer_bytes is not None:
        command += ["--buffer", str(buffer_bytes)]
    done = device.stream(command, on_stdout=follow, timeout=seconds + _EXTRA_S)
    hello = found[0] if found else None
    if done.exit_code != 0 or not isinstance(hello, CalibrationHello) or not isinstance(found[-1], CalibrationDone):
        raise ProbeError(
            f"calibrate: the program ended with exit code {done.exit_code} after {len(found)} lines",
            device=device.name,
            detail=printable(done.stderr),
            hint="CPUs that it may not use can be left out: --threads names how many of the fastest are used",
        )
    return Calibration(hello=hello, samples=[event for event in found if isinstance(event, CalibrationSample)])


def _round(event: CalibrationEvent) -> int:
    return event.round if isinstance(event, CalibrationSample) else -1


def _decode(line: bytes, device: str) -> CalibrationEvent:
    try:
        event = _EVENTS.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProbeError(
            f"calibrate: the program said what is no event: {printable(line, 80)!r} ({error})", device=device
        ) from error
    if isinstance(event, CalibrationHello) and event.schema_version > SCHEMA_VERSION:
        raise UnsupportedError("calibrate: the program is newer than this edgekit", hint="upgrade edgekit-slm")
    return event
