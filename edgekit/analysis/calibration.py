"""From a calibration's samples to a device profile: medians with intervals, and where each value comes from."""

from __future__ import annotations

import re
from collections.abc import Sequence

from edgekit.analysis.statistics import estimate
from edgekit.errors import ProbeError
from edgekit.schema.calibration import Calibration, CalibrationSample, Quantity
from edgekit.schema.device_profile import (
    Cluster,
    DeviceProfile,
    Interval,
    Measured,
    MeasuredPlace,
    Memory,
    Overheads,
    device_identity,
)
from edgekit.schema.run import CpuCluster, DeviceFacts

#: A sample in which a thread had its CPU for less of the time was disturbed.
QUIET_SHARE = 0.97
#: So many samples, the least disturbed, are kept where there are fewer undisturbed ones.
ENOUGH = 5
#: Significant digits of stored figures; more than any device repeats.
_DIGITS = 4
#: Jobs that a decoder block starts on all threads: its products, attention, norms and the operators between them.
_JOBS_PER_BLOCK = 12
GIB = 2**30

#: Of values that a calibration does not measure, where no shipped profile of the chip knows better.
_ASSUMED = {
    "memory.available_share": (0.85, "assumed: the system and other applications keep the rest"),
    "overheads.compute_share": (0.35, "assumed: in the range seen with int8 products"),
    "overheads.storage_gb_s": (0.5, "assumed: sequential reads of common flash storage"),
    "overheads.process_mib": (36.0, "measured after loading with onnxruntime 1.32 on Linux x86_64; taken to hold here"),
}


def profile_from(
    calibration: Calibration,
    facts: DeviceFacts,
    *,
    at: str,
    name: str | None = None,
    known: DeviceProfile | None = None,
    before: DeviceProfile | None = None,
) -> DeviceProfile:
    """The device's profile.

    Args:
        calibration: what the device said.
        facts: what the device is.
        at: when it was measured, ISO 8601.
        name: the profile's name; None: that of ``known``, or one made from the processor's.
        known: the shipped profile of the chip; it gives what was not measured.
        before: the device's profile of an earlier calibration; limits and power that somebody wrote into it, and what
            was fitted to runs, stay.

    Raises:
        ProbeError: a quantity was not measured.
    """
    hello = calibration.hello
    places = [
        _place(calibration.samples, list(cpus), facts)
        for cpus in dict.fromkeys(tuple(sample.cpus) for sample in calibration.samples)
    ]
    if not places:
        raise ProbeError("calibrate: nothing was measured", device=facts.name)
    identity = device_identity(facts)
    kept = [sample for sample in calibration.samples if sample.what != "launch"]
    measured = Measured(
        identity=identity,
        device=facts.name,
        at=at,
        probe_version=hello.version,
        fp32_kernel=hello.fp32_kernel,
        int8_kernel=hello.int8_kernel,
        buffer_bytes=hello.buffer_bytes,
        huge_bytes=hello.huge_bytes,
        caches=hello.caches,
        places=places,
        disturbed=round(sum(sample.on_cpu < QUIET_SHARE for sample in kept) / max(len(kept), 1), 3),
        fidelity=facts.fidelity,
    )
    how = f"measured on {facts.name}, {at[:10]}, with edgekit-calibrate {hello.version}"
    best = max(places, key=lambda place: place.bandwidth_gb_s.median).bandwidth_gb_s
    share, source_share = _taken("memory.available_share", known)
    compute, source_compute = _taken("overheads.compute_share", known)
    storage, source_storage = _taken("overheads.storage_gb_s", known)
    process, source_process = _taken("overheads.process_mib", known)
    launch = measured.place(facts.cpus).launch_us.median
    # Nothing that is measured here says these.
    others = [profile for profile in (before, known) if profile is not None]
    limits = next((profile for profile in others if profile.limits is not None), None)
    power = next((profile for profile in others if profile.power_w is not None), None)
    stated = {path: text for path, text in (limits.provenance if limits else {}).items() if path.startswith("limits.")}
    if power:
        stated["power_w"] = power.provenance["power_w"]
    return DeviceProfile(
        schema_version=DeviceProfile.SCHEMA_VERSION,
        name=name or (known.name if known else profile_name(facts)),
        title=known.title if known else facts.cpu_model or "unknown processor",
        kind="phone" if facts.android else known.kind if known else "board" if "arm64" in facts.abi else "computer",
        soc=known.soc if known else facts.cpu_model or "unknown",
        clusters=_clusters(calibration, places, facts),
        memory=Memory(
            kind=known.memory.kind if known else "unknown",
            sizes_gib=[max(1, round((facts.memory_bytes or 0) / GIB))],
            peak_gb_s=max(known.memory.peak_gb_s if known else 0.0, best.high or best.median),
            realistic_gb_s=best.median,
            available_share=share,
        ),
        overheads=Overheads(
            block_us=_rounded(launch * _JOBS_PER_BLOCK),
            compute_share=compute,
            storage_gb_s=storage,
            process_mib=process,
        ),
        spread=0.35,
        provenance={
            "soc": known.provenance["soc"] if known else "the device's own name for its processor",
            "clusters": f"the kernel's clusters; clock and instructions {how}",
            "clusters.int8_per_cycle": f"{how}: products of 8-bit integers ({hello.int8_kernel}) over the clock",
            "spread": "assumed: estimates of models have not been checked on this device",
            "memory.kind": known.provenance["memory.kind"] if known else "unknown: the device does not tell",
            "memory.sizes_gib": "the kernel's MemTotal",
            "memory.peak_gb_s": known.provenance["memory.peak_gb_s"]
            if known and known.memory.peak_gb_s >= (best.high or best.median)
            else f"{how}: upper end of the best bandwidth's interval; the bus's own peak is unknown",
            "memory.realistic_gb_s": (
                f"{how}: reading {hello.buffer_bytes >> 20} MiB, {hello.huge_bytes >> 20} of them in huge pages"
            ),
            "memory.available_share": source_share,
            "overheads.block_us": f"computed: {_JOBS_PER_BLOCK} starts of all threads, each {launch:.3g} us {how}",
            "overheads.compute_share": source_compute,
            "overheads.storage_gb_s": source_storage,
            "overheads.process_mib": source_process,
        }
        | stated,
        measured=measured,
        limits=limits.limits if limits else None,
        power_w=power.power_w if power else None,
        fitted=before.fitted if before else [],
    )


def profile_name(facts: DeviceFacts) -> str:
    """A file's name for a device without a shipped profile: its processor, and what tells it from others."""
    words = re.sub(r"[^a-z0-9]+", "-", (facts.android.get("model") or facts.cpu_model or "device").lower()).strip("-")
    return f"{words[:40].strip('-') or 'device'}-{device_identity(facts)[:6]}"


def _taken(path: str, known: DeviceProfile | None) -> tuple[float, str]:
    if known is None:
        return _ASSUMED[path]
    part, field = path.split(".")
    return getattr(getattr(known, part), field), known.provenance[path]


def _place(samples: Sequence[CalibrationSample], cpus: list[int], facts: DeviceFacts) -> MeasuredPlace:
    def value(what: Quantity, scale: float) -> Interval:
        own = [sample for sample in samples if sample.what == what and sample.cpus == cpus]
        own.sort(key=lambda sample: -sample.on_cpu)
        count = max(ENOUGH, sum(sample.on_cpu >= QUIET_SHARE for sample in own))
        chosen = [sample.value * scale for sample in own[:count]]
        if not chosen or min(chosen) <= 0:
            raise ProbeError(f"calibrate: {what} of CPUs {cpus} was not measured", device=facts.name)
        found = estimate(chosen)
        low, high = found.low, found.high
        return Interval(
            median=_rounded(found.median),
            low=None if low is None else _rounded(low),
            high=None if high is None else _rounded(high),
        )

    cluster = next((entry for entry in facts.clusters if set(cpus) <= set(entry.cpus)), None)
    own = cluster is not None and len(facts.clusters) > 1 and (len(cpus) == 1 or set(cpus) == set(cluster.cpus))
    return MeasuredPlace(
        cpus=cpus,
        cluster=_cluster_name(cluster, facts) if own and cluster is not None else None,
        bandwidth_gb_s=value("bandwidth", 1e-9),
        fp32_gop_s=value("fp32", 1e-9),
        int8_gop_s=value("int8", 1e-9),
        clock_ghz=value("clock", 1e-9),
        launch_us=value("launch", 1e-3),
    )


def _cluster_name(cluster: CpuCluster, facts: DeviceFacts) -> str:
    return cluster.name or f"cluster {facts.clusters.index(cluster)}"


def _clusters(calibration: Calibration, places: Sequence[MeasuredPlace], facts: DeviceFacts) -> list[Cluster]:
    hello = calibration.hello
    groups = facts.clusters or [CpuCluster(cpus=list(range(facts.cpus)))]
    found = []
    for group in sorted(groups, key=lambda entry: -(entry.max_khz or 0)):
        single = next((place for place in places if len(place.cpus) == 1 and place.cpus[0] in group.cpus), None)
        # A device whose clusters could not be measured one by one has one rate for all its cores.
        per = single or places[0]
        cores = len(per.cpus)
        found.append(
            Cluster(
                core=group.name or "unknown",
                count=len(group.cpus),
                max_ghz=group.max_khz / 1e6 if group.max_khz else per.clock_ghz.median,
                fp16=hello.fp16,
                dotprod=hello.dotprod,
                i8mm=hello.i8mm,
                int8_per_cycle=max(1, round(per.int8_gop_s.median / cores / 2 / per.clock_ghz.median)),
            )
        )
    return found


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")
