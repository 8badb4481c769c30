"""The stream reader keeps what can be read, names what cannot, and never falls over."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.errors import InputError, UnsupportedError
from edgekit.schema import stream as stream_module
from edgekit.schema.event import (
    Bye,
    ConditionSamples,
    GoldenResult,
    Hello,
    Loaded,
    MemorySamples,
    MemoryUse,
    ProbeFault,
    ProportionalSamples,
    Sensor,
    Sensors,
    Stream,
    TrialResult,
    TrialStart,
)
from edgekit.schema.stream import StreamDecoder, read_stream, read_stream_file

MEMORY = MemoryUse(rss=10, anon=4, file=6, peak=12)
EVENTS = [
    Hello(
        t=1,
        schema_version=1,
        probe_version="1",
        runtime="onnxruntime",
        runtime_version="1",
        abi="x86_64",
        clock="CLOCK_MONOTONIC",
        clock_resolution_ns=1,
        unix_ns=5,
        pid=2,
        cpus_online=2,
        page_size=4096,
    ),
    Loaded(
        t=3,
        load=0,
        resident_before=None,
        start_ns=1,
        end_ns=2,
        threads=1,
        affinity_asked=None,
        affinity_read=[[0]],
        memory=MEMORY,
    ),
    GoldenResult(t=4, tokens=[1], logits=[[0.5]]),
    TrialStart(t=5, trial=0),
    TrialResult(t=9, trial=0, start_ns=6, end_ns=8, token_ns=[7, 8]),
    MemorySamples(t=10, at_ns=[5, 6], rss=[1, 2], anon=[1, 1], file=[0, 1]),
    ProbeFault(t=11, code="slow", message="late", fatal=False),
    ProportionalSamples(t=11, at_ns=[5, 7], took_ns=[1, 1], rss=[3, 4], pss=[2, 3], uss=[1, 2], swap=[0, 0]),
    Sensors(
        t=11,
        sensors=[
            Sensor(kind="frequency", name="policy0", unit="kHz", source="/sys/x", cpus=[0, 1]),
            Sensor(kind="current", name="battery", unit="uA", source="/sys/y"),
        ],
        unreadable=[],
    ),
    ConditionSamples(t=11, first=0, at_ns=[4, 8], took_ns=[1, 2], values=[[1000, None]]),
    ConditionSamples(t=12, first=1, at_ns=[5, 9], took_ns=[1, 2], values=[[-7, 8]]),
    ConditionSamples(t=12, first=0, at_ns=[9], took_ns=[1], values=[[2000]]),
    Bye(t=12, reason="done", trials_done=1, memory=MEMORY),
]


def text_of(*events: object) -> bytes:
    return b"".join(msgspec.json.encode(event) + b"\n" for event in events)


def changed(event: object, **changes: object) -> dict:
    return json.loads(msgspec.json.encode(event)) | changes


def test_an_orderly_stream_comes_back_whole() -> None:
    assert read_stream(text_of(*EVENTS), origin="here") == Stream(events=EVENTS, complete=True, faults=[])


@given(st.integers(0, len(text_of(*EVENTS))))
def test_a_cut_stream_is_a_shorter_stream(length: int) -> None:
    cut = text_of(*EVENTS)[:length]
    stream = read_stream(cut, origin="here")
    whole = cut.count(b"\n")
    assert stream.events[:whole] == EVENTS[:whole]
    # The line may be whole but for its newline.
    assert len(stream.events) in (whole, whole + 1)
    assert stream.complete == (len(stream.events) == len(EVENTS))
    if cut and not cut.endswith(b"\n") and len(stream.events) == whole:
        assert stream.faults == [f"line {whole + 1}: cut short: {stream.faults[0].split(': ', 2)[2]}"]


@given(st.lists(st.integers(1, 50)), st.data())
def test_pieces_of_any_size_decode_alike(sizes: list[int], data: st.DataObject) -> None:
    whole = text_of(*EVENTS) + data.draw(st.binary(max_size=30))
    seen: list[object] = []
    decoder = StreamDecoder(origin="here", on_event=seen.append)
    rest = whole
    for size in sizes:
        decoder.feed(rest[:size])
        rest = rest[size:]
    decoder.feed(rest)
    assert decoder.finish() == read_stream(whole, origin="here")
    assert seen == EVENTS


def test_an_unknown_event_is_a_fault_and_the_rest_is_read() -> None:
    lines = text_of(EVENTS[0], {"event": "energy", "t": 2, "joule": 3}, *EVENTS[1:])
    stream = read_stream(lines, origin="here")
    assert stream.events == EVENTS
    assert stream.complete
    assert stream.faults == ["line 2: unknown event 'energy' (a newer probe?), skipped"]


def test_an_unknown_field_is_read_over() -> None:
    stream = read_stream(text_of(changed(EVENTS[0], moon="full"), *EVENTS[1:]), origin="here")
    assert stream == Stream(events=EVENTS, complete=True, faults=[])


@pytest.mark.parametrize("hello", [changed(EVENTS[0], schema_version=2), {"event": "hello", "schema_version": 2}])
def test_a_newer_schema_version_is_refused(hello: dict) -> None:
    with pytest.raises(UnsupportedError, match="schema version 2 is newer than 1") as caught:
        read_stream(text_of(hello), origin="there")
    assert "there" in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        (b"linker: cannot load\n", "not JSON: 'linker: cannot load'"),
        (b"[1,2]\n", "not an event"),
        (b'{"event":"trial_start","t":4}\n', "not an event: Object missing required field `trial`"),
        (b'{"event":"trial_start","t":"x","trial":1}\n', "not an event: Expected `int`, got `str`"),
        (b"\xff\xfe\n", "not JSON"),
        (b"[" * 100_000 + b"\n", "not JSON"),
        (text_of(changed(EVENTS[4], start_ns=8, end_ns=6)), "trial: it ends before it starts, skipped"),
        (text_of(changed(EVENTS[4], token_ns=[8, 7])), "trial: a token's time lies outside"),
        (text_of(changed(EVENTS[4], token_ns=[7, 9])), "trial: a token's time lies outside"),
        (text_of(changed(EVENTS[4], end_ns=10**30)), "trial: a time is no nanosecond count"),
        (text_of(changed(EVENTS[3], t=-1)), "trial_start: its time is no nanosecond count"),
        (text_of(changed(EVENTS[5], rss=[1])), "memory: its columns differ in length"),
        (text_of(changed(EVENTS[5], rss=[1, -1])), "memory: a sample is no byte count"),
        (text_of(changed(EVENTS[5], at_ns=[6, 5])), "memory: the samples' clock went back"),
        (text_of(changed(EVENTS[1], start_ns=9)), "loaded: it ends before it starts"),
        (text_of(EVENTS[0]), "a second hello, skipped"),
        (text_of(changed(EVENTS[7], pss=[1])), "proportional: its columns differ in length"),
        (text_of(changed(EVENTS[7], uss=[-1, 2])), "proportional: a sample is no byte count"),
        (text_of(changed(EVENTS[9], t=2)), "conditions: a column belongs to no sensor, skipped"),
        (text_of(changed(EVENTS[9], first=-1)), "conditions: a column belongs to no sensor, skipped"),
        (text_of(changed(EVENTS[9], values=[[1]])), "conditions: its columns differ in length"),
        (text_of(changed(EVENTS[9], took_ns=[])), "conditions: its columns differ in length"),
        (text_of(changed(EVENTS[9], at_ns=[8, 4])), "conditions: the samples' clock went back"),
        (text_of(changed(EVENTS[9], values=[[1, 2**70]])), "conditions: a value is larger than any sensor's"),
        (text_of(changed(EVENTS[8], sensors=[{"kind": "mood"}])), "not an event"),
    ],
)
def test_an_unusable_line_is_named_and_left_out(line: bytes, fault: str) -> None:
    stream = read_stream(text_of(EVENTS[0]) + line + text_of(*EVENTS[1:]), origin="here")
    assert stream.events == EVENTS
    [found] = stream.faults
    assert found.startswith("line 2: ")
    assert fault in found


def test_a_clock_that_goes_back_is_flagged() -> None:
    stream = read_stream(text_of(EVENTS[0], changed(EVENTS[3], t=20), *EVENTS[3:]), origin="here")
    assert [fault for fault in stream.faults if "clock" in fault] == ["line 3: the clock went back by 15 ns"]


def test_a_trial_timed_by_a_clock_that_jumped_is_no_speed() -> None:
    """Ahead in the middle of a trial, and back afterwards: it seems to last until long after the next event."""
    jumped = changed(EVENTS[4], t=1009, end_ns=1008, token_ns=[7, 1008])
    stream = read_stream(text_of(*EVENTS[:4], jumped, *EVENTS[5:]), origin="here")
    assert [event for event in stream.events if isinstance(event, TrialResult)] == []
    assert stream.faults == [
        "line 6: the clock went back by 999 ns",
        "line 6: trial 0 ends after this moment, left out",
    ]
    early = read_stream(text_of(*EVENTS[:4], changed(EVENTS[4], end_ns=1008), *EVENTS[5:]), origin="here")
    assert early.faults == ["line 5: trial: it was told before it ended, skipped"]


def test_what_repeats_or_follows_the_end_is_left_out() -> None:
    stream = read_stream(text_of(*EVENTS[:5], EVENTS[4], *EVENTS[5:], EVENTS[6]), origin="here")
    assert stream.events == EVENTS
    assert stream.faults == [
        "line 6: trial 0 was reported before, skipped",
        f"line {len(EVENTS) + 2}: comes after bye, skipped",
    ]


def test_samples_that_are_older_than_those_before_are_left_out() -> None:
    """Each series has its own time: the other group's samples may well be older."""
    late = [changed(EVENTS[5], t=11), changed(EVENTS[7], t=11)]
    stream = read_stream(text_of(*EVENTS[:8], *late, *EVENTS[8:]), origin="here")
    assert stream.events == EVENTS
    assert stream.faults == [
        "line 9: memory: its samples are older than those before, skipped",
        "line 10: proportional: its samples are older than those before, skipped",
    ]
    stream = read_stream(text_of(*EVENTS[:11], changed(EVENTS[10], at_ns=[6, 9]), *EVENTS[11:]), origin="here")
    assert stream.events == EVENTS
    assert stream.faults == ["line 12: conditions: its samples are older than those before, skipped"]


def test_sensors_are_listed_once() -> None:
    stream = read_stream(text_of(*EVENTS[:9], *EVENTS[8:]), origin="here")
    assert stream.events == EVENTS
    assert stream.faults == ["line 10: the sensors were listed before, skipped"]


def test_a_stream_without_hello_is_flagged() -> None:
    stream = read_stream(text_of(*EVENTS[1:]), origin="here")
    assert stream.events == EVENTS[1:]
    assert stream.faults == ["line 1: the stream does not begin with hello"]


def test_an_empty_stream_says_so() -> None:
    assert read_stream(b"", origin="here") == Stream(events=[], complete=False, faults=["the stream is empty"])


def test_a_huge_line_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "MAX_LINE_BYTES", 1000)
    decoder = StreamDecoder(origin="here")
    decoder.feed(text_of(EVENTS[0]))
    for _ in range(100):
        decoder.feed(b"x" * 999)
        assert len(decoder._pending) <= 1000
    decoder.feed(b"\n" + text_of(*EVENTS[1:]))
    stream = decoder.finish()
    assert stream.events == EVENTS
    assert stream.faults == ["line 2: longer than 1000 bytes, skipped"]


def test_faults_are_bounded() -> None:
    stream = read_stream(b"x\n" * 1000, origin="here")
    assert len(stream.faults) == stream_module.MAX_FAULTS + 1
    assert stream.faults[-1] == f"and {1000 - stream_module.MAX_FAULTS} more faults"


def test_a_missing_file_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"read events from .*nowhere"):
        read_stream_file(tmp_path / "nowhere")


def test_a_file_reads_like_its_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "_READ_BYTES", 7)
    (tmp_path / "events.jsonl").write_bytes(text_of(*EVENTS))
    assert read_stream_file(tmp_path / "events.jsonl").events == EVENTS
    monkeypatch.setattr(stream_module, "MAX_STREAM_BYTES", 10)
    with pytest.raises(InputError, match="more than any stream has"):
        read_stream_file(tmp_path / "events.jsonl")


_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
)


@st.composite
def _near_lines(draw: st.DrawFn) -> bytes:
    """Lines that nearly are events: a field replaced, removed, or bytes overwritten."""
    raw = changed(draw(st.sampled_from(EVENTS)))
    field = draw(st.sampled_from(sorted(raw)))
    if draw(st.booleans()):
        raw[field] = draw(_values)
    else:
        del raw[field]
    line = bytearray(json.dumps(raw).encode())
    for _ in range(draw(st.integers(0, 2))):
        line[draw(st.integers(0, len(line) - 1))] = draw(st.integers(0, 255))
    return bytes(line)


@given(st.lists(st.binary(max_size=40) | _near_lines() | st.sampled_from([text_of(e)[:-1] for e in EVENTS])))
def test_any_bytes_end_in_a_stream_or_in_our_error(lines: list[bytes]) -> None:
    try:
        stream = read_stream(b"\n".join(lines), origin="here")
    except (InputError, UnsupportedError):
        return
    assert len(stream.events) <= sum(line.count(b"\n") + 1 for line in lines)
    for event in stream.events:
        assert 0 <= event.t < 2**63
        if isinstance(event, TrialResult):
            assert event.start_ns < event.end_ns
