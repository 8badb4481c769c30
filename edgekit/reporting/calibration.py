"""A measured device profile as a table."""

from __future__ import annotations

from collections.abc import Callable

from edgekit.reporting import formats
from edgekit.reporting.tables import Column, Record, Table, column
from edgekit.schema.device_profile import DeviceProfile, Measured

#: Title of each figure of :class:`~edgekit.schema.device_profile.MeasuredPlace`.
_FIGURES = {
    "bandwidth_gb_s": "read GB/s",
    "fp32_gop_s": "fp32 Gop/s",
    "int8_gop_s": "int8 Gop/s",
    "clock_ghz": "clock GHz",
    "launch_us": "start us",
}
#: Share of disturbed samples above which a device was not idle.
_BUSY = 0.25


def calibration_table(profile: DeviceProfile) -> Table:
    """One record per set of CPUs; every figure with its 95% interval."""
    measured = profile.measured
    records = [] if measured is None else [_record(measured, index) for index in range(len(measured.places))]
    keys = ["profile", "cluster", "threads", "cpus"]
    columns = [
        column("cluster", "cores", lambda value: formats.plain_text(value) if value else "all"),
        column("threads", "threads", right=True),
    ]
    for name, title in _FIGURES.items():
        keys += [name, f"{name}_low", f"{name}_high"]
        columns.append(Column(title, _text(name), right=True))
    records = [{"profile": profile.name, **record} for record in records]
    return Table(records, keys, columns, [] if measured is None else _notes(profile, measured), name="calibration")


def _record(measured: Measured, index: int) -> Record:
    place = measured.places[index]
    record: dict[str, object] = {"cluster": place.cluster, "threads": len(place.cpus), "cpus": place.cpus}
    for name in _FIGURES:
        value = getattr(place, name)
        record |= {name: value.median, f"{name}_low": value.low, f"{name}_high": value.high}
    return record


def _text(name: str) -> Callable[[Record], str]:
    def text(record: Record) -> str:
        ends = [record[f"{name}_low"], record[f"{name}_high"]]
        beside = "" if None in ends else f" [{formats.number(ends[0])}, {formats.number(ends[1])}]"
        return formats.number(record[name]) + beside

    return text


def _notes(profile: DeviceProfile, measured: Measured) -> list[str]:
    caches = ", ".join(
        f"L{cache.level} {formats.size(cache.bytes)}" for cache in measured.caches if cache.kind != "Instruction"
    )
    fp32, int8 = formats.plain_text(measured.fp32_kernel), formats.plain_text(measured.int8_kernel)
    huge = ", in huge pages" if 2 * measured.huge_bytes > measured.buffer_bytes else ""
    found = [
        f"{formats.plain_text(profile.title)}: median and 95% interval; fp32 with {fp32}, int8 with {int8}; "
        f"{formats.short_size(measured.buffer_bytes)} read{huge}.",
        f"Caches: {caches or 'the device does not tell'}.",
    ]
    if measured.disturbed > _BUSY:
        found.append(
            f"The device was busy: other programs took a CPU in {formats.percent(measured.disturbed)} of the samples. "
            "Calibrate again when it is idle."
        )
    if measured.fidelity != "real":
        found.append(f"An {measured.fidelity} device: these figures say nothing about speed.")
    return found
