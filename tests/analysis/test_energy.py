"""Energy per token against power whose truth is known, and the reasons where it cannot be measured."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from data_runs import Session, bundle
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.analysis import power_meter
from edgekit.analysis.energy import Energy, energies
from edgekit.analysis.load import LaunchData, RunData, load_run
from edgekit.analysis.power import CounterTrace, GapError, PowerTrace, unwrap
from edgekit.errors import InputError
from edgekit.schema.event import ConditionSamples, Hello, Sensor, Sensors, Stream, TrialResult, Unreadable
from edgekit.schema.plan import Trial

S = 1_000_000_000


class Steps:
    """Power that jumps now and then; its energy is known exactly."""

    def __init__(self, lengths: list[float], watts: list[float]) -> None:
        self.edges, self.watts, self.sums = [0.0], watts, [0.0]
        for length, power in zip(lengths, watts, strict=True):
            self.edges.append(self.edges[-1] + length)
            self.sums.append(self.sums[-1] + length * power)

    def _place(self, at: float) -> int:
        return min(len(self.watts) - 1, max(0, sum(edge <= at for edge in self.edges[1:])))

    def power(self, at: float) -> float:
        return self.watts[self._place(at)]

    def joules(self, at: float) -> float:
        place = self._place(at)
        return self.sums[place] + (at - self.edges[place]) * self.watts[place]


#: No two jumps between two samples of 0.1 s.
steps = st.lists(st.tuples(st.floats(0.11, 2), st.floats(0.1, 20)), min_size=3, max_size=12).map(
    lambda parts: Steps([length for length, _ in parts], [watts for _, watts in parts])
)


@given(steps, st.floats(0, 1), st.floats(0, 1), st.floats(0, 0.09))
def test_bounds_hold_the_true_energy(truth: Steps, one: float, other: float, phase: float) -> None:
    whole = truth.edges[-1]
    at = [phase + 0.1 * n for n in range(int((whole - phase) / 0.1) + 1) if phase + 0.1 * n <= whole]
    start, end = sorted(at[0] + share * (at[-1] - at[0]) for share in (one, other))
    true = truth.joules(end) - truth.joules(start)
    for trace in (PowerTrace(at, [truth.power(t) for t in at]), CounterTrace(at, [truth.joules(t) for t in at])):
        found = trace.energy(start, end)
        slip = 1e-9 * (1 + true)
        assert found.low - slip <= true <= found.high + slip
        assert found.low - slip <= found.best <= found.high + slip


@given(steps, st.floats(-0.04, 0.04))
def test_bounds_hold_where_the_clock_is_wrong(truth: Steps, wrong: float) -> None:
    at = [0.1 * n for n in range(int(truth.edges[-1] / 0.1) + 1)]
    start, end = at[1], at[-2]
    true = truth.joules(end) - truth.joules(start)
    shifted = [t + wrong for t in at]
    trace = PowerTrace(shifted, [truth.power(t) for t in at], slack_s=0.04)
    counter = CounterTrace(shifted, [truth.joules(t) for t in at], slack_s=0.04)
    for found in (trace.energy(start, end), counter.energy(start, end)):
        assert found.low - 1e-6 <= true <= found.high + 1e-6


def test_a_counter_that_begins_again() -> None:
    assert unwrap([90.0, 99.0, 5.0, 20.0, 1.0], 100.0) == [90.0, 99.0, 105.0, 120.0, 201.0]
    assert unwrap([90.0, 5.0], None) is None


@pytest.mark.parametrize(("start", "end"), [(-0.5, 1), (1, 11), (3, 5)])
def test_nothing_is_made_up_where_nothing_was_measured(start: float, end: float) -> None:
    at = [0.1 * n for n in range(101) if not 30 < n < 50]
    for trace in (PowerTrace(at, [1.0] * len(at)), CounterTrace(at, at)):
        with pytest.raises(GapError):
            trace.energy(start, end)
        assert trace.energy(6, 8).best == pytest.approx(2)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunData:
    root = tmp_path_factory.mktemp("run")
    return load_run(Session(root, bundles=[bundle("w4")], threads=(2,), rounds=1).write()[0])


TRIALS = [(5.0, 9.0, 40), (12.0, 15.0, 30)]


def sampled(
    run: RunData,
    columns: list[tuple[Sensor, Callable[[float], int | None]]],
    *,
    hz: float = 10.0,
    unreadable: tuple[Unreadable, ...] = (),
    keep: Callable[[float], bool] = lambda at: True,
) -> RunData:
    """The run with one launch of two decodes, whose sensors tell these functions of time."""
    data = run.launches[1]
    assert data.plan is not None
    assert data.stream is not None
    moments = [n / hz for n in range(1, int(20 * hz)) if keep(n / hz)]
    events = [
        msgspec.structs.replace(data.stream.events[0], t=1),
        Sensors(t=1, sensors=[sensor for sensor, _ in columns], unreadable=list(unreadable)),
        ConditionSamples(
            t=20 * S,
            first=0,
            at_ns=[int(at * S) for at in moments],
            took_ns=[0] * len(moments),
            values=[[told(at) for at in moments] for _, told in columns],
        ),
        *(
            TrialResult(
                t=20 * S,
                trial=number,
                start_ns=int(start * S),
                end_ns=int(end * S),
                token_ns=[int((start + (end - start) * (n + 1) / tokens) * S) for n in range(tokens)],
            )
            for number, (start, end, tokens) in enumerate(TRIALS)
        ),
    ]
    trials = [Trial(id=number, kind="decode", tokens=tokens) for number, (_, _, tokens) in enumerate(TRIALS)]
    plan = msgspec.structs.replace(data.plan, trials=trials)
    launch = LaunchData(data.launch, plan, Stream(events=events, complete=True, faults=[]))
    return RunData(run.path, run.run, run.bundle, [launch], [])


CURRENT = Sensor(kind="current", name="battery", unit="uA", source="/sys/class/power_supply/battery/current_now")
VOLTAGE = Sensor(kind="voltage", name="battery", unit="uV", source="/sys/class/power_supply/battery/voltage_now")
CHARGER = Sensor(kind="external_power", name="usb", unit="", source="/sys/class/power_supply/usb/online")
PACKAGE = Sensor(kind="energy", name="package-0#0", unit="uJ", source="/sys/energy_uj", wraps_at=30_000_000)


def watts(at: float) -> float:
    """A slow wave on 2 W, 4 W while something runs."""
    busy = any(start <= at <= end for start, end, _ in TRIALS)
    return 2 + 2 * busy + 0.2 * math.sin(at * 9)


def joules(at: float) -> float:
    busy = sum(max(0.0, min(at, end) - start) for start, end, _ in TRIALS)
    return 2 * at + 2 * busy + 0.2 * (1 - math.cos(at * 9)) / 9


def battery(at: float) -> int:
    return -int(watts(at) / 4 * 1e6)


def only(found: dict, tokens: int) -> Energy | str:
    [answer] = [value for test, value in found.items() if test.tokens == tokens]
    return answer


def test_a_battery(run: RunData) -> None:
    found = energies(sampled(run, [(CURRENT, battery), (VOLTAGE, lambda at: 4_000_000), (CHARGER, lambda at: 0)]))
    for start, end, tokens in TRIALS:
        answer = only(found, tokens)
        assert isinstance(answer, Energy)
        true = (joules(end) - joules(start)) / tokens
        assert answer.low <= true <= answer.high
        assert answer.joules_per_token == pytest.approx(true, rel=0.03)
        assert (answer.source, answer.covers) == ("battery battery", "whole device")
        assert answer.sampling_hz == pytest.approx(10)
        assert answer.watts == pytest.approx(4, rel=0.1)


def test_a_counter_that_wraps(run: RunData) -> None:
    found = energies(sampled(run, [(PACKAGE, lambda at: int(joules(at) * 1e6) % 30_000_000)]))
    for start, end, tokens in TRIALS:
        answer = only(found, tokens)
        assert isinstance(answer, Energy)
        assert answer.low <= (joules(end) - joules(start)) / tokens <= answer.high
        assert answer.covers == "processor packages"


def test_slow_gauges_are_told_by_their_changes(run: RunData) -> None:
    """Sampled ten times a second, a gauge that moves once a second is no more than that."""
    columns = [(CURRENT, lambda at: battery(math.floor(at))), (VOLTAGE, lambda at: 4_000_000)]
    answer = only(energies(sampled(run, columns)), 40)
    assert isinstance(answer, Energy)
    assert answer.refreshed_hz == pytest.approx(1, rel=0.1)
    assert answer.sampling_hz == pytest.approx(10)
    frozen = [(CURRENT, lambda at: -1_000_000), (VOLTAGE, lambda at: 4_000_000)]
    assert "too short" in str(only(energies(sampled(run, frozen)), 40))


@pytest.mark.parametrize(
    ("columns", "unreadable", "why"),
    [
        ([], (), "neither a battery's current nor a counter"),
        ([(CURRENT, battery)], (), "a current without a voltage"),
        ([(CURRENT, battery), (VOLTAGE, lambda at: 4_000_000), (CHARGER, lambda at: 1)], (), "external power (usb)"),
        ([(CURRENT, lambda at: battery(at) // 1000), (VOLTAGE, lambda at: 4_000_000)], (), "its unit"),
        ([(CURRENT, lambda at: None), (VOLTAGE, lambda at: 4_000_000)], (), "fewer than two samples"),
        (
            [],
            (Unreadable(source="/sys/class/powercap/intel-rapl:0/energy_uj", reason="Permission denied"),),
            "energy_uj: Permission denied",
        ),
        (
            [(msgspec.structs.replace(PACKAGE, wraps_at=None), lambda at: int(joules(at) * 1e6) % 9_000_000)],
            (),
            "the counter fell",
        ),
    ],
)
def test_not_measurable_here(run: RunData, columns: list, unreadable: tuple, why: str) -> None:
    found = energies(sampled(run, columns, unreadable=unreadable))
    assert len(found) == 2
    for answer in found.values():
        assert isinstance(answer, str)
        assert answer.startswith("not measurable here: ")
        assert why in answer


def test_a_run_that_did_not_look(run: RunData) -> None:
    assert all("were not sampled" in str(answer) for answer in energies(run).values())


def test_missing_samples_cost_the_trial_and_no_other(run: RunData) -> None:
    columns = [(CURRENT, battery), (VOLTAGE, lambda at: 4_000_000)]
    found = energies(sampled(run, columns, keep=lambda at: not 6 < at < 8))
    assert "samples are missing" in str(only(found, 40))
    assert isinstance(only(found, 30), Energy)


def meter_file(path: Path, power: Callable[[float], float], *, first: float, last: float, hz: float) -> Path:
    """A meter whose clock began at ``first`` seconds of the wall clock."""
    count = int((last - first) * hz)
    lines = [f"{n / hz:.6f},{power(first + n / hz):.6f}\n" for n in range(count)]
    path.write_text("time_s,power_w\n" + "".join(lines))
    return path


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> list[RunData]:
    """Launches with pauses between them, on a device whose wall clock is known."""
    root = tmp_path_factory.mktemp("session")
    runs = [load_run(path) for path in Session(root, threads=(2,), rounds=3).write()]
    clock, placed = 1_767_607_200.0, {}
    order = sorted(
        (data.launch.position, place, n) for place, run in enumerate(runs) for n, data in enumerate(run.launches)
    )
    for _, place, number in order:
        data = runs[place].launches[number]
        assert data.stream is not None
        hello, *rest = data.stream.events
        assert isinstance(hello, Hello)
        clock += 1.5
        moved = msgspec.structs.replace(hello, unix_ns=int(clock * S))
        clock += (data.stream.events[-1].t - hello.t) / S
        placed[place, number] = LaunchData(
            data.launch, data.plan, Stream(events=[moved, *rest], complete=True, faults=[])
        )
    return [
        RunData(run.path, run.run, run.bundle, [placed[place, n] for n in range(len(run.launches))], [])
        for place, run in enumerate(runs)
    ]


@settings(max_examples=6, deadline=None)
@given(st.floats(0.5, 20), st.sampled_from([20.0, 100.0]), st.integers(0, 1000))
def test_the_edges_of_the_load_align_the_clocks(
    tmp_path_factory: pytest.TempPathFactory, session: list[RunData], lead: float, hz: float, seed: int
) -> None:
    """The stated error holds the true offset, and the energy's interval the true energy."""
    windows = sorted(window for run in session for window in power_meter.launch_windows(run))
    draw = random.Random(seed)

    def power(at: float) -> float:
        return (5.0 if any(start <= at <= end for start, end in windows) else 1.5) + draw.gauss(0, 0.1)

    first = windows[0][0] - lead
    path = meter_file(tmp_path_factory.mktemp("meter") / "m.csv", power, first=first, last=windows[-1][1] + 3, hz=hz)
    placed = power_meter.place_meter(path, session)
    assert abs(placed.alignment.offset_s - first) <= placed.alignment.error_s
    assert placed.alignment.error_s < 0.3
    checked = 0
    for run in session:
        for test, answer in energies(run, placed).items():
            if isinstance(answer, Energy):
                seconds = answer.joules_per_token * test.tokens / answer.watts
                assert answer.low <= 5.0 * seconds / test.tokens * 1.02
                assert answer.high >= 5.0 * seconds / test.tokens * 0.98
                assert answer.alignment_error_s == placed.alignment.error_s
                checked += 1
    assert checked


def test_a_stated_offset(tmp_path: Path, session: list[RunData]) -> None:
    windows = sorted(window for run in session for window in power_meter.launch_windows(run))
    first = windows[0][0] - 2
    path = meter_file(tmp_path / "m.csv", lambda at: 3.0, first=first, last=windows[-1][1] + 2, hz=50)
    placed = power_meter.place_meter(path, session, f"{first:.3f}±0.01")
    answers = [answer for run in session for answer in energies(run, placed).values()]
    found = [answer for answer in answers if isinstance(answer, Energy)]
    assert found
    assert all(answer.watts == pytest.approx(3, rel=1e-6) for answer in found)
    # A steady load shows no edges.
    with pytest.raises(InputError, match="does not stand out"):
        power_meter.place_meter(path, session)
    short = meter_file(tmp_path / "s.csv", lambda at: 3.0, first=first, last=first + 3, hz=50)
    with pytest.raises(InputError, match="the session took"):
        power_meter.place_meter(short, session)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "names no time and power"),
        ("a,b\n1,2\n", "names no time and power"),
        ("time_s,current_a\n1,2\n", "names no time and power"),
        ("time_s,power_w\n1,2\n", "fewer than two"),
        ("time_s,power_w\n1,2\n3,nan\nx,y\n", "fewer than two"),
        ("time_s,power_w\n1,2\n1,2\n", "line 3: the clock does not go on"),
        ("time_s,power_w\n2,2\n1,2\n", "line 3: the clock does not go on"),
        ('time_s,power_w\n1,"' + "x" * 200_000 + '"\n', "field larger"),
    ],
)
def test_a_file_that_is_no_meters(tmp_path: Path, text: str, why: str) -> None:
    (tmp_path / "m.csv").write_text(text)
    with pytest.raises(InputError, match=why):
        power_meter.read_meter(tmp_path / "m.csv")


def test_columns_and_units(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text("﻿Time_ms, Current_mA ,note,Voltage_V\n0,500,x,4\n10,broken,,\n20,1000,,5\n")
    found = power_meter.read_meter(path)
    assert (found.at_s, found.watts, found.skipped) == ([0.0, 0.02], [2.0, 5.0], 1)
    with pytest.raises(InputError):
        power_meter.read_meter(tmp_path / "missing.csv")


@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: ("time_s,power_w\n" + text).encode()))
def test_any_file_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.csv"
    path.write_bytes(data)
    try:
        found = power_meter.read_meter(path)
    except InputError:
        return
    assert len(found.at_s) == len(found.watts) >= 2
    assert all(map(math.isfinite, found.watts))


@pytest.mark.parametrize("text", ["", "12", "12±", "±1", "a±1", "1±-1", "nan±1", "1±1s"])
def test_an_offset_without_its_error_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="form 12"):
        power_meter.parse_offset(text)


def test_offsets() -> None:
    assert power_meter.parse_offset("-3 +- 0.5") == power_meter.Alignment(-3.0, 0.5, "as stated")
