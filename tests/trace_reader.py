"""A Perfetto trace read back with Perfetto's own classes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Slice:
    name: str
    category: str
    start: int
    end: int = -1
    depth: int = 0
    details: dict[str, Any] = field(default_factory=dict)


@dataclass
class Read:
    """A trace as a viewer reads it."""

    tracks: dict[str, list[Slice]] = field(default_factory=dict)
    marks: dict[str, list[Slice]] = field(default_factory=dict)
    counters: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    process: str = ""
    clocks: dict[int, int] = field(default_factory=dict)

    def slices(self, *categories: str) -> list[Slice]:
        return [entry for track in self.tracks.values() for entry in track if entry.category in categories]


def read_trace(path: Path) -> Read:
    """Read a trace; asserts what every trace must keep: known tracks, time in order, begins and ends in pairs."""
    from perfetto.protos.perfetto.trace import perfetto_trace_pb2 as schema

    trace = schema.Trace()
    trace.ParseFromString(path.read_bytes())
    read = Read()
    names: dict[int, str] = {}
    counters: set[int] = set()
    open_slices: dict[int, list[Slice]] = {}
    latest: dict[int, int] = {}
    for packet in trace.packet:
        assert packet.trusted_packet_sequence_id
        if packet.HasField("track_descriptor"):
            descriptor = packet.track_descriptor
            assert descriptor.uuid not in names
            if descriptor.HasField("process"):
                read.process = descriptor.process.process_name
                root = descriptor.uuid
            else:
                assert descriptor.parent_uuid == root
            names[descriptor.uuid] = descriptor.name
            if descriptor.HasField("counter"):
                counters.add(descriptor.uuid)
                read.counters[descriptor.name] = []
        if packet.HasField("clock_snapshot"):
            read.clocks = {entry.clock_id: entry.timestamp for entry in packet.clock_snapshot.clocks}
        if not packet.HasField("track_event"):
            continue
        event, track = packet.track_event, packet.track_event.track_uuid
        name = names[track]
        assert packet.timestamp >= latest.get(track, 0)
        latest[track] = packet.timestamp
        stack = open_slices.setdefault(track, [])
        details = {item.name: getattr(item, str(item.WhichOneof("value"))) for item in event.debug_annotations}
        if event.type == schema.TrackEvent.TYPE_SLICE_BEGIN:
            made = Slice(event.name, event.categories[0], packet.timestamp, depth=len(stack), details=details)
            stack.append(made)
            read.tracks.setdefault(name, []).append(made)
        elif event.type == schema.TrackEvent.TYPE_SLICE_END:
            stack.pop().end = packet.timestamp
        elif event.type == schema.TrackEvent.TYPE_INSTANT:
            read.marks.setdefault(name, []).append(
                Slice(event.name, "", packet.timestamp, packet.timestamp, details=details)
            )
        else:
            assert event.type == schema.TrackEvent.TYPE_COUNTER
            assert track in counters
            read.counters[name].append((packet.timestamp, event.double_counter_value))
    assert not any(open_slices.values())
    return read
