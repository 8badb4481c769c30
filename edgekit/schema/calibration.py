"""Calibration: what the native calibration program says, one JSON object a line."""

from __future__ import annotations

from typing import Literal

import msgspec

SCHEMA_VERSION = 1

#: What a sample is of: bytes read a second; operations a second of products in 32-bit floats and 8-bit integers (two
#: per multiply-add); cycles a second; nanoseconds to start a job on all threads and see it end.
Quantity = Literal["bandwidth", "fp32", "int8", "clock", "launch"]


class Cache(msgspec.Struct, frozen=True, kw_only=True):
    """A cache as the kernel describes it; ``cpus`` share it (``0-3``)."""

    level: int
    kind: str
    bytes: int
    cpus: str


class CalibrationHello(msgspec.Struct, frozen=True, kw_only=True, tag="calibration", tag_field="event"):
    """First line: what will be measured with what."""

    schema_version: int
    version: str
    #: Instructions that the products use: the best that the processor has.
    fp32_kernel: str
    int8_kernel: str
    fp16: bool
    dotprod: bool
    i8mm: bool
    buffer_bytes: int
    #: Of them in huge pages, into which the probe moves weights, too, where the kernel lets it.
    huge_bytes: int = 0
    caches: list[Cache]


class CalibrationSample(msgspec.Struct, frozen=True, kw_only=True, tag="sample", tag_field="event"):
    """One measurement with a thread on each of ``cpus``; ``value`` in the unit of its :data:`Quantity`."""

    what: Quantity
    cpus: list[int]
    round: int
    value: float
    #: Smallest share of the time in which a thread had its CPU: below 1 somebody else had it, too.
    on_cpu: float


class CalibrationDone(msgspec.Struct, frozen=True, kw_only=True, tag="done", tag_field="event"):
    """Last line."""

    rounds: int


CalibrationEvent = CalibrationHello | CalibrationSample | CalibrationDone


class Calibration(msgspec.Struct, frozen=True, kw_only=True):
    """A whole calibration as it came from a device."""

    hello: CalibrationHello
    samples: list[CalibrationSample]
