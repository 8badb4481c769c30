"""Timelines, read back with Perfetto's own classes: nested, in order, and with the run's own totals."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from data_runs import Session, bundle, device
from trace_reader import read_trace

import edgekit
from edgekit.analysis.load import load_run
from edgekit.analysis.metrics import delivered_trials, samples
from edgekit.cli.main import _exit_code
from edgekit.schema import codec
from edgekit.schema.event import ConditionSamples, Loaded, MemorySamples, Sensor, Sensors
from edgekit.schema.run import ClockReading, Clocks, Run

THREADS, ROUNDS = 2, 2
BETWEEN = 60_000_000_000
HOSTILE = "\u202e</script><script>alert(1)</script>\x1b]0;x\x07 \u0000 ../..%n{}"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    [made] = Session(tmp_path, [bundle("w4")], threads=(THREADS,), rounds=ROUNDS, depths=(0, 32)).write()
    # Launches come after one another, as they do on a device.
    for launch in range(ROUNDS + 1):
        move(made, launch, by=launch * BETWEEN)
    return made


def move(run: Path, launch: int, *, by: int, unix_by: int | None = None) -> None:
    """Move a launch's events on the device's clock, and on its wall clock if that moved otherwise."""
    path = run / "launches" / f"{launch:03d}" / "events.jsonl"
    moved = []
    for line in path.read_bytes().splitlines():
        event = msgspec.json.decode(line)
        for key in ("t", "start_ns", "end_ns"):
            if key in event:
                event[key] += by
        for key in ("token_ns", "at_ns"):
            if key in event:
                event[key] = [value + by for value in event[key]]
        if event["event"] == "hello":
            event["unix_ns"] += by if unix_by is None else unix_by
        moved.append(msgspec.json.encode(event) + b"\n")
    path.write_bytes(b"".join(moved))


def change(run: Path, **changes: Any) -> None:
    document = codec.read(run / "run.json", Run)
    (run / "run.json").write_bytes(codec.encode(msgspec.structs.replace(document, **changes)))


def test_trials_and_tokens_add_up_to_the_runs_own(run: Path, tmp_path: Path) -> None:
    data = load_run(run)
    read = read_trace(edgekit.timeline(run, out=tmp_path / "t.pftrace"))
    assert read.process == "smollm2-135m w4 on adb:127.0.0.1:5555"
    launches = read.slices("launch")
    assert len(launches) == len(data.launches) == ROUNDS + 1
    assert [entry.depth for entry in launches] == [0] * len(launches)
    found: dict[str, list[float]] = {}
    for entry in read.slices("prefill", "decode"):
        assert entry.depth == 1
        tokens = [
            token
            for token in read.slices("token")
            if entry.start <= token.start and token.end <= entry.end and token.depth == 2
        ]
        if entry.category == "decode":
            assert [token.name for token in tokens] == [f"token {number}" for number in range(1, 65)]
            assert sum(token.end - token.start for token in tokens) == entry.end - entry.start
        found.setdefault(entry.name, []).append(entry.details["tokens per second"])
    wanted = {test.name: [sample.tok_s for sample in entries] for test, entries in samples(data).items()}
    assert {name: sorted(values) for name, values in found.items()} == {
        name: pytest.approx(sorted(values)) for name, values in wanted.items()
    }
    loads = [event for entry in data.launches for event in entry.stream.events if isinstance(event, Loaded)]
    assert [(entry.start, entry.end) for entry in read.slices("load")] == [(e.start_ns, e.end_ns) for e in loads]
    memory = [
        pair
        for entry in data.launches
        for event in entry.stream.events
        if isinstance(event, MemorySamples)
        for pair in zip(event.at_ns, event.rss, strict=True)
    ]
    assert read.counters["memory, rss"] == sorted(memory, key=lambda pair: pair[0])
    assert not read.slices("gap")
    first = data.launches[0].stream.events[0]
    assert read.clocks == {6: first.t, 3: first.t, 1: first.unix_ns}


def test_sensors_are_counters_in_their_units_and_missing_samples_stay_missing(run: Path, tmp_path: Path) -> None:
    path = run / "launches" / "001" / "events.jsonl"
    first, *rest = path.read_bytes().splitlines(keepends=True)
    begun = msgspec.json.decode(first)["t"]
    sensors = [
        Sensor(kind="frequency", name="cpu4-7", unit="kHz", source="policy4"),
        Sensor(kind="temperature", name="cpu-thermal", unit="mC", source="zone0"),
        Sensor(kind="current", name="battery", unit="uA", source="battery/current_now"),
    ]
    at = [begun + 1_000, begun + 2_000, begun + 3_000]
    values = [[2_400_000, None, 1_800_000], [45_000, 52_500, None], [-900_000, -1_200_000, -1_100_000]]
    told = [
        Sensors(t=begun, sensors=sensors, unreadable=[]),
        ConditionSamples(t=at[-1], first=0, at_ns=at, took_ns=[0] * 3, values=values),
    ]
    path.write_bytes(first + b"".join(msgspec.json.encode(event) + b"\n" for event in told) + b"".join(rest))
    counters = read_trace(edgekit.timeline(run, out=tmp_path / "t.pftrace")).counters
    assert counters["frequency, cpu4-7"] == [(at[0], 2.4), (at[2], 1.8)]
    assert counters["temperature, cpu-thermal"] == [(at[0], 45.0), (at[1], 52.5)]
    assert [value for _, value in counters["current, battery"]] == [-0.9, -1.2, -1.1]


def test_what_the_host_noted_is_placed_with_its_error(run: Path, tmp_path: Path) -> None:
    read = read_trace(edgekit.timeline(run, out=tmp_path / "t.pftrace"))
    assert any("clock was not compared" in str(value) for value in read.marks["run"][0].details.values())
    # Begun at 10:00:00; the first launch's clock is 5,000 s and something then.
    unix = 1_767_607_200_000_000_000
    skew = 5_000_000_000_000 - 700
    reading = ClockReading(host_before_ns=500, device_ns=skew + 1_000, host_after_ns=1_500, host_unix_ns=unix)
    last = ClockReading(
        host_before_ns=10**12, device_ns=skew + 10**12 + 900, host_after_ns=10**12 + 1_000, host_unix_ns=unix + 10**12
    )
    change(run, clocks=Clocks(begin=[reading], end=[last]))
    read = read_trace(edgekit.timeline(run, out=tmp_path / "t.pftrace"))
    asked = [mark for mark in read.marks["moments"] if mark.name.startswith("host asks for launch")]
    assert [mark.name for mark in asked] == [f"host asks for launch {index}" for index in range(ROUNDS + 1)]
    for index, mark in enumerate(asked):
        assert abs(mark.start - (5_000_000_000_000 + index * 1_000_000_000)) <= mark.details["error_ns"]
        assert 1_000_000 < mark.details["error_ns"] < 3_000_000
    temperatures = read.counters["read by the host: temperature, cpu-thermal"]
    assert [value for _, value in temperatures] == [44.5, 61.0]
    assert temperatures[1][0] - temperatures[0][0] == pytest.approx(241e9, abs=5e6)
    assert read.marks["run"][0].details["clock error, half round trip, ns"] >= 500


def test_a_cut_run_has_a_marked_gap(run: Path, tmp_path: Path) -> None:
    path = run / "launches" / "001" / "events.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:5]) + lines[5][: len(lines[5]) // 2])
    data = load_run(run)
    read = read_trace(edgekit.timeline(run, out=tmp_path / "t.pftrace"))
    kept = sum(1 for entry in data.launches for _ in delivered_trials(entry))
    assert len(read.slices("prefill", "decode")) == kept < (ROUNDS) * 4
    [mark] = [mark for mark in read.marks["moments"] if "events end here" in mark.name]
    launches = read.slices("launch")
    assert mark.start == launches[1].end
    [gap] = read.slices("gap")
    assert (gap.start, gap.end) == (mark.start, launches[2].start)
    assert gap.name == "gap: launch 1: events are missing"
    path.unlink()
    read = read_trace(edgekit.timeline(run, out=tmp_path / "t.pftrace"))
    assert any("launch 1: no events" in mark.name for mark in read.marks["moments"])
    assert len(read.slices("launch")) == ROUNDS


def test_a_device_that_was_started_anew_is_placed_by_its_wall_clock(run: Path, tmp_path: Path) -> None:
    data = load_run(run)
    hello, last_hello = (data.launches[index].stream.events[0] for index in (0, 2))
    before = read_trace(edgekit.timeline(run, out=tmp_path / "t.pftrace")).slices("launch")
    move(run, 2, by=1_000_000 - last_hello.t, unix_by=3_600_000_000_000 - 2 * BETWEEN)
    read = read_trace(edgekit.timeline(run, out=tmp_path / "t.pftrace"))
    last = read.slices("launch")[-1]
    assert last.start == hello.t + 3_600_000_000_000
    assert last.end - last.start == before[-1].end - before[-1].start
    assert any("began anew" in str(value) for value in read.marks["run"][0].details.values())


def test_hostile_strings_stay_strings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    [run] = Session(
        tmp_path, [bundle("w4", model=HOSTILE)], threads=(1,), rounds=1, device=device(name=HOSTILE)
    ).write()
    assert _exit_code(["timeline", str(run), "--out", str(tmp_path / "t.pftrace")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "t.pftrace")
    read = read_trace(tmp_path / "t.pftrace")
    assert read.process == f"{HOSTILE} w4 on {HOSTILE}"
    assert read.marks["run"][0].details["model"] == HOSTILE


def test_numbers_beyond_64_bits_are_written_as_text(run: Path, tmp_path: Path) -> None:
    events = run / "launches" / "001" / "events.jsonl"
    lines = events.read_text().splitlines(keepends=True)
    [loaded] = [at for at, line in enumerate(lines) if '"event":"loaded"' in line]
    lines[loaded] = re.sub(r'"threads":\d+', f'"threads":{10**30}', lines[loaded])
    events.write_text("".join(lines))
    assert edgekit.timeline(run, out=tmp_path / "t.pftrace") == tmp_path / "t.pftrace"
    assert str(10**30).encode() in (tmp_path / "t.pftrace").read_bytes()


def test_what_cannot_be_written_or_read_is_said(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("kept")
    assert _exit_code(["timeline", str(run), "--out", str(tmp_path / "file" / "t.pftrace")]) != 0
    assert "write" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "kept"
    assert _exit_code(["timeline", str(tmp_path / "nothing"), "--out", str(tmp_path / "t.pftrace")]) != 0
    assert not (tmp_path / "t.pftrace").exists()
