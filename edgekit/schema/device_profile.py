"""Devices known by name, one TOML file each in ``profiles/devices/``: what the estimator needs of them.

Each value's source stands beside it; a source that begins with ``assumed`` says so, and widens every estimate.
"""

from __future__ import annotations

import tomllib
from typing import ClassVar, Literal

import msgspec

from edgekit.errors import InputError
from edgekit.resources import profiles_dir
from edgekit.schema.codec import Document, upgrade_and_convert


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
    return sorted(paths)


def device_names() -> list[str]:
    """Names of all shipped device profiles, sorted."""
    return sorted(path.stem for path in (profiles_dir() / "devices").glob("*.toml"))


def load_device_profile(name: str) -> DeviceProfile:
    """The device profile called ``name``.

    Raises:
        InputError: no such profile (the hint offers the nearest), or a broken file.
    """
    names = device_names()
    if name not in names:
        import difflib

        near = difflib.get_close_matches(name.lower(), names, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}?" if near else f"device profiles: {', '.join(names)}"
        raise InputError(f"no device profile is called {name!r}", hint=hint)
    path = profiles_dir() / "devices" / f"{name}.toml"
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


def _check(profile: DeviceProfile, origin: str) -> None:
    memory, overheads = profile.memory, profile.overheads
    if not 0 < memory.realistic_gb_s <= memory.peak_gb_s:
        raise InputError(f"read device profile from {origin}: a realistic bandwidth above the peak, or none")
    if not 0 < memory.available_share <= 1 or not 0 < overheads.compute_share <= 1:
        raise InputError(f"read device profile from {origin}: a share outside 0 to 1")
    if not profile.clusters or not memory.sizes_gib or min(memory.sizes_gib) < 1:
        raise InputError(f"read device profile from {origin}: no cores or no memory")
