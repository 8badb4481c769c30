"""The run: one bundle measured on one device in one session.

A run is a directory::

    run.json            this document
    bundle.json         copy of the bundle's manifest
    launches/000/plan.json
    launches/000/events.jsonl
    launches/000/stderr.txt
    operators.json      of a profiled run: copy of the bundle's operator map
    launches/000/profile.json or profile.etdp    of a profiled run: what the runtime recorded

The raw events are kept for ever; everything else is derived from them.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import msgspec

from edgekit.schema.codec import Document
from edgekit.schema.limits import Limits

MANIFEST = "run.json"


class CpuCluster(msgspec.Struct, frozen=True, kw_only=True):
    """Cores that share a model and a frequency limit."""

    cpus: list[int]
    name: str | None = None
    max_khz: int | None = None


class DeviceFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What a device is. ``None`` is what it would not tell."""

    #: ``local`` or ``adb:SERIAL``.
    name: str
    transport: Literal["local", "adb", "adb-direct"]
    abi: str
    os: str
    kernel: str | None
    cpus: int
    clusters: list[CpuCluster]
    cpu_model: str | None
    memory_bytes: int | None
    #: Free space where bundles are stored.
    free_bytes: int | None
    android: dict[str, str] = msgspec.field(default_factory=dict)
    #: ``real``, ``emulated`` (another instruction set, e.g. qemu-user) or ``simulated`` (replayed properties).
    #: Only real results are compared as speed.
    fidelity: Literal["real", "emulated", "simulated"] = "real"
    fidelity_reason: str | None = None


class Conditions(msgspec.Struct, frozen=True, kw_only=True):
    """How a device feels at one moment. ``None`` is unknown, never a guess."""

    at: str
    load_1m: float | None = None
    memory_available_bytes: int | None = None
    frequency_khz: dict[str, int] = msgspec.field(default_factory=dict)
    governor: dict[str, str] = msgspec.field(default_factory=dict)
    temperature_c: dict[str, float] = msgspec.field(default_factory=dict)
    battery_percent: int | None = None
    charging: bool | None = None
    #: Whether a charger is connected; a full battery on its charger does not charge.
    plugged: bool | None = None
    #: The highest clock rate that the kernel allows now; it is lowered when the device is too hot.
    frequency_limit_khz: dict[str, int] = msgspec.field(default_factory=dict)
    #: Android's own verdict: 0 is not throttled, up to 6 (shutdown).
    thermal_status: int | None = None
    #: Time since boot that all CPUs together were busy, and all their time, in ticks of the kernel: the load between
    #: two readings is the ratio of their differences (see :func:`edgekit.probing.gate.busy_share`).
    busy_ticks: int | None = None
    cpu_ticks: int | None = None


class GoldenVerdict(msgspec.Struct, frozen=True, kw_only=True):
    """The device's answer beside the bundle's golden record."""

    passed: bool
    #: Tokens that agree, and how many were compared.
    tokens_equal: int
    tokens: int
    max_logit_difference: float
    tolerance: float
    cause: str | None = None
    #: Root mean square of the differences of all recorded logits, and its limit; None in older runs.
    rms_logit_difference: float | None = None
    rms_tolerance: float | None = None


class Launch(msgspec.Struct, frozen=True, kw_only=True):
    """One start of the probe; ``directory`` holds its plan and events."""

    index: int
    directory: str
    threads: int
    #: Place in the session's order over everything compared.
    position: int
    started_at: str
    status: Literal["done", "failed", "terminated", "lost"]
    exit_code: int | None
    golden: GoldenVerdict | None = None
    message: str | None = None
    #: The device's conditions just before and after; None where they were not read.
    before: Conditions | None = None
    after: Conditions | None = None
    #: Seconds that the launch waited for the device to be cool and quiet; None where no limit was set.
    waited_s: float | None = None


class GateRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What every timed launch of the session waited for."""

    limits: Limits
    wait_s: float
    #: What the device does not tell, so that nothing could wait for it.
    unknown: list[str] = msgspec.field(default_factory=list)


StopReason = Literal["repetitions", "precision", "budget", "most repetitions", "not ready", "interrupted", "failed"]


class Stopped(msgspec.Struct, frozen=True, kw_only=True):
    """Why the rounds ended where they did."""

    reason: StopReason
    #: For people.
    text: str
    rounds: int
    #: Half the widest 95% interval of all tests over its median; None where it was not asked for or not known.
    widest: float | None = None


class Warmup(msgspec.Struct, frozen=True, kw_only=True):
    """How a launch warmed up, as the first round showed to be needed."""

    threads: int
    prefills: int
    tokens: int


class ClockReading(msgspec.Struct, frozen=True, kw_only=True):
    """One round trip: the device's clock (that of its events) was read between two readings of the host's.

    Nanoseconds, both monotonic; ``host_unix_ns`` is the host's wall clock at ``host_before_ns``.
    """

    host_before_ns: int
    device_ns: int
    host_after_ns: int
    host_unix_ns: int


class Clocks(msgspec.Struct, frozen=True, kw_only=True):
    """Clock readings at a session's begin and end; ``end`` is empty where the session did not reach it."""

    begin: list[ClockReading]
    end: list[ClockReading] = msgspec.field(default_factory=list)


class Run(Document, frozen=True, kw_only=True):
    """``run.json``."""

    SCHEMA_VERSION: ClassVar[int] = 1
    TITLE: ClassVar[str] = "run"

    id: str
    #: Runs measured in turn with each other share a session.
    session: str
    created_at: str
    status: Literal["running", "done", "failed", "interrupted"]
    #: Short name and identity of the bundle; the whole manifest is beside this file.
    model: str
    recipe: str
    runtime: str
    bundle: str
    device: DeviceFacts
    before: Conditions
    after: Conditions | None
    protocol: dict[str, Any]
    launches: list[Launch]
    versions: dict[str, str]
    #: None where nothing waited, and in older runs.
    gate: GateRecord | None = None
    stopped: Stopped | None = None
    warmups: list[Warmup] = msgspec.field(default_factory=list)
    command: list[str]
    #: Operators were timed, which slows everything: nothing in this run is a speed.
    profiled: bool = False
    #: The device's clock beside the host's; None in older runs.
    clocks: Clocks | None = None
    #: Devices of the same machine that were measured at the same time (or ``exports``) and took its processor: nothing
    #: in this run is a speed to compare.
    beside: list[str] = msgspec.field(default_factory=list)
