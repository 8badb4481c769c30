"""Marks of what changed inside a trial or launch, and none where nothing is known."""

from __future__ import annotations

from dataclasses import dataclass, replace

import msgspec
import pytest

from edgekit.analysis.disturbance import between, marks, others_of, others_share
from edgekit.analysis.load import LaunchData
from edgekit.analysis.warmup import warmup_of, warmup_rounds
from edgekit.schema.event import AnyEvent, ConditionSamples, Hello, Sensor, Sensors, Stream, TrialResult
from edgekit.schema.plan import ExecutorchArtefact, Plan, Trial
from edgekit.schema.run import Conditions, Launch

S = 1_000_000_000
CALM = Conditions(
    at="",
    frequency_limit_khz={"policy0": 2_400_000},
    governor={"policy0": "schedutil"},
    temperature_c={"cpu-thermal": 50.0},
    charging=False,
    plugged=False,
    thermal_status=0,
    memory_available_bytes=4 << 30,
)
SENSORS = [
    Sensor(kind="frequency_limit", name="policy0", unit="kHz", source="a"),
    Sensor(kind="temperature", name="cpu-thermal#0", unit="mC", source="b"),
    Sensor(kind="temperature", name="battery#1", unit="mC", source="c"),
    Sensor(kind="external_power", name="usb", unit="", source="d"),
]

PLAN = Plan(
    schema_version=1,
    bundle="",
    artefact=ExecutorchArtefact(model_path="", context_length=8, vocab=8),
    threads=1,
    affinity=None,
    loads=1,
    trials=[],
    golden=None,
    seed=1,
    memory_hz=0.0,
)


def trial(number: int, start: float, end: float, **changes: int) -> TrialResult:
    start_ns, end_ns = int(start * S), int(end * S)
    return TrialResult(t=end_ns, trial=number, start_ns=start_ns, end_ns=end_ns, token_ns=[end_ns], **changes)


def data(*events: AnyEvent, before: Conditions | None = None, after: Conditions | None = None) -> LaunchData:
    hello = Hello(
        t=0,
        schema_version=1,
        probe_version="",
        runtime="",
        runtime_version="",
        abi="",
        clock="",
        clock_resolution_ns=1,
        unix_ns=0,
        pid=1,
        cpus_online=4,
        page_size=4096,
    )
    launch = Launch(
        index=0,
        directory="launches/000",
        threads=1,
        position=0,
        started_at="",
        status="done",
        exit_code=0,
        before=before,
        after=after,
    )
    return LaunchData(launch, None, Stream(events=[hello, *events], complete=True, faults=[]))


def sampled(rows: list[tuple[float, int | None, int | None, int | None, int | None]]) -> list[AnyEvent]:
    columns = [list(column) for column in zip(*(row[1:] for row in rows), strict=True)]
    at = [int(row[0] * S) for row in rows]
    return [
        Sensors(t=0, sensors=SENSORS, unreadable=[]),
        ConditionSamples(t=at[-1], first=0, at_ns=at, took_ns=[1] * len(at), values=columns),
    ]


def test_only_the_trial_in_which_it_happened_is_marked() -> None:
    rows = [
        (0.0, 2_400_000, 50_000, 30_000, 1),
        (1.0, 2_400_000, 51_000, 30_000, 1),
        (3.0, 2_400_000, 52_000, 60_000, 1),
        (5.0, 1_800_000, 65_000, 60_000, 1),
        (7.0, 1_800_000, 66_000, 60_000, 0),
        (9.0, 1_800_000, 66_000, 60_000, 0),
    ]
    found = marks(data(*sampled(rows), trial(1, 1.5, 2.5), trial(2, 3.5, 4.5), trial(3, 7.5, 8.5)))
    assert {(mark.trial, mark.kind) for mark in found} == {(2, "throttled"), (2, "hotter"), (3, "throttled")}


def test_a_charger_that_is_taken_away_inside_a_trial() -> None:
    rows = [(0.0, None, None, None, 1), (1.0, None, None, None, 1), (3.0, None, None, None, 0)]
    assert [mark.kind for mark in marks(data(*sampled(rows), trial(1, 0.5, 2.5)))] == ["charger"]


def test_missing_samples_and_a_device_that_tells_nothing_give_no_mark() -> None:
    rows = [(0.0, None, None, None, None), (3.0, None, None, None, None)]
    assert marks(data(*sampled(rows), trial(1, 0.5, 2.5))) == []
    nothing = Conditions(at="")
    assert marks(data(trial(1, 0.5, 2.5), before=nothing, after=nothing)) == []
    assert marks(LaunchData(data().launch, None, None, gap="no events")) == []
    assert between(CALM, nothing) == between(nothing, CALM) == []


def test_the_load_of_others_is_what_the_probe_did_not_take() -> None:
    busy = trial(1, 0.0, 1.0, machine_ns=3 * S, cpu_ns=2 * S, stolen_ns=0)
    assert others_share(busy, 4) == pytest.approx(0.25)
    assert [mark.kind for mark in marks(data(busy))] == ["load"]
    assert marks(data(trial(1, 0.0, 1.0, machine_ns=int(2.1 * S), cpu_ns=2 * S))) == []
    stolen = trial(1, 0.0, 1.0, machine_ns=2 * S, cpu_ns=2 * S, stolen_ns=S)
    assert [mark.kind for mark in marks(data(stolen))] == ["load"]
    assert others_share(trial(1, 0.0, 0.01, machine_ns=3 * S, cpu_ns=S), 4) is None
    assert others_share(trial(1, 0.0, 1.0), 4) is None


def test_short_trials_tell_the_load_of_others_together() -> None:
    short = [trial(number, number, number + 0.02, machine_ns=S // 25, cpu_ns=S // 50, stolen_ns=0) for number in (1, 2)]
    assert others_share(short[0], 4) is None
    launch = replace(data(*short), plan=PLAN)
    both = others_of([launch])
    assert (both.trials, both.disturbed) == (2, 0)
    assert both.share == pytest.approx(0.25)
    assert others_of([replace(data(short[0]), plan=PLAN)]).share is None, "eight ticks of ten milliseconds"
    long = replace(data(trial(1, 0, 1, machine_ns=S, cpu_ns=0)), plan=PLAN)
    assert (others_of([long, launch]).trials, others_of([long, launch]).disturbed) == (3, 1)
    assert others_of([replace(launch, plan=msgspec.structs.replace(PLAN, profile=True))]).trials == 0
    assert others_of([data(trial(1, 0.0, 1.0))]).share is None


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"frequency_limit_khz": {"policy0": 1_800_000}}, "throttled"),
        ({"thermal_status": 2}, "throttled"),
        ({"temperature_c": {"cpu-thermal": 65.0}}, "hotter"),
        ({"governor": {"policy0": "powersave"}}, "governor"),
        ({"plugged": True}, "charger"),
        ({"charging": True}, "charger"),
        ({"memory_available_bytes": 100 << 20}, "low memory"),
    ],
)
def test_readings_before_and_after_a_launch(changes: dict[str, object], kind: str) -> None:
    after = msgspec.structs.replace(CALM, **changes)
    [mark] = marks(data(before=CALM, after=after))
    assert (mark.kind, mark.trial) == (kind, None)
    assert between(CALM, CALM) == []


@dataclass
class Timed:
    round: int
    seconds: float


def test_slow_first_rounds_of_all_tests_of_a_kind_are_warm_up() -> None:
    factors = [1.3, 1.1, 1.0, 1.01, 0.99, 1.0, 1.005, 0.995, 1.0, 1.01]
    tests = [[Timed(number, usual * factor) for number, factor in enumerate(factors)] for usual in (0.5, 3.0)]
    assert warmup_rounds(tests) == {0, 1}
    tests[0][5].seconds *= 3
    assert warmup_rounds([[]]) == warmup_rounds([]) == set()
    assert warmup_rounds([[Timed(number, 1.0) for number in range(10)]]) == set()


def test_a_launch_tells_how_much_warm_up_it_needed(tmp_path: object) -> None:
    times = [0.9, 0.5, 0.301, 0.3, 0.299, 0.3]
    trials = [Trial(id=number, kind="prefill", tokens=8, warmup=True) for number in range(6)]
    trials.append(Trial(id=6, kind="decode", tokens=12, warmup=True))
    steps = [0.09, 0.05, 0.05] + [0.0101, 0.01, 0.0099] * 3
    ends = [10.0 + sum(steps[: place + 1]) for place in range(len(steps))]
    decode = TrialResult(
        t=11 * S, trial=6, start_ns=10 * S, end_ns=int(ends[-1] * S), token_ns=[int(end * S) for end in ends]
    )
    events: list[AnyEvent] = [trial(number, number, number + seconds) for number, seconds in enumerate(times)]
    plan = msgspec.convert(
        {
            "schema_version": 1,
            "bundle": "",
            "artefact": {"runtime": "executorch", "model_path": "", "context_length": 64, "vocab": 8},
            "threads": 2,
            "affinity": None,
            "loads": 1,
            "trials": [],
            "golden": None,
            "seed": 0,
            "memory_hz": 0,
        },
        Plan,
    )
    plan = msgspec.structs.replace(plan, trials=trials)
    found = warmup_of(plan, Stream(events=[*events, decode], complete=True, faults=[]))
    assert found is not None
    assert (found.threads, found.prefills, found.tokens) == (2, 2, 3)
    assert warmup_of(plan, Stream(events=events, complete=False, faults=[])) is None
