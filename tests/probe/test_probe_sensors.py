"""The probe finds what a kernel shows of its machine, samples it on the tokens' clock, and invents nothing."""

from __future__ import annotations

import itertools
import json
import subprocess
from pathlib import Path

import pytest
from fake_sysfs import laptop, phone
from probe_model import CONTEXT, ProbeModel

from edgekit.analysis import sensors
from edgekit.schema import codec
from edgekit.schema.event import ConditionSamples, MemorySamples, ProportionalSamples, Sensors, TrialResult
from edgekit.schema.plan import Trial

TRIALS = [Trial(id=number, kind="decode", tokens=CONTEXT) for number in range(4)]
RATES = {"memory_hz": 0.0, "conditions_hz": 500.0, "power_hz": 500.0}


def test_a_phone(launch, model: ProbeModel, library: Path, tmp_path: Path) -> None:
    outcome = launch(model.plan(library, TRIALS, sysfs=str(phone(tmp_path / "sys")), **RATES))
    found = outcome.only(Sensors)
    assert [(s.kind, s.name, s.unit, s.cpus) for s in found.sensors] == [
        ("frequency", "policy0", "kHz", [0, 1, 2, 3]),
        ("frequency_limit", "policy0", "kHz", [0, 1, 2, 3]),
        ("frequency", "policy4", "kHz", [4, 5, 6]),
        ("frequency_limit", "policy4", "kHz", [4, 5, 6]),
        ("frequency", "policy7", "kHz", [7]),
        ("frequency_limit", "policy7", "kHz", [7]),
        ("temperature", "cpu-0-0-usr#0", "mC", []),
        ("temperature", "cpu-1-0-usr#2", "mC", []),
        ("temperature", "battery#10", "mC", []),
        ("temperature", "battery", "dC", []),
        ("external_power", "usb", "", []),
        ("current", "battery", "uA", []),
        ("voltage", "battery", "uV", []),
    ]
    [fault] = found.unreadable
    assert fault.source.endswith("thermal_zone11/temp")
    assert fault.reason == "it holds no number"

    values = {(s.sensor.kind, s.sensor.name): set(s.values) for s in sensors.series(outcome.stream)}
    assert values == {
        ("frequency", "policy0"): {1.5048},
        ("frequency_limit", "policy0"): {1.8048},
        ("frequency", "policy4"): {2.1192},
        ("frequency_limit", "policy4"): {2.4192},
        ("frequency", "policy7"): {2.5416},
        ("frequency_limit", "policy7"): {2.8416},
        ("temperature", "cpu-0-0-usr#0"): {41.3},
        # Colder than anything: no value rather than a wrong one.
        ("temperature", "cpu-1-0-usr#2"): {None},
        ("temperature", "battery#10"): {31.0},
        ("temperature", "battery"): {30.5},
        ("external_power", "usb"): {1.0},
        ("current", "battery"): {-1.25},
        ("voltage", "battery"): {4.012},
    }


def test_a_laptop(launch, model: ProbeModel, library: Path, tmp_path: Path) -> None:
    outcome = launch(model.plan(library, TRIALS, sysfs=str(laptop(tmp_path / "sys")), **RATES))
    found = outcome.only(Sensors)
    assert [(s.kind, s.name, s.cpus, s.wraps_at) for s in found.sensors] == [
        ("frequency", "policy0", [0, 1, 4], None),
        ("temperature", "k10temp Tctl", [], None),
        ("energy", "package-0#0", [], 262143328850),
        ("energy", "core#0:0", [], None),
    ]
    assert found.unreadable == []


def test_samples_lie_on_the_tokens_clock(launch, model: ProbeModel, library: Path, tmp_path: Path) -> None:
    plan = model.plan(library, TRIALS, sysfs=str(phone(tmp_path / "sys")), **RATES)
    outcome = launch(plan)
    first, last = outcome.stream.events[0].t, outcome.stream.events[-1].t
    for series in sensors.series(outcome.stream):
        assert series.at_ns
        assert all(a < b for a, b in itertools.pairwise(series.at_ns))
        # The samplers start a moment before they are introduced.
        assert first < series.at_ns[0]
        assert series.at_ns[-1] < last
        assert all(took > 0 for took in series.took_ns)
    assert all(first < result.start_ns < last for result in outcome.all(TrialResult))


@pytest.mark.parametrize("rates", [{}, {"conditions_hz": 50.0, "power_hz": 50.0}])
def test_a_machine_that_shows_nothing(launch, model: ProbeModel, library: Path, tmp_path: Path, rates) -> None:
    outcome = launch(model.plan(library, TRIALS, sysfs=str(tmp_path / "nothing"), **rates))
    assert outcome.exit_code == 0
    assert outcome.all(ConditionSamples) == []
    assert [(event.sensors, event.unreadable) for event in outcome.all(Sensors)] == ([([], [])] if rates else [])
    assert (sensors.unreadable(outcome.stream) is None) == (not rates)


def test_each_group_at_its_own_rate(launch, model: ProbeModel, library: Path, tmp_path: Path) -> None:
    tree = str(phone(tmp_path / "sys"))
    slow = launch(model.plan(library, TRIALS, sysfs=tree, conditions_hz=50.0))
    assert {sensor.kind for sensor in slow.only(Sensors).sensors} == {"frequency", "frequency_limit", "temperature"}
    power = launch(model.plan(library, TRIALS, sysfs=tree, power_hz=50.0))
    assert [sensor.kind for sensor in power.only(Sensors).sensors] == ["external_power", "current", "voltage"]


def test_values_are_read_anew_and_what_vanishes_is_unknown(
    probe: Path, model: ProbeModel, library: Path, tmp_path: Path
) -> None:
    """A rate that changes is followed; a core that goes offline has no rate; the others stay."""
    tree = phone(tmp_path / "sys")
    trials = [Trial(id=number, kind="decode", tokens=CONTEXT) for number in range(20_000)]
    plan = tmp_path / "plan.json"
    plan.write_bytes(codec.encode(model.plan(library, trials, sysfs=str(tree), conditions_hz=500.0)))
    policy = tree / "devices" / "system" / "cpu" / "cpufreq"
    seen: list[tuple[int | None, int | None]] = []
    running = subprocess.Popen([str(probe), "--plan", str(plan), "--events", "-"], stdout=subprocess.PIPE)
    try:
        assert running.stdout is not None
        for line in running.stdout:
            event = json.loads(line)
            if event["event"] != "conditions":
                continue
            seen += zip(event["values"][0], event["values"][4], strict=True)
            if seen[-1] == (1504800, 2541600):
                # In place, as the kernel does: the probe keeps the files open.
                (policy / "policy0" / "scaling_cur_freq").write_text("600000\n")
                (policy / "policy7" / "scaling_cur_freq").write_text("")
            elif seen[-1] == (600000, None):
                break
    finally:
        running.terminate()
        running.wait()
        running.stdout.close()
    assert seen[0] == (1504800, 2541600)
    assert seen[-1] == (600000, None)


def test_proportional_memory(launch, model: ProbeModel, library: Path) -> None:
    outcome = launch(model.plan(library, TRIALS, proportional_hz=200.0))
    at = [moment for event in outcome.all(ProportionalSamples) for moment in event.at_ns]
    assert at
    assert at == sorted(at)
    for event in outcome.all(ProportionalSamples):
        for rss, pss, uss, took in zip(event.rss, event.pss, event.uss, event.took_ns, strict=True):
            assert 0 < uss <= pss <= rss
            assert took > 0
    # Two ways to the same number, at two moments of one process.
    counted = max(rss for event in outcome.all(ProportionalSamples) for rss in event.rss)
    told = max(rss for event in outcome.all(MemorySamples) for rss in event.rss)
    assert 0.5 < counted / told < 2


@pytest.mark.parametrize("key", ["conditions_hz", "power_hz", "proportional_hz"])
def test_a_rate_that_is_none(launch, model: ProbeModel, library: Path, key: str) -> None:
    message = launch(model.plan(library, TRIALS, **{key: 1e6})).refused("plan", 3)
    assert key in message
