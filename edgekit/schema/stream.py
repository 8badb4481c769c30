"""Reading the probe's stream of events, as it comes or from a file.

A stream may be cut anywhere, hold lines nobody can read, or events of a probe that is
newer than this edgekit. What can be read is kept, what cannot is named in
``Stream.faults``; nothing is repaired or guessed.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from edgekit.errors import InputError, UnsupportedError
from edgekit.schema.event import (
    SCHEMA_VERSION,
    AnyEvent,
    Bye,
    ConditionSamples,
    Footprint,
    Hello,
    Loaded,
    MemorySamples,
    MemoryUse,
    ProportionalSamples,
    Sensors,
    Stream,
    TrialResult,
)

#: A decode of 100,000 tokens is a line of 2 MB; anything longer than this is not from the probe.
MAX_LINE_BYTES = 16 * 1024 * 1024
#: Hours of samples at the highest rate stay far below; reading more would exhaust the host.
MAX_STREAM_BYTES = 1024 * 1024 * 1024
#: A broken stream can have a fault on every line; more than these help nobody.
MAX_FAULTS = 50
#: Times are nanoseconds since boot and sizes are bytes: both fit 63 bits on every kernel.
_MAX_NUMBER = 2**63 - 1
_READ_BYTES = 1024 * 1024
_SHOWN_CHARACTERS = 60

_DECODER: msgspec.json.Decoder[AnyEvent] = msgspec.json.Decoder(AnyEvent)
_KINDS = frozenset(kind.__struct_config__.tag for kind in AnyEvent.__args__)


class StreamDecoder:
    """Decodes a stream piece by piece.

    ``on_event`` is called with each event as soon as its line is complete, so a host
    can follow a running probe.
    """

    def __init__(self, *, origin: str, on_event: Callable[[AnyEvent], None] | None = None) -> None:
        self._origin = origin
        self._on_event = on_event
        self._events: list[AnyEvent] = []
        self._faults: list[str] = []
        self._faults_left_out = 0
        self._pending = bytearray()
        self._skipping = False
        self._line = 0
        self._latest_t = 0
        self._trials_seen: set[tuple[int, int | None]] = set()
        self._sensors: int | None = None
        #: Time of the latest sample by series.
        self._sampled: dict[tuple[str, int], int] = {}
        self._ended = False

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the stream, of any length.

        Raises:
            UnsupportedError: the stream says that it is of a newer schema version.
        """
        *complete, rest = data.split(b"\n")
        for piece in complete:
            self._pending += piece
            self._end_line()
        self._pending += rest
        if len(self._pending) > MAX_LINE_BYTES:
            self._pending.clear()
            self._skipping = True

    def finish(self) -> Stream:
        """The stream as far as it was fed; a last line without an end is read if it can be."""
        if self._pending or self._skipping:
            self._end_line(cut=True)
        if not self._events and not self._faults:
            self._fault("the stream is empty")
        if self._faults_left_out:
            self._faults.append(f"and {self._faults_left_out} more faults")
            self._faults_left_out = 0
        return Stream(events=list(self._events), complete=self._ended, faults=list(self._faults))

    def _end_line(self, *, cut: bool = False) -> None:
        self._line += 1
        line = bytes(self._pending)
        self._pending.clear()
        if self._skipping or len(line) > MAX_LINE_BYTES:
            self._skipping = False
            self._fault(f"line {self._line}: longer than {MAX_LINE_BYTES} bytes, skipped")
            return
        if not line.strip():
            return
        try:
            event = _DECODER.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, OverflowError) as error:
            self._explain(line, error, cut=cut)
            return
        self._accept(event)

    def _explain(self, line: bytes, error: Exception, *, cut: bool) -> None:
        """Say why a line could not be read."""
        try:
            raw: Any = msgspec.json.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, OverflowError):
            what = "cut short" if cut else "not JSON"
            self._fault(f"line {self._line}: {what}: {_shown(line)}")
            return
        kind = raw.get("event") if isinstance(raw, dict) else None
        if kind == "hello":
            version = raw.get("schema_version")
            if isinstance(version, int):
                self._check_version(version)
        if isinstance(kind, str) and kind not in _KINDS:
            self._fault(f"line {self._line}: unknown event {kind[:_SHOWN_CHARACTERS]!r} (a newer probe?), skipped")
        else:
            self._fault(f"line {self._line}: not an event: {error}")

    def _accept(self, event: AnyEvent) -> None:
        if isinstance(event, Hello):
            self._check_version(event.schema_version)
        trouble = _contradiction(event)
        if trouble:
            self._fault(f"line {self._line}: {event.__struct_config__.tag}: {trouble}, skipped")
            return
        if self._ended:
            self._fault(f"line {self._line}: comes after bye, skipped")
            return
        if isinstance(event, Hello) == bool(self._events):
            self._fault(
                f"line {self._line}: a second hello, skipped"
                if self._events
                else f"line {self._line}: the stream does not begin with hello"
            )
            if isinstance(event, Hello):
                return
        if event.t < self._latest_t:
            self._fault(f"line {self._line}: the clock went back by {self._latest_t - event.t} ns")
            self._leave_out_trials_across(event.t)
        # One jump is one fault: what follows is on the new clock.
        self._latest_t = event.t
        trouble = self._out_of_place(event)
        if trouble:
            self._fault(f"line {self._line}: {trouble}, skipped")
            return
        self._ended = isinstance(event, Bye)
        self._events.append(event)
        if self._on_event is not None:
            self._on_event(event)

    def _leave_out_trials_across(self, now: int) -> None:
        """What lasted beyond a moment that came after it was timed by a clock that had jumped ahead meanwhile."""
        for event in [event for event in self._events if isinstance(event, TrialResult)]:
            if event.start_ns < now < event.end_ns:
                self._fault(f"line {self._line}: trial {event.trial} ends after this moment, left out")
                self._events.remove(event)

    def _out_of_place(self, event: AnyEvent) -> str | None:
        """What makes the event unusable after those before it, if anything; remembers it otherwise."""
        if isinstance(event, TrialResult):
            key = (event.trial, event.part)
            if key in self._trials_seen:
                part = "" if event.part is None else f", part {event.part},"
                return f"trial {event.trial}{part} was reported before"
            self._trials_seen.add(key)
        elif isinstance(event, Sensors):
            if self._sensors is not None:
                return "the sensors were listed before"
            self._sensors = len(event.sensors)
        elif isinstance(event, ConditionSamples) and event.first + len(event.values) > (self._sensors or 0):
            return "conditions: a column belongs to no sensor"
        if isinstance(event, MemorySamples | ProportionalSamples | ConditionSamples) and event.at_ns:
            series = (str(event.__struct_config__.tag), event.first if isinstance(event, ConditionSamples) else 0)
            if event.at_ns[0] < self._sampled.get(series, 0):
                return f"{series[0]}: its samples are older than those before"
            self._sampled[series] = event.at_ns[-1]
        return None

    def _check_version(self, version: int) -> None:
        if version > SCHEMA_VERSION:
            raise UnsupportedError(
                f"read {Stream.TITLE} from {self._origin}: schema version {version} is newer than {SCHEMA_VERSION}, "
                "the newest this edgekit reads",
                hint="upgrade edgekit-slm",
            )

    def _fault(self, text: str) -> None:
        if len(self._faults) < MAX_FAULTS:
            self._faults.append(text)
        else:
            self._faults_left_out += 1


def read_stream(data: bytes, *, origin: str) -> Stream:
    """Decode a whole stream.

    Args:
        data: JSON Lines, UTF-8, possibly cut.
        origin: a path or a device's name, for messages.

    Raises:
        UnsupportedError: the stream says that it is of a newer schema version.
    """
    decoder = StreamDecoder(origin=origin)
    decoder.feed(data)
    return decoder.finish()


def read_stream_file(path: Path) -> Stream:
    """Read a stream from a file.

    Raises:
        InputError: the file is missing, unreadable or larger than any stream.
        UnsupportedError: the stream says that it is of a newer schema version.
    """
    decoder = StreamDecoder(origin=str(path))
    try:
        size = path.stat().st_size
        if size > MAX_STREAM_BYTES:
            raise InputError(f"read {Stream.TITLE} from {path}: {size} bytes is more than any stream has")
        with path.open("rb") as file:
            while chunk := file.read(_READ_BYTES):
                decoder.feed(chunk)
    except OSError as error:
        raise InputError(f"read {Stream.TITLE} from {path}: {error.strerror or error}") from error
    return decoder.finish()


def _contradiction(event: AnyEvent) -> str | None:
    """What makes the event unusable by itself, if anything."""
    if not _plausible([event.t]):
        return "its time is no nanosecond count"
    if isinstance(event, Loaded):
        if not _plausible([event.start_ns, event.end_ns]) or event.end_ns < event.start_ns:
            return "it ends before it starts"
        return _memory_contradiction(event.memory)
    if isinstance(event, Bye):
        return _memory_contradiction(event.memory)
    if isinstance(event, TrialResult):
        return _trial_contradiction(event)
    if isinstance(event, MemorySamples):
        return _columns_contradiction(event.at_ns, [event.rss, event.anon, event.file])
    if isinstance(event, ProportionalSamples):
        return _columns_contradiction(event.at_ns, [event.took_ns, event.rss, event.pss, event.uss, event.swap])
    if isinstance(event, ConditionSamples):
        return _conditions_contradiction(event)
    if isinstance(event, Footprint):
        return _footprint_contradiction(event)
    return None


def _footprint_contradiction(event: Footprint) -> str | None:
    parts = [event.weights_file, event.other_file, event.anon, event.other]
    known = [event.cache, event.cache_size, event.buffers, event.buffers_size]
    told = [size for size in (event.allocated, event.reserved) if size is not None]
    if not _plausible([event.at_ns, event.rss, event.pss, event.swap, *parts, *known, *told]):
        return "a size is no byte count"
    return None if sum(parts) == event.rss else "its parts do not add up"


def _columns_contradiction(at_ns: list[int], columns: list[list[int]]) -> str | None:
    if any(len(column) != len(at_ns) for column in columns):
        return "its columns differ in length"
    if not all(_plausible(column) for column in (at_ns, *columns)):
        return "a sample is no byte count"
    return None if _ascending(at_ns) else "the samples' clock went back"


def _conditions_contradiction(event: ConditionSamples) -> str | None:
    if event.first < 0:
        return "a column belongs to no sensor"
    trouble = _columns_contradiction(event.at_ns, [event.took_ns])
    if trouble:
        return trouble
    if any(len(column) != len(event.at_ns) for column in event.values):
        return "its columns differ in length"
    # Currents may be negative.
    if any(value is not None and abs(value) > _MAX_NUMBER for column in event.values for value in column):
        return "a value is larger than any sensor's"
    return None


def _trial_contradiction(event: TrialResult) -> str | None:
    if not _plausible([event.start_ns, event.end_ns, *event.token_ns]):
        return "a time is no nanosecond count"
    if event.end_ns <= event.start_ns:
        return "it ends before it starts"
    if event.end_ns > event.t:
        return "it was told before it ended"
    if not _ascending([event.start_ns, *event.token_ns, event.end_ns]):
        return "a token's time lies outside the trial or before its predecessor's"
    return None


def _memory_contradiction(memory: MemoryUse) -> str | None:
    sizes = [size for size in (memory.rss, memory.anon, memory.file, memory.peak) if size is not None]
    return None if _plausible(sizes) else "a size is no byte count"


def _plausible(numbers: Sequence[int]) -> bool:
    return all(0 <= number <= _MAX_NUMBER for number in numbers)


def _ascending(numbers: Sequence[int]) -> bool:
    return all(earlier <= later for earlier, later in itertools.pairwise(numbers))


def _shown(line: bytes) -> str:
    text = line[:_SHOWN_CHARACTERS].decode("utf-8", "backslashreplace")
    return repr(text) + ("…" if len(line) > _SHOWN_CHARACTERS else "")
