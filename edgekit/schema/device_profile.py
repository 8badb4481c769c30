"""Devices known by name: what estimates and rooflines need of them.

Shipped ones are TOML files in ``profiles/devices/``. ``edgekit calibrate`` measures a device and writes a profile of
the same form, as JSON, to the user's data folder; there it comes before a shipped one of its name.
Each value's source stands beside it; a source that begins with ``assumed`` says so, and widens every estimate.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

import msgspec

from edgekit.errors import EdgekitError, InputError
from edgekit.resources import data_dir, profiles_dir
from edgekit.schema import codec
from edgekit.schema.calibration import Cache
from edgekit.schema.codec import Document, upgrade_and_convert
from edgekit.schema.limits import Limits
from edgekit.schema.rates import Rates
from edgekit.schema.run import DeviceFacts


class Cluster(msgspec.Struct, frozen=True, kw_only=True):
    """Equal CPU cores."""

    core: str
    count: int
    max_ghz: float
    #: Whether the core multiplies half floats, and has int8 dot products (sdot) and int8 matrix products (smmla).
    fp16: bool
    dotprod: bool
    i8mm: bool
    #: 8-bit multiply-adds that one core can start in a cycle.
    int8_per_cycle: int


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """The device's memory, shared by all its processors."""

    kind: str
    sizes_gib: list[int]
    #: Width of the bus times its transfers.
    peak_gb_s: float
    #: What CPU cores together read from it.
    realistic_gb_s: float
    #: Share of the memory that one process can have on such a device before it is killed or swaps.
    available_share: float


class Overheads(msgspec.Struct, frozen=True, kw_only=True):
    """Costs that do not depend on the model's size."""

    #: Microseconds per decoder block and pass: starting operators and waiting for threads.
    block_us: float
    #: Share of the arithmetic peak that quantized products reach in a prefill.
    compute_share: float
    #: Reading the model from storage.
    storage_gb_s: float
    #: Bytes that the process takes beside the model, in MiB.
    process_mib: float


class Interval(msgspec.Struct, frozen=True, kw_only=True):
    """A value with its 95% interval; the ends are None where there is none."""

    median: float
    low: float | None = None
    high: float | None = None


class MeasuredPlace(msgspec.Struct, frozen=True, kw_only=True):
    """What a set of CPUs does with one thread on each."""

    cpus: list[int]
    #: Name of the cores, where all are of one cluster of several; None for CPUs of the whole device.
    cluster: str | None
    #: Bytes read from memory a second, 1e9.
    bandwidth_gb_s: Interval
    #: Operations of matrix products a second, 1e9; a multiply-add is two.
    fp32_gop_s: Interval
    int8_gop_s: Interval
    clock_ghz: Interval
    #: Microseconds to start a job on all threads and see it end.
    launch_us: Interval


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """Where measured values come from, and all of them."""

    #: As :func:`device_identity` tells it: of runs on the same device.
    identity: str
    #: ``local`` or ``adb:SERIAL``.
    device: str
    at: str
    probe_version: str
    #: Instructions of the products.
    fp32_kernel: str
    int8_kernel: str
    buffer_bytes: int
    #: Of them in huge pages, as a model's weights are.
    huge_bytes: int = 0
    caches: list[Cache]
    places: list[MeasuredPlace]
    #: Share of all samples in which another program took a CPU; they are left out where enough others remain.
    disturbed: float
    #: ``real``, or why times mean nothing (see :class:`edgekit.schema.run.DeviceFacts`).
    fidelity: Literal["real", "emulated", "simulated"]

    def own_cache_bytes(self, threads: int) -> int:
        """The most that stays in caches which a core shares with no other, over that many cores; 0 where not told."""
        own = [cache.bytes for cache in self.caches if cache.cpus.isdecimal() and cache.kind != "Instruction"]
        return max(own, default=0) * threads

    def place(self, threads: int, cpus: Sequence[int] | None = None) -> MeasuredPlace:
        """The figures with that many threads, or the nearest number of them.

        Of the fastest CPUs, or of the cluster that all of ``cpus`` belong to.
        """
        if cpus:
            own = [place for place in self.places if place.cluster is not None and set(cpus) <= set(place.cpus)]
            cluster = own[0].cluster if own else None
            found = [place for place in self.places if place.cluster == cluster and cluster is not None]
            if found:
                return min(found, key=lambda place: (abs(len(place.cpus) - threads), -len(place.cpus)))
        # The first is one thread on the fastest cluster, which has the cluster's name where there are several.
        whole = [place for index, place in enumerate(self.places) if place.cluster is None or index == 0]
        return min(whole, key=lambda place: (abs(len(place.cpus) - threads), -len(place.cpus)))


class DeviceProfile(Document, frozen=True, kw_only=True):
    """One device."""

    SCHEMA_VERSION: ClassVar[int] = 1
    TITLE: ClassVar[str] = "device profile"

    name: str
    title: str
    kind: Literal["phone", "board", "computer"]
    soc: str
    clusters: list[Cluster]
    memory: Memory
    overheads: Overheads
    #: Relative error of a time estimate, as a standard deviation of its logarithm.
    spread: float
    #: Source of each value by its path, ``memory.peak_gb_s``.
    provenance: dict[str, str]
    #: What `edgekit calibrate` measured; None in a profile from published data.
    measured: Measured | None = None
    #: How cool and quiet it must be before something is timed on it; None where nobody has said.
    limits: Limits | None = None
    #: Watts above idle while all cores compute; None where nobody has said. Energy is estimated with it alone, so with
    #: fewer threads it is an upper bound.
    power_w: float | None = None
    #: What runtimes were seen to take here (`edgekit calibrate runs/*`); estimates use them before anything else.
    fitted: list[Rates] = msgspec.field(default_factory=list)

    def rates(self, runtime: str, threads: int) -> Rates | None:
        """The fitted rates of a runtime at the nearest number of threads; None where it was not measured here."""
        own = [rates for rates in self.fitted if rates.runtime == runtime]
        return min(own, key=lambda rates: (abs(rates.threads - threads), -rates.threads), default=None)

    def bandwidth_gb_s(self, threads: int) -> Interval:
        """What ``threads`` threads read from memory; a profile that was not measured knows all cores' only."""
        if self.measured is not None:
            return self.measured.place(threads).bandwidth_gb_s
        return Interval(median=self.memory.realistic_gb_s)

    @property
    def assumed(self) -> list[str]:
        """Paths of values that nobody measured or published, sorted."""
        return sorted(path for path, source in self.provenance.items() if source.startswith("assumed"))

    @property
    def fast_cores(self) -> int:
        """Cores outside the slowest cluster, which a probe uses by default."""
        total = sum(cluster.count for cluster in self.clusters)
        return total - self.clusters[-1].count if len(self.clusters) > 1 else total


def value_paths(profile: DeviceProfile) -> list[str]:
    """Every value that needs a source."""
    paths = ["soc", "clusters", "clusters.int8_per_cycle", "spread"]
    for part in ("memory", "overheads"):
        paths += [f"{part}.{field}" for field in getattr(profile, part).__struct_fields__]
    if profile.power_w is not None:
        paths.append("power_w")
    limits = profile.limits
    if limits is not None:
        paths += [f"limits.{field}" for field in limits.__struct_fields__ if getattr(limits, field) is not None]
    return sorted(paths)


def device_names() -> list[str]:
    """Names of all shipped device profiles, sorted."""
    return sorted(path.stem for path in (profiles_dir() / "devices").glob("*.toml"))


def measured_dir() -> Path:
    """Folder of the profiles that `edgekit calibrate` measured."""
    return data_dir() / "devices"


def measured_names() -> list[str]:
    """Names of all measured device profiles, sorted."""
    return sorted(path.stem for path in measured_dir().glob("*.json"))


def load_device_profile(name: str) -> DeviceProfile:
    """The device profile called ``name``, or the one in the file at that path (``.json`` or ``.toml``).

    Raises:
        InputError: no such profile (the hint offers the nearest), or a broken file.
    """
    if name.endswith((".json", ".toml")):
        return read_device_profile(Path(name))
    shipped, measured = device_names(), measured_names()
    if name in measured:
        return read_device_profile(measured_dir() / f"{name}.json")
    if name in shipped:
        return read_device_profile(profiles_dir() / "devices" / f"{name}.toml")
    import difflib

    names = [*measured, *shipped]
    near = difflib.get_close_matches(name.lower(), names, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}?" if near else f"device profiles: {', '.join(names)}"
    raise InputError(f"no device profile is called {name!r}", hint=hint)


def read_device_profile(path: Path) -> DeviceProfile:
    """The profile in a file (errors as :func:`load_device_profile`)."""
    if path.suffix == ".json":
        profile = codec.read(path, DeviceProfile)
    else:
        try:
            raw = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise InputError(f"read device profile from {path}: {error}") from error
        profile = upgrade_and_convert(raw, DeviceProfile, origin=str(path))
    unsourced = sorted(set(value_paths(profile)) ^ profile.provenance.keys())
    if unsourced:
        raise InputError(f"read device profile from {path}: values and provenance differ in {', '.join(unsourced)}")
    _check(profile, str(path))
    return profile


def device_identity(facts: DeviceFacts) -> str:
    """What tells one device from another in the facts that a run keeps; hexadecimal.

    ``local`` is a name on every machine, so the processor and the memory (to 256 MiB: kernels reserve some) count.
    """
    memory = None if facts.memory_bytes is None else round(facts.memory_bytes / 2**28)
    clusters = [(cluster.cpus, cluster.name, cluster.max_khz) for cluster in facts.clusters]
    parts = [facts.name, facts.abi, facts.cpu_model, facts.cpus, clusters, memory, facts.android.get("model")]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def measured_profiles() -> list[DeviceProfile]:
    """All measured profiles that can be read, the newest first; a broken file hides none of the others."""
    found = []
    for name in measured_names():
        try:
            found.append(read_device_profile(measured_dir() / f"{name}.json"))
        except EdgekitError:
            continue
    return sorted(found, key=lambda profile: profile.measured.at if profile.measured else "", reverse=True)


def shipped_profile_of(facts: DeviceFacts) -> DeviceProfile | None:
    """The shipped profile of the device's chip, by the model name that Android tells; None where there is none."""
    model = facts.android.get("soc_model")
    if not model:
        return None
    for name in device_names():
        profile = read_device_profile(profiles_dir() / "devices" / f"{name}.toml")
        if model.lower() in profile.soc.lower().split():
            return profile
    return None


def profile_of(facts: DeviceFacts, measured: Sequence[DeviceProfile]) -> DeviceProfile | None:
    """What is known of a run's device: what was measured on it, else what is published of its chip, else None."""
    identity = device_identity(facts)
    for profile in measured:
        if profile.measured is not None and profile.measured.identity == identity:
            return profile
    return shipped_profile_of(facts)


def _check(profile: DeviceProfile, origin: str) -> None:
    memory, overheads = profile.memory, profile.overheads
    if not 0 < memory.realistic_gb_s <= memory.peak_gb_s:
        raise InputError(f"read device profile from {origin}: a realistic bandwidth above the peak, or none")
    if not 0 < memory.available_share <= 1 or not 0 < overheads.compute_share <= 1:
        raise InputError(f"read device profile from {origin}: a share outside 0 to 1")
    if profile.power_w is not None and not profile.power_w > 0:
        raise InputError(f"read device profile from {origin}: a power of {profile.power_w} watts")
    if not profile.clusters or not memory.sizes_gib or min(memory.sizes_gib) < 1:
        raise InputError(f"read device profile from {origin}: no cores or no memory")
    if profile.measured is not None:
        figures = [
            value
            for place in profile.measured.places
            for value in (place.bandwidth_gb_s, place.fp32_gop_s, place.int8_gop_s, place.clock_ghz)
        ]
        if not figures or not all(value.median > 0 for value in figures):
            raise InputError(f"read device profile from {origin}: it says it was measured, and measured nothing")
