"""Events: what the probe says, one JSON object a line, flushed line by line.

All times are nanoseconds of the probe's monotonic clock (``CLOCK_MONOTONIC``), so a
stream that was cut is a shorter valid stream. Nothing is written inside a timed
region: a trial's token times follow in its ``trial`` event, samples in ``memory``,
``proportional`` and ``conditions`` events between trials.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import msgspec

SCHEMA_VERSION = 1


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="event"):
    """Base of all events; ``t`` is when the event was recorded."""

    t: int


class Hello(Event, frozen=True, kw_only=True, tag="hello"):
    """First line of a stream. ``runtime`` and ``runtime_version`` are empty where none could be started."""

    schema_version: int
    probe_version: str
    runtime: str
    runtime_version: str
    abi: str
    clock: str
    clock_resolution_ns: int
    #: Wall clock at ``t``, to place the stream in calendar time.
    unix_ns: int
    pid: int
    cpus_online: int
    page_size: int


class MemoryUse(msgspec.Struct, frozen=True, kw_only=True):
    """Resident memory in bytes, from /proc/self/status; ``None`` is what the kernel did not tell."""

    rss: int | None = None
    anon: int | None = None
    file: int | None = None
    #: Largest resident size so far (VmHWM).
    peak: int | None = None


class Loaded(Event, frozen=True, kw_only=True, tag="loaded"):
    """The artefact was loaded: ``end_ns - start_ns`` covers opening, parsing and session creation."""

    load: int
    #: Whether the artefact's pages were in the page cache before: from mincore, None when it cannot be told.
    resident_before: float | None
    start_ns: int
    end_ns: int
    threads: int
    affinity_asked: list[int] | None
    #: CPUs each thread of the process may run on, read back from the kernel.
    affinity_read: list[list[int]]
    memory: MemoryUse
    #: Of the plan's kernel libraries, what the artefact really runs on, as they name themselves (``avx512-vnni``).
    kernels: list[str] = msgspec.field(default_factory=list)
    #: Page faults that needed the disk while it was loaded.
    major_faults: int | None = None
    #: Bytes of weights that the probe moved into huge pages, in which a token's reads find the addresses faster.
    huge_bytes: int | None = None


class GoldenResult(Event, frozen=True, kw_only=True, tag="golden"):
    """The golden check: what was computed here (see :class:`edgekit.schema.bundle.Golden`)."""

    tokens: list[int]
    logits: list[list[float]]


class TrialStart(Event, frozen=True, kw_only=True, tag="trial_start"):
    """A trial begins; its untimed filling of the cache comes first."""

    trial: int


class TrialResult(Event, frozen=True, kw_only=True, tag="trial"):
    """A trial ended.

    The timed region is ``[start_ns, end_ns]``. For a prefill ``token_ns`` has one
    entry, the end of the prompt's forward pass; for a decode one per token, its end.
    ``cpus`` is, for each thread that computes, the CPU on which it was last seen after the region.
    """

    trial: int
    #: Counts the passes of a trial that lasts for a time (``Trial.seconds``), from 0; None for all others.
    part: int | None = None
    start_ns: int
    end_ns: int
    token_ns: list[int]
    cpus: list[int] = msgspec.field(default_factory=list)
    #: CPUs on which the thread that calls the runtime was seen, at the region's ends and after each token.
    caller_cpus: list[int] = msgspec.field(default_factory=list)
    #: Page faults that needed the disk, those that did not, and context switches, inside the region.
    major_faults: int | None = None
    minor_faults: int | None = None
    involuntary_switches: int | None = None
    voluntary_switches: int | None = None
    #: CPU time of the whole process in the region.
    cpu_ns: int | None = None
    #: For each thread that computes: time on a CPU, and time in which it could run but had none. Empty: not told.
    thread_run_ns: list[int] = msgspec.field(default_factory=list)
    thread_wait_ns: list[int] = msgspec.field(default_factory=list)
    #: Time in which a CPU limit of the process's control groups stopped it.
    limited_ns: int | None = None
    #: CPU time that the whole machine spent, this process included, and what a hypervisor took from it; in ticks of
    #: the kernel, commonly 10 ms.
    machine_ns: int | None = None
    stolen_ns: int | None = None


class MemorySamples(Event, frozen=True, kw_only=True, tag="memory"):
    """Samples of the second thread since the last such event; columns of equal length."""

    at_ns: list[int]
    rss: list[int]
    anon: list[int]
    file: list[int]


class ProportionalSamples(Event, frozen=True, kw_only=True, tag="proportional"):
    """Samples of ``/proc/self/smaps_rollup`` since the last such event, bytes; columns of equal length.

    ``pss`` counts what is shared with other processes by this one's part, ``uss`` not at all.
    """

    #: The middle of the time that the kernel took to count, and that time.
    at_ns: list[int]
    took_ns: list[int]
    rss: list[int]
    pss: list[int]
    uss: list[int]
    swap: list[int]


class Footprint(Event, frozen=True, kw_only=True, tag="footprint"):
    """Whose memory was resident at one moment between timed regions, from ``/proc/self/smaps``; bytes.

    ``weights_file``, ``other_file``, ``anon`` and ``other`` add up to ``rss``. ``cache`` and ``buffers`` are the
    resident parts, within ``anon``, of memory that the probe's engine knows to be the key-value cache, and tensors
    and planned memory; ``cache_size`` and ``buffers_size`` are their whole sizes.
    """

    #: Before and after a load, after the golden check, after the trial ``trial``.
    moment: Literal["start", "loaded", "golden", "trial"]
    trial: int | None = None
    at_ns: int
    rss: int
    pss: int
    swap: int
    #: File pages of the model's folder, and of all other files.
    weights_file: int
    other_file: int
    anon: int
    other: int
    cache: int
    cache_size: int
    buffers: int
    buffers_size: int
    #: What the runtime's allocator has handed out, and taken from the system for that; None where it does not tell.
    allocated: int | None = None
    reserved: int | None = None


#: ``frequency_limit`` is the highest rate that the kernel allows now (it lowers it when the device is hot);
#: ``external_power`` is 1 while a charger is connected.
SensorKind = Literal[
    "frequency", "frequency_limit", "temperature", "current", "voltage", "power", "energy", "external_power"
]
#: kHz, thousandths and tenths of a degree Celsius, millionths of ampere, volt, watt and joule; empty for a switch.
SensorUnit = Literal["kHz", "mC", "dC", "uA", "uV", "uW", "uJ", ""]


class Sensor(msgspec.Struct, frozen=True, kw_only=True):
    """One file of the device's kernel that holds one integer.

    ``unit`` is what the kernel documents for such a file; some vendors' drivers use another one.
    """

    kind: SensorKind
    name: str
    unit: SensorUnit
    source: str
    #: The CPUs of a frequency.
    cpus: list[int] = msgspec.field(default_factory=list)
    #: A counter of energy begins again after this value.
    wraps_at: int | None = None


class Unreadable(msgspec.Struct, frozen=True, kw_only=True):
    """Something that is there and does not give a number, and why."""

    source: str
    reason: str


class Sensors(Event, frozen=True, kw_only=True, tag="sensors"):
    """What is sampled in this launch, and what was found and cannot be. What is in neither does not exist there."""

    sensors: list[Sensor]
    unreadable: list[Unreadable]


class ConditionSamples(Event, frozen=True, kw_only=True, tag="conditions"):
    """Samples of some sensors since the last such event of the same ``first``.

    ``values[i]`` is the column of sensor ``first + i`` of the :class:`Sensors` event, as the kernel told it; None
    where it could not be read that time. All columns are as long as ``at_ns``.
    """

    first: int
    #: The middle of the time that reading the row took, and that time.
    at_ns: list[int]
    took_ns: list[int]
    values: list[list[int | None]]


class ProfiledTrial(msgspec.Struct, frozen=True, kw_only=True):
    """Which forward passes of a profile a trial timed: ``passes`` of them, from number ``first`` on."""

    trial: int
    first: int
    passes: int


class OperatorProfile(Event, frozen=True, kw_only=True, tag="operator_profile"):
    """The times of single operators were written to the file that the command line names.

    A launch that was profiled is slower than others; its times are no speed.
    """

    format: Literal["onnxruntime", "etdump"]
    #: Forward passes since the model was loaded; the profile has one entry for each.
    passes: int
    trials: list[ProfiledTrial]


class ProbeFault(Event, frozen=True, kw_only=True, tag="error"):
    """Something failed; the stream may go on (``fatal`` false) or ends with ``bye``.

    The codes are listed in ``device_scripts/probe/README.md``.
    """

    code: str
    message: str
    fatal: bool


class Bye(Event, frozen=True, kw_only=True, tag="bye"):
    """Last line of an orderly stream."""

    reason: Literal["done", "terminated", "failed"]
    trials_done: int
    memory: MemoryUse


AnyEvent = (
    Hello
    | Loaded
    | GoldenResult
    | TrialStart
    | TrialResult
    | MemorySamples
    | ProportionalSamples
    | Footprint
    | Sensors
    | ConditionSamples
    | OperatorProfile
    | ProbeFault
    | Bye
)


class Stream(msgspec.Struct, frozen=True, kw_only=True):
    """A decoded stream of events.

    ``complete`` is true when it ends with ``bye``; ``faults`` name what could not be read.
    """

    TITLE: ClassVar[str] = "events"

    events: list[AnyEvent]
    complete: bool
    faults: list[str]
