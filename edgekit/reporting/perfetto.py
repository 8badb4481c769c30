"""A timeline as a Perfetto trace (TrackEvent protobuf), for https://ui.perfetto.dev, which reads it in the browser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgekit.analysis.timeline import Counter, Detail, Mark, RunTimeline, Slice
from edgekit.errors import HostStorageError
from edgekit.schema.storage import write_atomically

#: One writer, so one sequence of packets.
_SEQUENCE = 1
#: Tracks are told by numbers of our choice; the first is the device.
_DEVICE = 1
_BYTES = "B"
#: An annotation's numbers have 64 bits; a larger one is written as text.
_MOST = 2**63 - 1


def write_timeline(timeline: RunTimeline, path: Path) -> None:
    """Write the trace.

    Raises:
        HostStorageError: the file cannot be written; what was there before stays.
    """
    try:
        write_atomically(path, encode_timeline(timeline))
    except OSError as error:
        raise HostStorageError(
            f"write {path}: {error.strerror or error}", hint="free space, or choose another file with --out"
        ) from error


def encode_timeline(timeline: RunTimeline) -> bytes:
    """The trace's bytes."""
    return _Writer(timeline).write()


class _Writer:
    def __init__(self, timeline: RunTimeline) -> None:
        from perfetto.protos.perfetto.trace import perfetto_trace_pb2 as schema

        self._schema: Any = schema
        self._timeline = timeline
        self._trace = schema.Trace()
        self._events: list[Any] = []
        self._tracks = _DEVICE

    def write(self) -> bytes:
        self._begin()
        details = [Mark("run", self._first(), self._timeline.details)]
        for mark_track, marks in (("run", details), ("moments", self._timeline.marks)):
            track = self._track(mark_track)
            for mark in marks:
                self._event(self._schema.TrackEvent.TYPE_INSTANT, track, mark.at_ns, mark.name, mark.details)
        for name, slices in self._timeline.tracks.items():
            track = self._track(name)
            for entry in slices:
                self._slice(entry, track)
        for counter in self._timeline.counters:
            self._counter(counter)
        # Readers take the events of a track in their order; among equal times ours is begin, inside, end.
        self._events.sort(key=lambda packet: packet.timestamp)
        self._trace.packet.extend(self._events)
        data: bytes = self._trace.SerializeToString()
        return data

    def _first(self) -> int:
        starts = [entry.start_ns for slices in self._timeline.tracks.values() for entry in slices[:1]]
        starts += [mark.at_ns for mark in self._timeline.marks[:1]]
        return min(starts, default=0)

    def _begin(self) -> None:
        packet = self._trace.packet.add()
        packet.trusted_packet_sequence_id = _SEQUENCE
        packet.sequence_flags = self._schema.TracePacket.SEQ_INCREMENTAL_STATE_CLEARED
        packet.track_descriptor.uuid = _DEVICE
        packet.track_descriptor.process.pid = 1
        packet.track_descriptor.process.process_name = _text(self._timeline.title)
        if self._timeline.clock_ns is None or self._timeline.unix_ns is None:
            return
        snapshot = self._trace.packet.add()
        snapshot.timestamp = self._timeline.clock_ns
        snapshot.trusted_packet_sequence_id = _SEQUENCE
        # Times are shown as the trace's own clock, which is the device's monotonic one here.
        for clock, value in (
            (self._schema.BUILTIN_CLOCK_BOOTTIME, self._timeline.clock_ns),
            (self._schema.BUILTIN_CLOCK_MONOTONIC, self._timeline.clock_ns),
            (self._schema.BUILTIN_CLOCK_REALTIME, self._timeline.unix_ns),
        ):
            entry = snapshot.clock_snapshot.clocks.add()
            entry.clock_id = clock
            entry.timestamp = value

    def _track(self, name: str) -> int:
        self._tracks += 1
        packet = self._trace.packet.add()
        packet.trusted_packet_sequence_id = _SEQUENCE
        packet.track_descriptor.uuid = self._tracks
        packet.track_descriptor.parent_uuid = _DEVICE
        packet.track_descriptor.name = _text(name)
        return self._tracks

    def _counter(self, counter: Counter) -> None:
        track = self._track(counter.name)
        descriptor = self._trace.packet[-1].track_descriptor.counter
        if counter.unit == _BYTES:
            descriptor.unit = self._schema.CounterDescriptor.UNIT_SIZE_BYTES
        else:
            descriptor.unit_name = counter.unit
        for at_ns, value in zip(counter.at_ns, counter.values, strict=True):
            # A counter keeps its last value until the next: what was not told is not drawn as a number.
            if value is not None:
                event = self._event(self._schema.TrackEvent.TYPE_COUNTER, track, at_ns)
                event.double_counter_value = value

    def _slice(self, entry: Slice, track: int) -> None:
        kinds = self._schema.TrackEvent
        event = self._event(kinds.TYPE_SLICE_BEGIN, track, entry.start_ns, entry.name, entry.details)
        event.categories.append(entry.category)
        for part in entry.inside:
            self._slice(part, track)
        self._event(kinds.TYPE_SLICE_END, track, entry.end_ns)

    def _event(
        self, kind: int, track: int, at_ns: int, name: str | None = None, details: dict[str, Detail] | None = None
    ) -> Any:
        packet = self._schema.TracePacket()
        packet.timestamp = max(at_ns, 0)
        packet.trusted_packet_sequence_id = _SEQUENCE
        event = packet.track_event
        event.type = kind
        event.track_uuid = track
        if name is not None:
            event.name = _text(name)
        for key, value in (details or {}).items():
            annotation = event.debug_annotations.add()
            annotation.name = _text(key)
            if isinstance(value, bool):
                annotation.bool_value = value
            elif isinstance(value, int) and -_MOST - 1 <= value <= _MOST:
                annotation.int_value = value
            elif isinstance(value, float):
                annotation.double_value = value
            else:
                annotation.string_value = _text(str(value))
        self._events.append(packet)
        return event


def _text(text: str) -> str:
    """Text that protobuf takes: UTF-8 has no lone surrogates."""
    return text.encode("utf-8", "replace").decode("utf-8")
